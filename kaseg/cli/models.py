"""Loading of checkpoints for the commands that use them."""

from pathlib import Path
from typing import Any

import torch

from ..checkpoints import checkpoint_path, is_shipped
from ..image_processing_kaseg import KASegImageProcessor
from .output import plain_console


def load_model(name: str, device: str | None) -> tuple[Any, Any]:
    """A checkpoint's model, on `device` (see [`on_device`]; exports run on the CPU), and its image processor: ours, or
    any semantic segmentation model that transformers knows. Safetensors alone are read, and no code of a repository is
    run. `name` is a Hub id, folder or shipped checkpoint, of which a folder here goes first; or the folder of an
    export.

    Raises:
        OSError: there is no such checkpoint, or it lacks weights of the model.
        ValueError: it is no model for semantic segmentation, or the device cannot be used.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation

    from ..configuration_kaseg import KASegConfig
    from ..export.record import RECORD_NAME, read_record
    from ..loading_errors import explained_loading, require_all_weights
    from ..modeling_kaseg import KASegModel

    source = str(checkpoint_path(name)) if is_shipped(name) and not Path(name).is_dir() else name
    if not Path(source).is_dir() and (Path(source).is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise FileNotFoundError(f"{source}: no such folder. Give a folder, a Hub id or one of those of kaseg list.")
    record = Path(source) / RECORD_NAME
    if record.is_file() and read_record(record)["format"] != "transformers":
        if device not in (None, "cpu"):
            raise ValueError(f"{source} is an export, and these run on the CPU here: leave --device {device} out.")
        return _load_export(source), _load_processor(source)
    # False everywhere, as transformers would otherwise ask on the terminal whether to run a repository's code.
    with explained_loading(source):
        is_ours = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type == KASegConfig.model_type
        model: Any
        if is_ours:
            loaded = KASegModel.from_pretrained(source, output_loading_info=True)
            model, processor = require_all_weights(loaded, source), _load_processor(source)  # type: ignore[arg-type]
        else:
            loaded = AutoModelForSemanticSegmentation.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            model = require_all_weights(loaded, source).eval()
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    return on_device(model, device), processor


def on_device(model: Any, device: str | None) -> Any:
    """The model, moved to `device` (default: the GPU, if there is one, of a distributed run this process's); a
    ValueError if nothing can be computed there."""
    from ..evaluation.processes import local_device

    device = device or local_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        (torch.ones(1, device=device) + 1).item()  # "meta" takes a model, too
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"The device {device!r} cannot be used (cpu, cuda, cuda:1, mps, ...): {first_line}") from error


def _load_export(source: str) -> Any:
    from ..export.record import RECORD_NAME, read_record
    from ..export.runtimes import RUNTIMES

    record = read_record(Path(source) / RECORD_NAME)
    kind = record["format"]
    if record["output"] != "logits":
        raise ValueError(
            f"{source} is an export with --output mask, and this command needs logits: export the model once more with "
            "--output logits."
        )
    if kind not in RUNTIMES:
        raise ValueError(f"{source} is an export for {kind}; those that run here are {', '.join(RUNTIMES)}.")
    return RUNTIMES[kind].from_pretrained(source)


def _load_processor(source: str) -> KASegImageProcessor:
    try:
        return KASegImageProcessor.from_pretrained(source)
    except OSError:
        notice = f"{source} has no image processor; the default one is used (ImageNet mean and std, no resizing)."
        plain_console(stderr=True).print(notice, style="yellow", soft_wrap=True)
        return KASegImageProcessor()
