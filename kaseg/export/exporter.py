"""From a model to a folder with its export: written, compared with the model, and only then put in place."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.best_effort import best_effort
from kaseg.data.scenes import render_scene
from kaseg.export.calibration import CalibrationInputs, mean_iou
from kaseg.export.card import write_card
from kaseg.export.graph import MaskGraph, build_graph, export_program
from kaseg.export.options import ExportOptions
from kaseg.export.packages import require
from kaseg.export.parity import DEFAULT_SIZES, check_parity, noise_batches, parity_batches
from kaseg.export.quantize_onnx import METHODS, CalibrationMethod, choose_method
from kaseg.export.quantize_openvino import quantize_openvino
from kaseg.export.record import RECORD_NAME, write_record
from kaseg.export.runtimes import KASegOnnxModel, KASegOpenVINOModel
from kaseg.export.runtimes.base import ExportedModel
from kaseg.export.runtimes.onnx import ONNX_NAME
from kaseg.export.runtimes.openvino import OPENVINO_NAME
from kaseg.export.to_executorch import load_executorch, write_executorch
from kaseg.export.to_onnx import OPSET, write_onnx
from kaseg.export.to_openvino import write_openvino
from kaseg.export.to_transformers import check_processor, load_transformers, write_transformers
from kaseg.export.to_transformers_js import JS_FILES, write_float16, write_js_configs
from kaseg.finite import require_finite
from kaseg.modeling_kaseg import KASegModel
from kaseg.version import __version__
from kaseg.writing import whole_folder

TORCH_EXPORT_NAME = "model.pt2"
EXECUTORCH_NAME = "model.pte"
_NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch-export": (),
    "executorch": ("executorch.exir",),
    "transformers": (),
    "transformers-js": ("onnx", "onnxscript", "onnxruntime"),
}
_QUANTIZERS = {"openvino": ("nncf",)}
_RUNTIMES: dict[str, type[ExportedModel]] = {
    "onnx": KASegOnnxModel,
    "openvino": KASegOpenVINOModel,
}


class QuantizationLossError(ValueError):
    """Quantisation costs more mean IoU than was allowed; nothing was kept."""


@dataclass(frozen=True)
class Int8Data:
    """What static quantisation needs.

    Args:
        calibration: Dataset whose images (labels are not read) give the ranges of the activations: training images.
        validation: Labelled dataset on which the mean IoU before and after is taken.
        samples: How many images to calibrate on, evenly spread over the dataset.
        methods: Calibration methods to try (ONNX); the one that changes the classes of the calibration images least is
            kept. OpenVINO's quantiser has its own.
        max_loss: Largest loss of mean IoU, in points (hundredths), that is let through. Our choice.
        names: What the two datasets are called in `export.json`, for calibration and validation.

    Raises:
        ValueError: a number is out of range or a method is unknown.
    """

    calibration: Any
    validation: Any
    samples: int = 64
    methods: tuple[CalibrationMethod, ...] = METHODS
    max_loss: float = 1.0
    names: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}.")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {list(self.methods)}.")


def export_model(
    model: KASegModel,
    image_processor: Any,
    output_dir: str | Path,
    options: ExportOptions | None = None,
    int8_data: Int8Data | None = None,
    pictures: Sequence[Image.Image] = (),
    parity_sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    source: str | Path | None = None,
) -> dict[str, Any]:
    """Export a model into a folder of its own and check that the export computes what the model computes.

    The folder appears whole or not at all: it is written under another name beside its place, loaded from there,
    compared with the model on images of two sizes, and then renamed. It holds the model file, `config.json`,
    `preprocessor_config.json`, `export.json` (what was exported, versions, figures) and a card.

    Args:
        model: The model; it stays as it is.
        image_processor: Its image processor.
        output_dir: The folder; it must not exist or be empty.
        options: What to export; by default ONNX in float32, any size, logits.
        int8_data: What `dtype="int8"` needs.
        pictures: Two RGB pictures to compare on. Default: calibration images, or synthetic street scenes. Models of
            another number of channels are compared on noise.
        parity_sizes: (height, width) to compare at; a fixed size is compared there, on two images.
        source: Name or folder of the model, for the card and its licence.

    Returns:
        What `export.json` holds.

    Raises:
        MissingPackageError (an `ImportError`): the format needs a package that is not installed.
        ParityError: the export does not compute what the model computes.
        QuantizationLossError: int8 costs more mean IoU than `int8_data.max_loss`.
        FileExistsError: the folder is there and not empty.
        ValueError: the model cannot be exported so, or int8 without data.
    """
    options = options or ExportOptions()
    if (options.dtype == "int8") != (int8_data is not None):
        raise ValueError("int8 needs a dataset to calibrate on and one to score (int8_data), other types take none.")
    if not isinstance(model, KASegModel):
        raise ValueError(
            f"{type(model).__name__} is not exported by kaseg, a KASegModel is. KASegModel.from_transformers makes one "
            "of a MobileNetV2ForSemanticSegmentation."
        )
    require_finite(model, "The model")
    channels = model.config.num_channels
    if channels != 3 and (options.output == "mask" or options.dtype == "int8"):
        raise ValueError(
            f"The model takes images of {channels} channels; masks in the graph and int8 are for RGB pictures. Export "
            "its logits in float32 or bf16."
        )
    for package in _needs(options):
        require(package, f"for exports to {options.format}")
    model = copy.deepcopy(model).cpu().float().eval()
    facts = _facts(model, options, source)
    calibration = None
    if int8_data is not None:
        calibration = CalibrationInputs(int8_data.calibration, image_processor, options, int8_data.samples)
        pictures = pictures or [calibration.picture(0), calibration.picture(len(calibration) - 1)]
    with whole_folder(Path(output_dir), last=RECORD_NAME) as folder:
        files, how = _write(model, image_processor, folder, options, calibration, int8_data)
        write_record(folder, files, facts)
        written = _load(folder, options, model, facts)
        reference = _reference(model, image_processor, options)
        facts["parity"] = []
        for dtype, (run, _) in written.items():
            if channels == 3:
                shown = list(pictures) or _scenes()
                batches = parity_batches(shown, image_processor, options, parity_sizes)
                if options.format == "transformers":
                    check_processor(folder, image_processor, shown, options)
            else:
                batches = noise_batches(channels, options, parity_sizes)
            facts["parity"] += [p.as_dict() for p in check_parity(reference, run, batches, options, dtype)]
        if int8_data is not None:
            exported = written["int8"][1]
            assert exported is not None
            facts["quantization"] = how | _loss(model, exported, image_processor, options, int8_data)
        write_record(folder, files, facts)
        with best_effort("the card of the export", f"The export itself is in {output_dir}."):
            write_card(folder, facts, source)
    return facts


def _reference(
    model: KASegModel, image_processor: Any, options: ExportOptions
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the exported graph has to compute: for masks, what image processor and model do without it."""
    if options.output == "logits":
        return build_graph(model, image_processor, replace(options, dtype="float32"), fuse=False)
    dtype = MaskGraph(model, image_processor).mask_dtype

    def masks(images: torch.Tensor) -> torch.Tensor:
        pictures = [Image.fromarray(image) for image in images.numpy().astype(np.uint8)]
        outputs = model(**image_processor(pictures, return_tensors="pt"))
        sizes = [(picture.height, picture.width) for picture in pictures]
        found = image_processor.post_process_semantic_segmentation(outputs, sizes)
        return torch.stack(list(found)).to(dtype)

    return masks


def _needs(options: ExportOptions) -> tuple[str, ...]:
    quantizer = _QUANTIZERS.get(options.format, ()) if options.dtype == "int8" else ()
    return (*_NEEDS[options.format], *quantizer)


def _facts(model: KASegModel, options: ExportOptions, source: str | Path | None) -> dict[str, Any]:
    name = None if source is None else (Path(source).resolve().name if Path(source).is_dir() else str(source))
    packages = {need.partition(".")[0] for need in _needs(options)}
    # ExecuTorch has no __version__, and ONNX Runtime is installed under several names.
    versions = {
        package: getattr(sys.modules[package], "__version__", None) or metadata.version(package)
        for package in sorted(packages)
    }
    return {
        "model": name,
        "format": options.format,
        "dtype": options.dtype,
        "output": options.output,
        "image_dtype": options.image_dtype if options.output == "mask" else None,
        "size": list(options.size) if options.size else None,
        "opset": OPSET if options.format == "onnx" else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {"kaseg": __version__, "torch": torch.__version__, **versions},
    }


def _write(
    model: KASegModel,
    image_processor: Any,
    folder: Path,
    options: ExportOptions,
    calibration: CalibrationInputs | None,
    data: Int8Data | None,
) -> tuple[list[str], dict[str, Any]]:
    """Write model, config and image processor; returns the names of the model's files and how it was quantised."""
    if options.format == "transformers":
        return write_transformers(model, image_processor, folder, options), {}
    graph = build_graph(model, image_processor, options)
    program = export_program(graph, model.config.num_channels, options)
    written = _write_model(program, folder, options, calibration, data)
    if options.format == "transformers-js":
        write_js_configs(model.config, image_processor, folder, has_int8=options.dtype == "int8")
    else:
        model.config.save_pretrained(folder)
        image_processor.save_pretrained(folder)
    return written


def _write_model(
    program: torch.export.ExportedProgram,
    folder: Path,
    options: ExportOptions,
    calibration: CalibrationInputs | None,
    data: Int8Data | None,
) -> tuple[list[str], dict[str, Any]]:
    """Write the model's files; returns their names and how it was quantised."""
    if options.format == "torch-export":
        torch.export.save(program, folder / TORCH_EXPORT_NAME)
        return [TORCH_EXPORT_NAME], {}
    if options.format == "executorch":
        write_executorch(program, folder / EXECUTORCH_NAME)
        return [EXECUTORCH_NAME], {}
    how: dict[str, Any] = {}
    if options.format == "transformers-js":
        float_file = folder / JS_FILES["float32"]
        float_file.parent.mkdir()
        write_onnx(program, float_file, options)
        write_float16(float_file, folder / JS_FILES["float16"])
        if calibration is not None and data is not None:
            how = _quantize_onnx(float_file, folder / JS_FILES["int8"], calibration, data)
        return [name for name in JS_FILES.values() if (folder / name).exists()], how
    onnx_file, float_file = folder / ONNX_NAME, folder / "float32.onnx"
    write_onnx(program, float_file, options)
    if options.format == "onnx":
        if calibration is None or data is None:
            float_file.rename(onnx_file)
        else:
            how = _quantize_onnx(float_file, onnx_file, calibration, data)
            float_file.unlink()
        return [ONNX_NAME], how
    file = folder / OPENVINO_NAME
    if calibration is None:
        write_openvino(float_file, file, compress_to_fp16=options.dtype == "bf16")
    else:
        float_xml = folder / "float32.xml"
        write_openvino(float_file, float_xml, compress_to_fp16=False)
        quantize_openvino(float_xml, file, calibration)
        how = {"calibration_method": "nncf mixed"}
        for rest in (float_xml, float_xml.with_suffix(".bin")):
            rest.unlink()
    float_file.unlink()
    return [OPENVINO_NAME, Path(OPENVINO_NAME).with_suffix(".bin").name], how


def _quantize_onnx(float_file: Path, file: Path, calibration: CalibrationInputs, data: Int8Data) -> dict[str, Any]:
    """Write the int8 file; returns how it was made."""
    method, agreement = choose_method(float_file, file, calibration, data.methods)
    return {"calibration_method": method, "class_agreement_of_methods": agreement}


def _load(
    folder: Path, options: ExportOptions, model: KASegModel, facts: dict[str, Any]
) -> dict[str, tuple[Callable[[np.ndarray], np.ndarray], ExportedModel | None]]:
    """What lies in the folder, by the type it computes in: as a function of arrays and, if there is one, as a model."""
    if options.format in _RUNTIMES:
        exported = _RUNTIMES[options.format].from_pretrained(folder)
        return {options.dtype: (exported.run, exported)}
    if options.format == "transformers-js":
        files = {dtype: name for dtype, name in JS_FILES.items() if (folder / name).exists()}
        models = {dtype: KASegOnnxModel(folder, model.config, facts, file=name) for dtype, name in files.items()}
        return {dtype: (exported.run, exported) for dtype, exported in models.items()}
    if options.format == "torch-export":
        module: Any = torch.export.load(folder / TORCH_EXPORT_NAME).module()
    elif options.format == "executorch":
        module = load_executorch(folder / EXECUTORCH_NAME)
    else:
        module = load_transformers(folder)

    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(inputs)).numpy()

    return {options.dtype: (run, None)}


def _loss(
    model: KASegModel, exported: ExportedModel, image_processor: Any, options: ExportOptions, data: Int8Data
) -> dict[str, Any]:
    """Mean IoU before and after, and what it was taken on."""
    before = mean_iou(model, data.validation, image_processor, options)
    after = mean_iou(exported, data.validation, image_processor, options)
    loss = 100 * (before - after)
    if not loss <= data.max_loss:
        raise QuantizationLossError(
            f"int8 costs {loss:.2f} points of mean IoU ({100 * before:.2f} before, {100 * after:.2f} after), allowed "
            f"are {data.max_loss:g}. Nothing was kept. Calibrate on more or other images (--calibration-samples, "
            "--calibration-split), or let more through (--max-loss)."
        )
    calibration_name, validation_name = data.names or (None, None)
    return {
        "mean_iou_before": before,
        "mean_iou_after": after,
        "loss_in_points": loss,
        "validation": validation_name,
        "validation_samples": len(data.validation),
        "calibration": calibration_name,
        "calibration_samples": min(data.samples, len(data.calibration)),
    }


def _scenes() -> list[Image.Image]:
    return [Image.fromarray(render_scene(seed=0, index=index)[0]) for index in range(2)]
