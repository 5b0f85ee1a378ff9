"""`kaseg export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..export.options import Dtype, Format, ImageDtype, Output
from . import common

if TYPE_CHECKING:
    from ..export import Int8Data


class Calibration(StrEnum):
    """How the ranges of activations are found."""

    AUTO = "auto"
    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


_INT8 = "int8 (static post-training quantization)"


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or shipped checkpoint.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the export; made, and must not hold anything yet.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    dtype: Annotated[Dtype, typer.Option(help="bf16: OpenVINO and torch-export; int8: ONNX, OpenVINO, LiteRT, JS.")] = (
        "float32"
    ),
    output: Annotated[
        Output, typer.Option(help="logits: the model alone; mask: images in, masks out, all in the graph.")
    ] = "logits",
    image_dtype: Annotated[
        ImageDtype, typer.Option(help="Images that a mask graph takes; values are 0..255 either way.")
    ] = "uint8",
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHT,WIDTH", help="Fix the input size, in pixels; any size by default.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset to calibrate and to score on: name or folder.", rich_help_panel=_INT8)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of a named dataset.", rich_help_panel=_INT8)] = None,
    label_space: Annotated[
        str | None, typer.Option(help="File of class names or a known dataset.", rich_help_panel=_INT8)
    ] = None,
    calibration_split: Annotated[str, typer.Option(help="Images to calibrate on.", rich_help_panel=_INT8)] = "train",
    validation_split: Annotated[
        str, typer.Option(help="Where the mean IoU before and after is taken.", rich_help_panel=_INT8)
    ] = "validation",
    calibration_samples: Annotated[
        int, typer.Option(min=1, help="Number of images to calibrate on.", rich_help_panel=_INT8)
    ] = 64,
    calibration: Annotated[
        Calibration, typer.Option(help="ONNX: how ranges are found; auto tries all three.", rich_help_panel=_INT8)
    ] = Calibration.AUTO,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Score on the first N images only.", rich_help_panel=_INT8)
    ] = None,
    max_loss: Annotated[
        float, typer.Option(help="Refuse above this loss of mean IoU, in points.", rich_help_panel=_INT8)
    ] = 1.0,
) -> None:
    """Export a model and check that the export computes what the model computes; if not, nothing is kept."""
    from ..export import ExportOptions, export_model
    from .models import load_model
    from .output import console

    options = ExportOptions(format, dtype, output, image_dtype, common.parse_size("--size", size))
    _refuse_unused(context, format, dtype, output)
    network, processor = load_model(model, "cpu")
    data = None
    if dtype == "int8":
        if dataset is None:
            raise ValueError("int8 is calibrated and scored on a dataset: give --dataset (and --data-dir).")
        if calibration_split == validation_split:
            raise ValueError(
                "int8 would be calibrated on the images it is scored on: --calibration-split and --validation-split "
                f"are both {validation_split!r}. Give two splits."
            )
        where = (dataset, data_dir, label_space, calibration_split, validation_split, max_samples)
        data = _int8_data(network, where, calibration_samples, calibration, max_loss)
    facts = export_model(network, processor, output_dir, options, data, source=model)
    _print(facts)
    console.print(f"Export: {output_dir.resolve()}", soft_wrap=True)


def _refuse_unused(context: typer.Context, format: Format, dtype: Dtype, output: Output) -> None:
    """Raises a ValueError that names what was given and would change nothing."""
    unused = set() if output == "mask" else {"image_dtype"}
    if dtype != "int8":
        unused |= {option.name for option in context.command.params if getattr(option, "rich_help_panel", "") == _INT8}
    elif format not in ("onnx", "transformers-js"):
        unused.add("calibration")
    names = [option.name for option in context.command.params if option.name in unused]
    given = [f"--{name.replace('_', '-')}" for name in names if name and _is_given(context, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)} would change nothing here. --image-dtype is for --output mask, --calibration "
            "for int8 in ONNX and transformers.js, the options of datasets, splits and losses for --dtype int8."
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _int8_data(network: Any, where: Any, samples: int, calibration: Calibration, max_loss: float) -> Int8Data:
    from ..data import get_label_space
    from ..export import Int8Data
    from ..export.quantize_onnx import METHODS

    dataset, data_dir, label_space, calibration_split, validation_split, max_samples = where
    space = get_label_space(dataset, data_dir, label_space)
    common.check_classes(network, space)
    return Int8Data(
        common.load_split(dataset, calibration_split, data_dir, space, None),
        common.load_split(dataset, validation_split, data_dir, space, max_samples),
        samples,
        METHODS if calibration is Calibration.AUTO else tuple(m for m in METHODS if m == calibration.value),
        max_loss,
        (f"{dataset}, {calibration_split}", f"{dataset}, {validation_split}"),
    )


def _print(facts: dict[str, Any]) -> None:
    """The figures of the parity check and of quantization."""
    from rich.table import Table

    from .output import console, percent

    table = Table(title="Compared with the float32 model")
    for title in ("Type", "Images", "Largest error", "Relative error", "Same class %"):
        table.add_column(title, justify="right")
    for parity in facts["parity"]:
        errors = ("–" if parity[key] is None else f"{parity[key]:.1e}" for key in ("max_error", "relative_error"))
        height, width = parity["size"]
        table.add_row(
            parity["dtype"], f"{parity['batch']} x {height}x{width}", *errors, percent(parity["mask_agreement"])
        )
    console.print(table)
    quantization = facts.get("quantization")
    if quantization is not None:
        console.print(
            f"Mean IoU on {quantization['validation']} ({quantization['validation_samples']} images): "
            f"{percent(quantization['mean_iou_before'])} % before, {percent(quantization['mean_iou_after'])} % after; "
            f"calibrated on {quantization['calibration_samples']} images of {quantization['calibration']} "
            f"({quantization['calibration_method']})"
        )
