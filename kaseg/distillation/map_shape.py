"""Channels and stride of a feature map."""

from typing import NamedTuple


class MapShape(NamedTuple):
    """Channels of a feature map and its stride, the image pixels per position."""

    channels: int
    stride: int
