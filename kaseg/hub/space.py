"""The demo as a Space: what a repository on the Hub needs to run the page of `kaseg demo` for everyone."""

import importlib.metadata
import platform
from pathlib import Path

from huggingface_hub import ModelCard, SpaceCardData
from packaging.requirements import Requirement
from transformers import AutoConfig

from kaseg.checkpoints import PACKAGE_DIR, is_shipped
from kaseg.hub.push import files_to_push
from kaseg.loading_errors import explained_loading
from kaseg.model_card.sources import CARD_NAME

_APP = '''"""The page of `kaseg demo`, as a Space runs it. Made by `kaseg push --space`."""

import os
from pathlib import Path

from kaseg.cli.demo import demo

os.chdir(Path(__file__).parent)
demo(
    [{model!r}],
    host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
)
'''
_BODY = """
# {title}

Semantic segmentation with `{title}`: drop a photo, take one with the camera, or choose a video.

The page is that of `kaseg demo`. `kaseg/` holds the package that it runs on (Apache-2.0).
"""
# Spaces have no GPU unless one is rented, and the CPU build of torch is a tenth of the other.
_CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"
# Of the package: leftovers, and our own checkpoints where they lie in it.
_NOT_SENT = {"__pycache__", "hub_configs"}


def files_for_space(model: str | Path) -> dict[str, Path | bytes]:
    """What is sent to a Space (path in the repository -> file or content): `app.py`, its requirements and card, the
    model if it is a folder, and the package itself, so that the Space runs the very code that was tried here.

    Args:
        model (`str` or `Path`): Folder of a checkpoint or a shipped checkpoint, which is sent along; or the id of a
            model on the Hub, which the Space then loads from there.

    Raises:
        ImportError: Gradio is not installed, whose version the Space is to run.
        FileNotFoundError, ValueError: the folder is no checkpoint of ours, see [`~kaseg.hub.files_to_push`].
        CheckpointError: there is no such model on the Hub.
    """
    files: dict[str, Path | bytes] = {}
    card = SpaceCardData(sdk="gradio", sdk_version=_gradio_version(), app_file="app.py", tags=["kaseg"])
    card.python_version = ".".join(platform.python_version_tuple()[:2])
    if Path(model).is_dir() or is_shipped(str(model)):
        sent = files_to_push(model)
        title = Path(sent["config.json"]).resolve().parent.name  # type: ignore[arg-type]  # a file, never content
        name = f"models/{title}"
        files |= {f"{name}/{path}": file for path, file in sent.items()}
        if CARD_NAME in sent:
            card.license = ModelCard.load(sent[CARD_NAME]).data.get("license")  # type: ignore[arg-type]  # a file
    else:
        name = title = str(model)
        with explained_loading(name):  # before a Space is made that cannot start
            AutoConfig.from_pretrained(name, trust_remote_code=False)
        card.models = [name]
    card.title = title.rpartition("/")[2]
    files["README.md"] = f"---\n{card.to_yaml()}\n---\n{_BODY.format(title=title)}".encode()
    files["app.py"] = _APP.format(model=name).encode()
    files["requirements.txt"] = "\n".join([_CPU_TORCH, *_requirements()]).encode() + b"\n"
    package = [path for path in sorted(PACKAGE_DIR.rglob("*")) if path.is_file()]
    parts = {path: path.relative_to(PACKAGE_DIR).parts for path in package}
    files |= {"/".join(("kaseg", *parts[path])): path for path in package if not {*parts[path]} & _NOT_SENT}
    return files


def _requirements() -> list[str]:
    """What kaseg needs, videos included; Gradio comes with the Space."""
    requirements = map(Requirement, importlib.metadata.requires("kaseg") or [])
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": "video"})
    ]


def _gradio_version() -> str:
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("A Space runs the Gradio that is installed here: pip install 'kaseg[demo]'.") from error
