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


@pytest.fixture(params=[1.0, 0.6], ids=["all", "some"])
def mask(request: pytest.FixtureRequest) -> Tensor:
    """All or some of the positions of a map (2, c, 3, 4)."""
    return torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < request.param


@pytest.fixture
def rotation() -> Callable[[int, Tensor], Tensor]:
    """Multiplies the channels of a map by an orthogonal matrix, the same for all maps."""

    def rotate(channels: int, features: Tensor) -> Tensor:
        matrix, _ = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(2)))
        return torch.einsum("dc,bchw->bdhw", matrix, features)

    return rotate
