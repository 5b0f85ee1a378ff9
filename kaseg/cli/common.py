"""What several commands share: options for data, device and protocol, and what is made of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..data import LabelSpace
    from ..evaluation import InferenceProtocol
    from ..modeling_kaseg import KASegModel


class OnError(StrEnum):
    """Stop with an error, or leave the bad ones out and list them."""

    RAISE = "raise"
    SKIP = "skip"


DataDir = Annotated[Path | None, typer.Option(help="Folder of a named dataset.")]
LabelSpaceFile = Annotated[
    str | None, typer.Option(help="File of class names or a known dataset; needed for Hub datasets.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images of one size that share a batch.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; a GPU if there is one.")]
MaxSamples = Annotated[int | None, typer.Option(min=1, help="Use the first N images only.")]


class Mode(StrEnum):
    """What the network sees at once."""

    WHOLE = "whole"
    SLIDE = "slide"


Protocol = Annotated[Mode, typer.Option(help="Whole images, or a window that slides over them.")]
CropSize = Annotated[
    str | None, typer.Option(metavar="PIXELS", help="Window of --protocol slide: 513, or HEIGHT,WIDTH.")
]
Overlap = Annotated[
    str | None, typer.Option(metavar="PIXELS", help="Overlap of windows: 171, or DOWN,ACROSS; a third of the window.")
]
Scales = Annotated[str, typer.Option(metavar="FACTORS", help="Scales to average over, such as 0.75,1,1.25.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average over the mirrored image, too.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images ahead.")]


def load_split(
    dataset: str, split: str, data_dir: Path | None, space: LabelSpace, max_samples: int | None, **options: Any
) -> Any:
    """A split of a dataset, or its first `max_samples` samples; options as `load_segmentation_dataset` has them."""
    from ..data import load_segmentation_dataset

    data = load_segmentation_dataset(dataset, split=split, data_dir=data_dir, label_space=space, **options)
    return data if max_samples is None else data.select(range(min(max_samples, len(data))))


def check_classes(model: KASegModel, label_space: LabelSpace) -> None:
    """Raises a ValueError that lists both if the model's classes are not the dataset's, in its order."""
    names = tuple(name for _, name in sorted(model.config.id2label.items()))
    if names != label_space.names:
        raise ValueError(
            f"The model's classes are not those of the dataset {label_space.name!r}.\n"
            f"Model ({len(names)}): {', '.join(names)}\n"
            f"Dataset ({label_space.num_labels}): {', '.join(label_space.names)}"
        )


def protocol_from(mode: Mode, crop_size: str | None, overlap: str | None, scales: str, flip: bool) -> InferenceProtocol:
    """The protocol that the options ask for; a ValueError that names the option if one cannot be read, or they do not
    fit each other."""
    from ..evaluation import InferenceProtocol

    return InferenceProtocol(
        mode.value, parse_pixels("--crop-size", crop_size), parse_pixels("--overlap", overlap), _factors(scales), flip
    )


def parse_size(option: str, text: str | None) -> tuple[int, int] | None:
    """(height, width) out of `text`, where one number stands for both; errors as in [`parse_pixels`]."""
    sides = parse_pixels(option, text)
    return (sides, sides) if isinstance(sides, int) else sides


def parse_pixels(option: str, text: str | None) -> int | tuple[int, int] | None:
    """One number of pixels or two out of what was given to `option`, `None` if it was not given; a ValueError that
    names the option if it is neither."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError(f"{option} takes one number of pixels or two, such as 513 or 512,1024, got {text!r}.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _factors(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(factor) for factor in text.split(","))
    except ValueError:
        raise ValueError(
            f"--scales takes numbers with commas between them, such as 0.75,1,1.25, got {text!r}."
        ) from None
