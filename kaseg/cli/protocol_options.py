"""The options that say how a network is run over pictures, for the commands that have them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..evaluation import InferenceProtocol


class Mode(StrEnum):
    """What the network sees at once."""

    WHOLE = "whole"
    SLIDE = "slide"


ProtocolOption = Annotated[Mode, typer.Option(help="Whole pictures, or a window that slides over them.")]
CropSizeOption = Annotated[
    str | None, typer.Option(metavar="PIXELS", help="Window of --protocol slide: 513, or HEIGHT,WIDTH.")
]
OverlapOption = Annotated[
    str | None, typer.Option(metavar="PIXELS", help="Overlap of windows: 171, or DOWN,ACROSS; a third of the window.")
]
ScalesOption = Annotated[str, typer.Option(metavar="FACTORS", help="Scales to average over, such as 0.75,1,1.25.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average over the mirrored picture, too.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that read pictures ahead.")]


def protocol_from(mode: Mode, crop_size: str | None, overlap: str | None, scales: str, flip: bool) -> InferenceProtocol:
    """The protocol that the options ask for.

    Raises:
        ValueError: an option cannot be read, or they do not fit each other; the message names it.
    """
    from ..evaluation import InferenceProtocol

    return InferenceProtocol(
        mode.value, pixels("--crop-size", crop_size), pixels("--overlap", overlap), _factors(scales), flip
    )


def pixels(option: str, text: str | None) -> int | tuple[int, int] | None:
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
