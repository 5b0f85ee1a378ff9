import numpy as np
import pytest
import torch
from PIL import Image
from toy import make_model

from kaseg import KASegModel
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.as_model import TeacherModel
from kaseg.evaluation.evaluator import evaluate_model


def _network() -> KASegModel:
    return make_model(num_labels=4, id2label={0: "road", 1: "sky", 2: "car", 3: "tree"}).eval()


def test_it_is_scored_on_the_datasets_classes() -> None:
    network = _network()
    model = TeacherModel(TeacherAdapter(network), {0: "tree", 1: "road"})
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(pixel_values).logits[:, [3, 0]]
        torch.testing.assert_close(model(pixel_values).logits, expected)
    assert model.config.num_labels == 2
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    label = Image.fromarray(rng.integers(0, 2, (64, 96), dtype=np.uint8))
    scores = evaluate_model(model, [{"image": image, "label": label, "id": "a"}], model.processor)
    assert (
        scores["per_category_iou"].keys() == {"tree", "road"} and sum(map(sum, scores["confusion_matrix"])) == 64 * 96
    )


def test_classes_that_it_does_not_know_are_named() -> None:
    with pytest.raises(ValueError, match="classes that it knows.*boat"):
        TeacherModel(TeacherAdapter(_network()), {0: "tree", 1: "road", 2: "boat"})
