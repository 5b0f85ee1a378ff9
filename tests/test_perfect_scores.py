"""A score that needs no skill never stands alone: one-class data, all-void data, a constant prediction."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from toy import write_folder

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.cli.output import console, print_scores
from kaseg.evaluation import MeanIoU, iou_scores
from kaseg.evaluation.caution import caution
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.model_card.results import describe_run

ONE_CLASS = "one class alone"
CONSTANT = "the same class for every pixel"


def _model(constant: bool = True) -> KASegModel:
    """Class 0 everywhere, or both classes."""
    torch.manual_seed(0)
    names = {"id2label": {0: "background", 1: "object"}}
    backbone = "test_resnet" if constant else "mobilenetv2_035"  # the smaller one never gives both
    model = KASegModel(KASegConfig(backbone=backbone, head_channels=8, output_stride=32, **names)).eval()
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([1.0, 0.0])
    if not constant:
        torch.nn.init.normal_(model.classifier.weight, std=100.0)
    return model


def _data(*values: int) -> datasets.Dataset:
    """Two images whose masks have a column of each value."""
    mask = Image.fromarray(np.repeat(np.array(values, np.uint8), 64 // len(values))[None].repeat(64, axis=0))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)) for _ in range(2)]
    return datasets.Dataset.from_list([{"image": image, "label": mask, "id": str(i)} for i, image in enumerate(images)])


def _trainer(folder: Path, data: datasets.Dataset, model: KASegModel | None = None) -> SegmentationTrainer:
    args = SegmentationConfig(str(folder), use_cpu=True, report_to="none", disable_tqdm=True)
    return SegmentationTrainer(model or _model(), args, train_dataset=_data(0, 1), eval_dataset=data)


CASES = [((0, 255), ONE_CLASS, 1.0), ((0, 0), CONSTANT, 1.0), ((0, 1), CONSTANT, 0.25), ((1, 1), ONE_CLASS, 0.0)]


@pytest.mark.parametrize("values, words, score", CASES)
def test_wherever_a_model_is_scored(values: tuple, words: str, score: float, tmp_path: Path, caplog: Any) -> None:
    data = _data(*values)
    with caplog.at_level(logging.WARNING, "kaseg"):
        scores = evaluate_model(_model(), data, KASegImageProcessor())
        assert scores["mean_iou"] == score and words in scores["caution"] and words in caplog.text
        caplog.clear()
        trainer = _trainer(tmp_path, data)
        metrics = trainer.evaluate()
        assert metrics["eval_mean_iou"] == score and words in caplog.text
        caplog.clear()
        metric = MeanIoU(num_labels=2)
        references = [np.asarray(sample["label"]) for sample in data]
        metric.add_batch(predictions=[np.zeros_like(mask) for mask in references], references=references)
        assert metric.compute()["mean_iou"] == score and words in caplog.text
    results = describe_run(trainer.model, trainer.processing_class, trainer.args, trainer.state, metrics)
    assert results["mean_iou"] == score and words in results["caution"]
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert words in card.partition("## Scores")[2]
    assert " ".join(card.split()).count(words) >= 4  # and beside each of the three scores for the Hub
    with console.capture() as printed:
        print_scores({**results, "dataset": "own", "split": "validation"})
    assert words in " ".join(printed.get().split())


def test_ordinary_scores_stand_alone(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "kaseg"):
        scores = evaluate_model(_model(constant=False), _data(0, 1), KASegImageProcessor())
        metrics = _trainer(tmp_path, _data(0, 1), _model(constant=False)).evaluate()
    assert scores["num_predicted_classes"] == metrics["eval_num_predicted_classes"] == 2
    assert "caution" not in scores and not any(word in caplog.text for word in (ONE_CLASS, CONSTANT))


def test_counts_of_classes() -> None:
    scores = iou_scores(np.array([[3, 0, 1], [0, 0, 0], [0, 0, 2]]))
    assert (scores["num_reference_classes"], scores["num_predicted_classes"]) == (2, 2) and caution(scores) == ""
    assert "No pixel" in caution(iou_scores(np.zeros((2, 2))))


@pytest.mark.parametrize("use", ["evaluate_model", "evaluate", "train"])
def test_data_without_a_label_are_refused(use: str, tmp_path: Path) -> None:
    data = _data(255, 255)
    with pytest.raises(ValueError, match="nothing to score"):
        if use == "evaluate_model":
            evaluate_model(_model(), data, KASegImageProcessor())
        else:
            getattr(_trainer(tmp_path, data), use)()


def test_the_metric_has_no_score_for_void_alone(caplog: Any) -> None:
    mask = np.full((2, 2), 255)
    with caplog.at_level(logging.WARNING, "kaseg"):
        scores = MeanIoU().compute(predictions=[mask * 0], references=[mask], num_labels=2)
    assert np.isnan(scores["mean_iou"]) and "No pixel has a label" in caplog.text


def test_the_command_says_it_too(kaseg, tmp_path: Path) -> None:
    write_folder(tmp_path / "data/validation", [(Image.new("RGB", (64, 64)), Image.new("L", (64, 64)))])
    (tmp_path / "data/classes.txt").write_text("background\nobject\n")
    _model().save_pretrained(tmp_path / "model")
    KASegImageProcessor().save_pretrained(tmp_path / "model")
    scores = tmp_path / "scores.json"
    output = kaseg.succeed("evaluate", tmp_path / "model", "--dataset", tmp_path / "data", "--json", scores).output
    assert CONSTANT in " ".join(output.split())
    written = json.loads(scores.read_text())
    assert written["per_category_iou"] == {"background": 1.0, "object": None} and ONE_CLASS in written["caution"]
