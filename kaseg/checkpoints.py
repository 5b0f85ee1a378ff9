"""The checkpoints that ship with the package: their names and where they lie. Standard library only."""

from pathlib import Path

NAMESPACE = "kaseg"
# What is used where no model is named: of the shipped students at stride 16, the one that scores best on validation.
DEFAULT_MODEL = "kaseg/mobilenetv2-os16-voc-animals-logits"
REQUIRED_FILES = ("config.json", "model.safetensors")
PACKAGE_DIR = Path(__file__).resolve().parent


def _root() -> Path:
    """Folder of the checkpoints: inside the package (wheel) or beside it (a checkout, editable install)."""
    inside = PACKAGE_DIR / "hub_configs"
    return inside if inside.is_dir() else PACKAGE_DIR.parent / "hub_configs"


def list_models() -> list[str]:
    """Names of the shipped checkpoints, sorted, each as `"kaseg/<repo>"`.

    A folder under `hub_configs/` counts when it holds both `config.json` and `model.safetensors`.
    """
    root = _root()
    if not root.is_dir():
        return []
    complete = (folder for folder in root.iterdir() if all((folder / name).is_file() for name in REQUIRED_FILES))
    return sorted(f"{NAMESPACE}/{folder.name}" for folder in complete)


def list_families() -> list[Path]:
    """The recipes of whole families of models, sorted: the YAML files of `hub_configs/`, for `kaseg compare`."""
    return sorted(_root().glob("*.yaml"))


def is_shipped(name: str) -> bool:
    """Whether `name`, as `"kaseg/<repo>"` or `"<repo>"`, is a checkpoint that ships with the package; `False` for any
    other string (another namespace, a path, an unknown repo)."""
    return _full_name(name) in list_models()


def checkpoint_path(name: str) -> Path:
    """Folder of a shipped checkpoint, for any `from_pretrained` and for `transformers.pipeline`.

    Args:
        name (`str`): `"kaseg/<repo>"` or `"<repo>"`.

    Returns:
        `pathlib.Path`: an absolute folder with at least `config.json` and `model.safetensors`.

    Raises:
        LookupError: if no checkpoint of that name ships with this version; the message lists those that do.

    Example:

    ```python
    >>> import kaseg
    >>> from transformers import AutoModelForSemanticSegmentation
    >>> folder = kaseg.checkpoint_path("kaseg/mobilenetv2-os16-camvid-ka")
    >>> model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    ```
    """
    shipped = list_models()
    full_name = _full_name(name)
    if full_name not in shipped:
        names = ", ".join(shipped) if shipped else f"none (no folder in {_root()} holds {' and '.join(REQUIRED_FILES)})"
        raise LookupError(
            f"No checkpoint named {name!r} ships with kaseg. Shipped: {names}. "
            "For a model on the Hub or in a folder, pass its id or path to KASegModel.from_pretrained instead."
        )
    return _root() / full_name.removeprefix(f"{NAMESPACE}/")


def hub_config_folder(name: str) -> Path:
    """The folder under `hub_configs/` of `"kaseg/<repo>"` or `"<repo>"`, whether it holds weights or not; a
    FileNotFoundError that says which there are, and how others are trained, if there is none."""
    folder = _root() / _full_name(name).removeprefix(f"{NAMESPACE}/")
    if not folder.is_dir():
        families = ", ".join(file.name for file in list_families()) or "none"
        raise FileNotFoundError(
            f"No folder {name!r} here, nor in {_root()}. Those with weights: {list_models()}. Models that are not "
            f"trained yet have no folder; kaseg compare trains them by the recipes of their families: {families}."
        )
    return folder


def resolve(name: str | Path) -> str:
    """What to hand to `from_pretrained`: the folder of a shipped checkpoint, anything else as it is.

    A local folder of the same name goes first, as everywhere in transformers; names that do not ship are left to be
    looked up on the Hub. Only full names count here: "<repo>" alone could be anybody's.
    """
    name = str(name)
    if name.startswith(f"{NAMESPACE}/") and not Path(name).is_dir() and is_shipped(name):
        return str(checkpoint_path(name))
    return name


def _full_name(name: str) -> str:
    return name if "/" in name else f"{NAMESPACE}/{name}"
