"""What the runtimes of exported models share: loading, the model's interface, saving and publishing."""

import contextlib
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from huggingface_hub import CommitInfo, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from kaseg.checkpoints import resolve
from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.record import CONFIG_NAME, PROCESSOR_NAME, RECORD_NAME, check_files, read_record
from kaseg.loading_errors import explained_loading
from kaseg.uploading import Destination, upload

_CARD_NAME = "README.md"


class ExportedModel(nn.Module):
    """An exported model with the interface of [`KASegModel`]; its subclasses name the engine.

    It is used where a model is: called with `pixel_values` it gives `logits`, with `config` beside them, so that
    [`KASegImageProcessor`], [`~kaseg.inference.Predictor`] and [`~kaseg.evaluation.evaluator.evaluate_model`] take it.
    Exports with the mask in the graph are called through [`~ExportedModel.masks`]. `export_record` is what
    `export.json` in the `folder` of the export holds.
    """

    format: ClassVar[str]
    main_input_name = "pixel_values"

    def __init__(self, folder: Path, config: KASegConfig, record: dict[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.config = config
        self.export_record = record
        # Code for torch models asks the first parameter where inputs go and in which type.
        self.placeholder = nn.Parameter(torch.empty(0), requires_grad=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and logits are put; what the engine computes on is the engine's own matter."""
        return self.placeholder.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of inputs and logits."""
        return self.placeholder.dtype

    @abstractmethod
    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The graph's output for its input."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        **engine_options: Any,
    ) -> Self:
        """Load an export from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: Folder that `kaseg export` wrote, or id of a repository that holds its files.
            revision: Branch, tag or commit.
            token: Instead of the one of `hf auth login` or `HF_TOKEN`.
            cache_dir: The cache, if it is not the usual one.
            **engine_options: The engine's own, see the class.

        Raises:
            MissingPackageError (an `ImportError`): the engine is not installed.
            OSError: no such folder or repository, or no export in it.
            ValueError: an export for another engine, or a damaged file.
            TypeError: an option that the engine does not take.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(resolve(name))
        if not folder.is_dir():
            if "/" not in name:
                raise FileNotFoundError(f"{name}: no such folder, and no id of a repository (namespace/name) either.")
            folder = _download(name, revision, token, cache_dir)
        if not (folder / RECORD_NAME).is_file():
            raise FileNotFoundError(_no_export(name))
        record = read_record(folder / RECORD_NAME)
        if record["format"] != cls.format:
            raise ValueError(
                f"{name} is an export for {record['format']}, not for {cls.format}. Export the model again with "
                f"--format {cls.format}, or load it with what reads {record['format']}."
            )
        check_files(folder, record)
        return cls(folder, KASegConfig.from_pretrained(folder), record, **engine_options)

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None
    ) -> SemanticSegmenterOutput | tuple[torch.Tensor]:
        """Segment a batch of images, as [`KASegModel`] does.

        Args:
            pixel_values (`torch.FloatTensor` of shape (B, num_channels, H, W)): Normalized images.
            return_dict (`bool`, *optional*): `False` returns a plain tuple.

        Raises:
            TypeError: the input is no tensor.
            ValueError: the export gives masks, or the input has another type or shape than the graph takes.
        """
        if self.export_record["output"] != "logits":
            raise ValueError(
                "This export takes images and gives masks: call model.masks(images). For logits, export with "
                "--output logits."
            )
        if not isinstance(pixel_values, torch.Tensor):
            raise TypeError(
                f"pixel_values must be a tensor, got {type(pixel_values).__name__}: KASegImageProcessor makes one of "
                "pictures, processor(image, return_tensors='pt')."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floating point (normalized by KASegImageProcessor), got {pixel_values.dtype}."
            )
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or not pixel_values.numel():
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, height, width), got {tuple(pixel_values.shape)}."
            )
        self._check_size(len(pixel_values), (pixel_values.shape[2], pixel_values.shape[3]))
        inputs = np.ascontiguousarray(pixel_values.detach().to("cpu", torch.float32).numpy())
        logits = torch.from_numpy(self.run(inputs)).to(pixel_values.device)
        if return_dict is False:
            return (logits,)
        return SemanticSegmenterOutput(logits=logits)

    def masks(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Masks of images by the graph alone, for exports with `--output mask`.

        Args:
            images: (B, H, W, num_channels), values 0..255, of the type the graph takes (uint8 unless exported
                otherwise); or a list of PIL images or arrays of one size.

        Returns:
            Class ids (B, H, W), uint8 (int32 above 256 classes).

        Raises:
            TypeError: the images are neither an array nor a list.
            ValueError: the export gives logits, there is no image, they are of several sizes, or they have another type
                or shape than the graph takes.
        """
        if self.export_record["output"] != "mask":
            raise ValueError(
                "This export gives logits: call the model, then post_process_semantic_segmentation of its image "
                "processor. For masks out of the graph, export with --output mask."
            )
        batch = images if isinstance(images, np.ndarray) else _stacked(images)
        channels, expected = self.config.num_channels, self.export_record["image_dtype"]
        if batch.ndim != 4 or batch.shape[-1] != channels or not batch.size:
            raise ValueError(
                f"images must have shape (batch, height, width, {channels}), got {batch.shape}. Pictures that are gray "
                "or transparent: image.convert('RGB')."
            )
        if batch.dtype != np.dtype(expected):
            raise ValueError(f"This export takes {expected} images with values in 0..255, got {batch.dtype}.")
        self._check_size(len(batch), (batch.shape[1], batch.shape[2]))
        return self.run(np.ascontiguousarray(batch))

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Copy the export into a folder (and send it to the Hub: `repo_id=` and the rest as in `push_to_hub`)."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        for name, file in self._files().items():
            if not (target / name).exists() or not file.samefile(target / name):
                shutil.copyfile(file, target / name)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", target.resolve().name), **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload export",
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | None = None,
    ) -> CommitInfo:
        """Send the export to the Hub in one commit; the repository is made if it is missing.

        Raises:
            UploadError: it could not be sent; the message says what to do.
        """
        destination = Destination(repo_id, "model", private, revision, create_pr, token)
        return upload(dict(self._files()), destination, commit_message)

    def _files(self) -> dict[str, Path]:
        names = [CONFIG_NAME, PROCESSOR_NAME, RECORD_NAME, _CARD_NAME, *self.export_record["files"]]
        return {name: self.folder / name for name in names if (self.folder / name).is_file()}

    def _check_size(self, batch: int, size: tuple[int, int]) -> None:
        fixed = self.export_record.get("size")
        if fixed is not None and (batch != 1 or size != tuple(fixed)):
            raise ValueError(
                f"This export takes one image of (height, width) {tuple(fixed)} at a time, got {batch} of {size}. "
                "Resize to it, or export for the size of your images (--size); ONNX and OpenVINO can do without a size."
            )


def check_threads(threads: int | None) -> None:
    """Raises a `ValueError` for a number of threads that no engine can take."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, or None for the engine's own choice, got {threads}.")


def _stacked(images: Sequence[Any]) -> np.ndarray:
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise TypeError(
            f"images must be an array (batch, height, width, channels) or a list of pictures, got "
            f"{type(images).__name__}. For a single one: masks([image])."
        )
    arrays = [np.asarray(image) for image in images]
    if not arrays or any(array.dtype.kind not in "uif" for array in arrays):
        raise ValueError(f"images must be PIL images or arrays of numbers, at least one, got {list(images)!r:.200}.")
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"Images of one call must have one size and mode, got arrays of the shapes {shapes}.")
    return np.stack(arrays)


def _download(name: str, revision: str | None, token: str | bool | None, cache_dir: str | Path | None) -> Path:
    """The folder in the cache, with the files of the export in it."""

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, token=token, cache_dir=cache_dir))

    with explained_loading(name, revision, cache_dir):
        try:
            record_file = fetch(RECORD_NAME)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            raise FileNotFoundError(_no_export(name)) from error
        for file in (CONFIG_NAME, *read_record(record_file)["files"]):
            fetch(file)
        for file in (PROCESSOR_NAME, _CARD_NAME):
            with contextlib.suppress(EntryNotFoundError):  # the processor's own from_pretrained says so
                fetch(file)
    return record_file.parent


def _no_export(name: str) -> str:
    return f"{name} holds no export of kaseg (no {RECORD_NAME}). Make one: kaseg export MODEL --output-dir FOLDER."
