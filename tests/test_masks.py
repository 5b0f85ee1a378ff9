"""Resizing in strips against resizing at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from kaseg.masks import argmax_resized, resized_strips


@pytest.mark.parametrize("size", [(31, 47), (5, 6), (64, 3), (4, 100)])
@pytest.mark.parametrize("max_elements", [1, 1000, 2**26])
def test_strips_give_the_mask_of_the_whole(size: tuple[int, int], max_elements: int) -> None:
    logits = torch.randn(2, 5, 9, 11, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits.double(), size=size, mode="bilinear", align_corners=False)
    mask = argmax_resized(logits, size, max_elements)
    assert mask.dtype == torch.int64 and mask.shape == (2, *size)
    assert torch.equal(argmax_resized(logits, size, max_elements, dtype=torch.uint8), mask.byte())
    top2 = whole.topk(2, dim=1).values
    clear = top2[:, 0] - top2[:, 1] > 1e-4
    assert clear.float().mean() > 0.99
    assert torch.equal(mask[clear], whole.argmax(1)[clear])


def test_strips_are_as_small_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    resize = F.interpolate

    def counting(tensor: torch.Tensor, size: tuple[int, int], **kwargs: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.shape[0] * tensor.shape[1] * math.prod(size))
        return resize(tensor, size=size, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "interpolate", counting)
    argmax_resized(torch.randn(1, 5, 9, 11), (100, 100), max_elements=3000)
    assert 2000 <= largest <= 3000


def test_one_strip_is_the_plain_resizing() -> None:
    logits = torch.randn(1, 5, 9, 11)
    ((rows, scores),) = resized_strips(logits, (31, 47), max_elements=5 * 31 * 47)
    assert rows == slice(0, 31)
    assert torch.equal(scores, F.interpolate(logits, (31, 47), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (1, 1)])
def test_ties_go_to_the_first_class(size: tuple[int, int]) -> None:
    logits = torch.zeros(1, 4, 2, 3)
    assert argmax_resized(logits, size).unique().tolist() == [0]
    logits[:, 1:3] = 1
    assert argmax_resized(logits, size).unique().tolist() == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_elements", [200, 2**26])
def test_ids_exist_whatever_the_logits(value: float, max_elements: int) -> None:
    logits = torch.randn(2, 5, 9, 11)
    logits[1, 2] = value
    mask = argmax_resized(logits, (31, 47), max_elements)
    assert mask.min() >= 0 and mask.max() <= 4
    strips = (scores.argmax(1) for _, scores in resized_strips(logits, (31, 47), max_elements))
    assert torch.equal(mask, torch.cat(list(strips), dim=1))


def test_an_empty_batch() -> None:
    assert argmax_resized(torch.zeros(0, 3, 2, 2), (4, 4)).shape == (0, 4, 4)
