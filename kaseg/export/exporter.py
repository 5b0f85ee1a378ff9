"""From a model to a folder with its export: written, compared with the model, and only then put in place."""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kaseg.best_effort import best_effort
from kaseg.data.scenes import render_scene
from kaseg.evaluation.cost import parameter_count
from kaseg.export.calibration import CalibrationInputs, Int8Data, loss_of_int8
from kaseg.export.card import write_card
from kaseg.export.formats import load_export, needs, write_program
from kaseg.export.graph import MaskGraph, build_graph, export_program
from kaseg.export.options import ExportOptions
from kaseg.export.packages import require
from kaseg.export.parity import DEFAULT_SIZES, check_parity, noise_batches, parity_batches
from kaseg.export.record import RECORD_NAME, write_record
from kaseg.export.to_onnx import OPSET
from kaseg.export.to_transformers import check_processor, plain_processor, write_transformers
from kaseg.export.to_transformers_js import write_js_configs
from kaseg.finite import require_finite
from kaseg.modeling_kaseg import KASegModel
from kaseg.version import __version__
from kaseg.writing import whole_folder


def export_model(
    model: KASegModel,
    image_processor: Any,
    output_dir: str | Path,
    options: ExportOptions | None = None,
    int8_data: Int8Data | None = None,
    parity_sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    source: str | Path | None = None,
) -> dict[str, Any]:
    """Export a model into a folder of its own and check that the export computes what the model computes.

    The folder appears whole or not at all: it is written under another name beside its place, loaded from there,
    compared with the model on images of two sizes (two to calibrate on, or synthetic street scenes; noise where they
    are not RGB), and then renamed. It holds the model file, `config.json`,
    `preprocessor_config.json`, `export.json` (what was exported, versions, figures) and a card.

    Args:
        model: The model; it stays as it is.
        image_processor: Its image processor.
        output_dir: The folder; it must not exist or be empty.
        options: What to export; by default ONNX in float32, any size, logits.
        int8_data: What `dtype="int8"` needs.
        parity_sizes: (height, width) to compare at; a fixed size is compared there, on two images.
        source: Name or folder of the model, for the card and its license.

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
    for package in needs(options):
        require(package, f"for exports to {options.format}")
    model = copy.deepcopy(model).cpu().float().eval()
    facts = _facts(model, options, source)
    calibration = None
    if int8_data is not None:
        calibration = CalibrationInputs(int8_data, image_processor, options)
    with whole_folder(Path(output_dir), last=RECORD_NAME) as folder:
        files, how = _write(model, image_processor, folder, options, calibration)
        write_record(folder, files, facts)
        exported = load_export(folder, options, model.config, facts)
        reference = _reference(model, image_processor, options)
        facts["parity"] = []
        for dtype, loaded in exported.items():
            if channels == 3:
                if calibration is not None:
                    shown = [calibration.picture(0), calibration.picture(len(calibration) - 1)]
                else:
                    shown = [Image.fromarray(render_scene(seed=0, index=index)[0]) for index in range(2)]
                batches = parity_batches(shown, image_processor, options, parity_sizes)
                if options.format == "transformers":
                    check_processor(folder, image_processor, shown, options)
            else:
                batches = noise_batches(channels, options, parity_sizes)
            facts["parity"] += map(asdict, check_parity(reference, loaded.run, batches, options, dtype))
        if int8_data is not None:
            loss = loss_of_int8(model, exported["int8"], image_processor, options, int8_data)
            facts["quantization"] = how | loss
        write_record(folder, files, facts)
        with best_effort("the card of the export", f"The export itself is in {output_dir}."):
            write_card(folder, facts, source)
    return facts


def _reference(
    model: KASegModel, image_processor: Any, options: ExportOptions
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the exported graph has to compute: for masks, what image processor and model do without it.

    Pillow resizes, rows first: torchvision, which the processor uses, differs by 1 in some bytes, and so in some masks.
    """
    if options.output == "logits":
        return build_graph(model, image_processor, replace(options, dtype="float32"), fuse=False)
    dtype = MaskGraph(model, image_processor).mask_dtype

    def masks(images: torch.Tensor) -> torch.Tensor:
        pictures = [Image.fromarray(image) for image in images.numpy().astype(np.uint8)]
        prepared = image_processor(pictures, return_tensors="pt")
        if image_processor.do_resize:
            height, width = prepared["pixel_values"].shape[-2:]
            # In two calls, since Pillow 13 begins with the columns where that is less work, which rounds otherwise.
            rows = [picture.resize((width, picture.height), Image.Resampling.BILINEAR) for picture in pictures]
            resized = [picture.resize((width, height), Image.Resampling.BILINEAR) for picture in rows]
            prepared = image_processor(resized, do_resize=False, return_tensors="pt")
        outputs = model(**prepared)
        sizes = [(picture.height, picture.width) for picture in pictures]
        found = image_processor.post_process_semantic_segmentation(outputs, sizes)
        return torch.stack(list(found)).to(dtype)

    return masks


def _facts(model: KASegModel, options: ExportOptions, source: str | Path | None) -> dict[str, Any]:
    name = None if source is None else (Path(source).resolve().name if Path(source).is_dir() else str(source))
    packages = {need.partition(".")[0] for need in needs(options)}
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
        "parameters": parameter_count(model),
        "versions": {"kaseg": __version__, "torch": torch.__version__, **versions},
    }


def _write(
    model: KASegModel, image_processor: Any, folder: Path, options: ExportOptions, calibration: CalibrationInputs | None
) -> tuple[list[str], dict[str, Any]]:
    """Write model, config and image processor; returns the names of the model's files and how it was quantized."""
    if options.format == "transformers":
        return write_transformers(model, image_processor, folder, options), {}
    if options.format == "transformers-js":
        plain_processor(image_processor)  # refuses what it cannot do before minutes of tracing
    graph = build_graph(model, image_processor, options)
    program = export_program(graph, model.config.num_channels, options)
    written = write_program(program, folder, options, calibration)
    if options.format == "transformers-js":
        write_js_configs(model.config, image_processor, folder, has_int8=options.dtype == "int8")
    else:
        model.config.save_pretrained(folder)
        image_processor.save_pretrained(folder)
    return written
