"""Resizing in strips against resizing at once."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import LabelSpace
from kaseg.evaluation import InferenceProtocol
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.evaluation.submission import write_submission
from kaseg.inference import Predictor
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
    logits = torch.zeros(1, 5, 2, 3)
    assert argmax_resized(logits, size).unique().tolist() == [0]
    logits[:, 1:3] = 1
    assert argmax_resized(logits, size).unique().tolist() == [1]
    assert argmax_resized(logits[:0], size).shape == (0, *size)  # no image


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_elements", [200, 2**26])
def test_ids_exist_whatever_the_logits(value: float, max_elements: int) -> None:
    logits = torch.randn(2, 5, 9, 11)
    logits[1, 2] = value
    mask = argmax_resized(logits, (31, 47), max_elements)
    assert mask.min() >= 0 and mask.max() <= 4
    strips = (scores.argmax(1) for _, scores in resized_strips(logits, (31, 47), max_elements))
    assert torch.equal(mask, torch.cat(list(strips), dim=1))


@pytest.mark.parametrize(
    "way", ["processor", "scores", "Predictor", "tiles", "evaluate_model", "slide", "flip", "submission"]
)
def test_masks_are_not_made_of_nan(way: str, tmp_path: Path) -> None:
    """Such as a model of finite weights gives that overflows in half precision."""
    model, processor = KASegModel(KASegConfig(backbone="test_resnet", head_channels=8)).eval(), KASegImageProcessor()
    real = model.forward

    def forward(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        outputs = real(pixel_values, **kwargs)
        outputs.logits[:, 1, -1, -1] = math.nan
        return outputs

    model.forward = forward  # type: ignore[method-assign]
    sample = {"image": Image.new("RGB", (64, 48)), "label": Image.new("L", (64, 48)), "id": "a"}
    protocol = InferenceProtocol("slide", 32) if way == "slide" else InferenceProtocol(flip=way == "flip")
    named = "Sample a: " if way in ("evaluate_model", "slide", "flip", "submission") else ""
    with torch.no_grad(), pytest.raises(ValueError, match=f"^{named}the logits hold NaN"):
        if way in ("processor", "scores"):
            outputs = model(**processor(sample["image"], return_tensors="pt"))
            processor.post_process_semantic_segmentation(outputs, None, way == "scores")
        elif way in ("Predictor", "tiles"):
            tiles = {"max_pixels": 1000, "tile": 32, "overlap": 0} if way == "tiles" else {}
            Predictor(model, processor, **tiles).predict([sample["image"]])
        elif way == "submission":
            write_submission(model, [sample], processor, tmp_path, LabelSpace("two", ("a", "b")))
        else:
            evaluate_model(model, [sample], processor, protocol=protocol)
    assert not list(tmp_path.iterdir())
