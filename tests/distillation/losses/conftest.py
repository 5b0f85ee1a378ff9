from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def pair() -> Callable[..., list[Tensor]]:
    """Two different maps of a shape, the same in every call."""

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]

    return make


@pytest.fixture
def rotation() -> Callable[[int, Tensor], Tensor]:
    """Multiplies the channels of a map by an orthogonal matrix, the same for all maps."""

    def rotate(channels: int, features: Tensor) -> Tensor:
        matrix, _ = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(2)))
        return torch.einsum("dc,bchw->bdhw", matrix, features)

    return rotate
