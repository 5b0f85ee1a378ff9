"""Sliding windows against a mean written out pixel by pixel."""

import itertools

import pytest
import torch

from kaseg.evaluation.sliding import average_windows, window_starts


def test_windows_cover_the_side_and_overlap_enough() -> None:
    for length, overlap, stride in itertools.product((64, 65, 96, 127, 128, 1000), (0, 7, 32), (1, 4, 16, 32)):
        starts = window_starts(length, 64, overlap, stride)
        assert starts[0] == 0 and all(start % stride == 0 for start in starts)
        assert length - stride < starts[-1] + 64 < length + stride or length <= 64
        assert all(0 < b - a <= 64 - overlap for a, b in itertools.pairwise(starts))


def mmseg_starts(length: int, window: int, stride: int) -> list[int]:
    """The rule of mmsegmentation's slide_inference, in words: as many strides as are needed, ends moved inward."""
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(index * stride + window, length) for index in range(count)]
    return [max(end - window, 0) for end in ends]


def test_windows_are_those_of_mmsegmentation() -> None:
    for length, window, overlap in itertools.product(range(1, 60), (1, 7, 20), (0, 1, 6, 19)):
        if overlap < window:
            assert window_starts(length, window, overlap) == mmseg_starts(length, window, window - overlap)


def position_dependent(parts: torch.Tensor) -> torch.Tensor:
    """Logits that say where in its window a pixel lies, so that every misplaced window shows."""
    height, width = parts.shape[-2:]
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    return torch.cat([parts.sum(1, keepdim=True), parts[:, :1] * (1 + rows + 10 * columns)], dim=1)


@pytest.mark.parametrize("size", [(13, 17), (5, 30), (30, 4), (3, 2), (8, 6)])
@pytest.mark.parametrize("window, overlap", [((8, 6), (3, 2)), ((8, 6), (0, 5)), ((5, 5), (4, 0))])
def test_mean_over_the_windows_of_every_pixel(size, window, overlap) -> None:
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    stride = (window[0] - overlap[0], window[1] - overlap[1])
    expected = torch.zeros(2, 2, *size, dtype=torch.float64)
    for y, x in itertools.product(range(size[0]), range(size[1])):
        votes = []
        for top, left in itertools.product(
            mmseg_starts(size[0], window[0], stride[0]), mmseg_starts(size[1], window[1], stride[1])
        ):
            if top <= y < top + window[0] and left <= x < left + window[1]:
                logits = position_dependent(pixels[..., top : top + window[0], left : left + window[1]])
                votes.append(logits[..., y - top, x - left])
        expected[..., y, x] = torch.stack(votes).mean(0)
    for batch_size in (1, 3, 100):
        result = average_windows(position_dependent, pixels, window, overlap, batch_size=batch_size)
        torch.testing.assert_close(result, expected)


def test_windows_go_through_in_batches() -> None:
    sizes: list[int] = []

    def predict(parts: torch.Tensor) -> torch.Tensor:
        sizes.append(len(parts))
        return parts

    average_windows(predict, torch.zeros(1, 3, 20, 20), (10, 10), (0, 5), batch_size=4)
    assert sizes == [4, 2]
