"""From the folder of a checkpoint to a repository on the Hub."""

import json
import tempfile
from pathlib import Path

from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from safetensors.torch import load_file

from kaseg.checkpoints import NAMESPACE, hub_config_folder, resolve
from kaseg.configuration_kaseg import KASegConfig
from kaseg.finite import require_finite_tensors
from kaseg.hub.remote_code import with_code as add_code
from kaseg.model_card.published_files import published_files
from kaseg.model_card.results import RESULTS_NAME
from kaseg.model_card.sources import CARD_NAME
from kaseg.uploading import Destination, upload


def files_to_push(folder: str | Path, with_code: bool = False) -> dict[str, Path | bytes]:
    """Finds what is sent of a checkpoint: path in the repository -> file or content.

    Args:
        folder (`str` or `Path`): The `output_dir` of a run, a folder of `save_pretrained` or a shipped checkpoint.
        with_code (`bool`, defaults to `False`): Add our model files, see [`~kaseg.hub.remote_code.with_code`].

    Raises:
        FileNotFoundError: no such folder, or it lacks the config or the weights.
        ValueError: another kind of model, or weights that are damaged or not finite.
    """
    path = Path(resolve(folder))
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder. Give the output_dir of a run or a shipped checkpoint.")
    files = published_files(path)
    weights = [name for name in files if name.endswith(".safetensors")]
    if "config.json" not in files or not weights:
        missing = "weights (model.safetensors)" if "config.json" in files else "config.json"
        raise FileNotFoundError(
            f"{path} is no checkpoint: it lacks {missing}. Train a model first, or save one there with save_pretrained."
        )
    model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != KASegConfig.model_type:
        raise ValueError(f"{path} holds a model of type {model_type!r}; only {KASegConfig.model_type!r} is pushed.")
    for name in weights:
        try:
            tensors = load_file(path / name)
        except SafetensorError as error:
            raise ValueError(f"{path / name} is damaged or cut off ({error}). Save the model again.") from error
        require_finite_tensors(tensors, f"The model {path / name}")
    return add_code(files) if with_code else files


def files_as_transformers(folder: str | Path, size: tuple[int, int] | None = None) -> dict[str, Path | bytes]:
    """Finds what is sent of a checkpoint that becomes one of transformers' own, which loads without kaseg.

    Args:
        folder (`str` or `Path`): As in [`files_to_push`].
        size (`tuple[int, int]`, *optional*): (height, width) to which the image processor resizes; models with
            `pad_to_stride` need it.

    Raises:
        FileNotFoundError: as for [`files_to_push`].
        ValueError: as for [`files_to_push`], or transformers has no such network.
    """
    from kaseg.export import ExportOptions, export_model
    from kaseg.image_processing_kaseg import KASegImageProcessor
    from kaseg.modeling_kaseg import KASegModel

    files_to_push(folder)  # that it is a checkpoint
    model, processor = KASegModel.from_pretrained(folder), KASegImageProcessor.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "transformers"
        export_model(model, processor, written, ExportOptions("transformers", size=size), source=folder)
        return {file.name: file.read_bytes() for file in sorted(written.iterdir())}


def push(
    folder: str | Path, destination: Destination, message: str = "Upload model", with_code: bool = False
) -> CommitInfo:
    """Sends a checkpoint to the Hub in one commit; the repository and the branch are made if they are missing.

    Args:
        folder, with_code: As in [`files_to_push`], with its errors.
        destination ([`~kaseg.uploading.Destination`]): Where to.
        message (`str`, defaults to `"Upload model"`): Commit message.

    Raises:
        UploadError: it could not be sent; the message says what to do.
    """
    return upload(files_to_push(folder, with_code), destination, message)


def checkpoint_to_publish(name: str | Path) -> tuple[Path, str]:
    """Finds the folder of one of the checkpoints under `hub_configs/` and its name on the Hub, `"kaseg/NAME"`.

    Args:
        name (`str` or `Path`): `"hub_configs/NAME"`, another path to such a folder, `"NAME"` or `"kaseg/NAME"`.

    Raises:
        FileNotFoundError: no such folder, or it lacks weights, card or results: what was not trained is not published.
    """
    folder = Path(name) if Path(name).is_dir() else hub_config_folder(str(name))
    files = files_to_push(folder)
    missing = [needed for needed in (CARD_NAME, RESULTS_NAME) if needed not in files]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: a checkpoint is published with its card and its scores. "
            "kaseg.hub.write_checkpoint_folder writes both from a finished run; kaseg push sends a folder as it is."
        )
    return folder, f"{NAMESPACE}/{folder.resolve().name}"
