import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kaseg import KASegImageProcessor
from kaseg.evaluation import evaluate_model
from kaseg.experiments.evaluation_page import worst_images


class AllRoad(nn.Module):
    """Says class 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=2, id2label={0: "sky", 1: "road"}, label2id={"sky": 0, "road": 1})
        self.bias = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        assert not self.training
        return SimpleNamespace(logits=self.bias[None, :, None, None].expand(len(pixel_values), -1, 4, 4))


def sample(name: str, label: np.ndarray) -> dict[str, Any]:
    return {"id": name, "image": Image.new("RGB", label.shape[::-1]), "label": label}


@pytest.fixture
def dataset() -> list[dict[str, Any]]:
    half = np.full((8, 12), 1, np.uint8)
    half[:, :6] = 0
    half[0, 0] = 255
    large = np.zeros((4, 1000), np.uint8)
    return [sample("right", half * 0 + 1), sample("void", half * 0 + 255), sample("half", half), sample("large", large)]


def test_the_worst_come_first_with_their_errors(dataset: list[dict[str, Any]]) -> None:
    model = AllRoad().train()
    rows = evaluate_model(model, dataset, KASegImageProcessor())["per_image"]
    assert [row["index"] for row in rows] == [3, 2, 0, 1]
    shown = worst_images(model, dataset, KASegImageProcessor(), rows, count=9)
    assert [picture["caption"].split(":")[0] for picture in shown] == ["large", "half", "right"]
    assert shown[1]["caption"] == f"half: mean IoU {100 * rows[1]['mean_iou']:.1f} %"
    label, prediction, wrong = shown[1]["masks"].values()
    assert (label == dataset[2]["label"]).all() and (prediction == 1).all()
    # Half of the image is wrong but for its void pixel; what is right is left blank, as void is.
    assert (wrong == 0).sum() == 8 * 6 - 1 and (wrong == 255).sum() == 8 * 6 + 1
    assert (shown[2]["masks"]["wrong (color of the label)"] == 255).all()
    assert len(worst_images(model, dataset, KASegImageProcessor(), rows, count=1)) == 1
    assert model.training


def test_large_images_are_shown_small_and_stay_aligned(dataset: list[dict[str, Any]]) -> None:
    rows = evaluate_model(AllRoad(), dataset, KASegImageProcessor())["per_image"]
    picture = worst_images(AllRoad(), dataset, KASegImageProcessor(), rows, count=1)[0]
    shapes = {mask.shape for mask in picture["masks"].values()}
    assert shapes == {picture["image"].size[::-1]} == {(math.ceil(4 / 3), math.ceil(1000 / 3))}
