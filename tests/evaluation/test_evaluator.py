import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from toy import ReadsTheLabel, mask_of
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SCENES, SPECS, load_segmentation_dataset, map_labels
from kaseg.evaluation import InferenceProtocol
from kaseg.evaluation.boundary import BoundaryCounts
from kaseg.evaluation.evaluator import PROTOCOL, evaluate_model, protocol_of
from kaseg.inference import Predictor
from kaseg.trainer import SegmentationConfig, SegmentationTrainer


@pytest.fixture(scope="module")
def model() -> KASegModel:
    """An untrained network whose predictions vary from pixel to pixel."""
    torch.manual_seed(0)
    model = KASegModel(
        KASegConfig(backbone="test_resnet", output_stride=32, id2label=SCENES.id2label, label2id=SCENES.label2id)
    )
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.eval()
    # No class may win everywhere by chance: each has the same mean on a scene.
    (scene,) = load_segmentation_dataset("scenes", split="train", num_scenes=1, height=96, width=128)
    with torch.no_grad():
        logits = model(**KASegImageProcessor()(scene["image"], return_tensors="pt")).logits
        model.classifier.bias -= logits.mean(dim=(0, 2, 3))
    return model


@pytest.fixture(scope="module")
def mixed() -> list[dict[str, Any]]:
    """Neighbors of equal and of different sizes, with void and without the last class."""
    rng = np.random.default_rng(0)
    samples = []
    for index, (height, width) in enumerate([(33, 47), (33, 47), (33, 47), (64, 40), (33, 47)]):
        label = rng.integers(0, 9, (height, width), dtype=np.uint8)
        label[label == 8] = 255
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        samples.append({"image": image, "label": Image.fromarray(label), "id": f"sample-{index}"})
    return samples


def test_against_a_naive_loop(model: KASegModel, mixed: list[dict[str, Any]]) -> None:
    processor = KASegImageProcessor()
    references, predictions = [], []
    for sample in mixed:
        predictions.append(mask_of(model, processor, sample["image"]).flatten())
        references.append(np.array(sample["label"]).flatten())
    reference, prediction = np.concatenate(references), np.concatenate(predictions)
    counts = confusion_matrix(reference[reference != 255], prediction[reference != 255], labels=range(9))
    hits, unions = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    expected = [hit / union if union else float("nan") for hit, union in zip(hits, unions, strict=True)]

    scores = evaluate_model(model, mixed, processor)
    assert list(scores["per_category_iou"]) == list(SCENES.names)
    assert list(scores["per_category_iou"].values()) == pytest.approx(expected, nan_ok=True)
    assert scores["overall_accuracy"] == pytest.approx(hits.sum() / counts.sum())
    assert scores["num_images"] == 5
    assert np.isnan(scores["per_category_accuracy"]["sign"])


def test_batches_do_not_change_the_scores(model: KASegModel, mixed: list[dict[str, Any]]) -> None:
    processor = KASegImageProcessor(do_pad=True, size_divisor=32)
    sizes: list[int] = []
    batched = evaluate_model(model, mixed, processor, batch_size=2, progress=sizes.append)
    single = evaluate_model(model, mixed, processor)
    assert sizes == [2, 1, 1, 1]
    for name, value in single["per_category_iou"].items():
        assert batched["per_category_iou"][name] == pytest.approx(value, abs=1e-3, nan_ok=True)


def test_images_that_the_processor_resizes(model: KASegModel, mixed: list[dict[str, Any]]) -> None:
    processor = KASegImageProcessor(do_resize=True, size={"height": 64, "width": 64})
    sizes: list[int] = []
    scores = evaluate_model(model, mixed, processor, batch_size=8, progress=sizes.append)
    assert sizes == [5]
    assert scores["num_images"] == 5
    assert protocol_of(processor) == f"{PROTOCOL}, images resized to 64x64"
    edges = KASegImageProcessor(do_resize=True, size={"shortest_edge": 64, "longest_edge": 96})
    assert protocol_of(edges) == f"{PROTOCOL}, short edge resized to 64, long edge resized to at most 96"
    assert protocol_of(KASegImageProcessor()) == PROTOCOL
    slide = InferenceProtocol("slide", 32)
    assert protocol_of(processor, slide) == f"{slide.describe()}, images resized to 64x64"


class Stream:
    """Samples without a length, which can be gone through again."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.samples)


STRIPS = {
    "nothing left": ((1, 5000), {"shortest_edge": 32, "longest_edge": 64}),
    "nothing left, upright": ((5000, 1), {"shortest_edge": 32, "longest_edge": 64}),
    "more than memory holds": ((1, 5000), {"shortest_edge": 20_000}),
}


@pytest.mark.parametrize(
    ("way", "strip"),
    [
        ("one by one", "nothing left"),
        ("batches", "nothing left, upright"),
        ("workers", "nothing left"),
        ("stream", "nothing left"),
        ("one by one", "more than memory holds"),
        ("batches", "more than memory holds"),
    ],
)
def test_what_cannot_be_prepared_is_skipped_on_request(model, mixed, way: str, strip: str) -> None:
    (height, width), size = STRIPS[strip]
    bad = {"image": Image.new("RGB", (width, height)), "label": Image.new("L", (width, height)), "id": "strip"}
    data: Any = [*mixed[:2], bad, mixed[2]]
    processor = KASegImageProcessor(do_resize=True, size=size)
    how = {"batches": {"batch_size": 3}, "workers": {"num_workers": 1}}.get(way, {})
    if strip.startswith("more"):  # the good ones would take long at this size
        data = [bad, {**bad, "id": "other"}]
    if way == "stream":
        data = Stream(data)
    if strip.startswith("more"):
        with pytest.raises(
            ValueError, match=r"2 of 2 samples were skipped, so none remains.\n  strip: .*cannot be res"
        ):
            evaluate_model(model, data, processor, on_error="skip", **how)
        return
    with pytest.raises(ValueError, match=r"Sample strip failed: an image of .* cannot be resized"):
        evaluate_model(model, data, processor, **how)
    warning = r"1 of 4 samples were skipped:\n  strip: .* cannot be resized"
    with pytest.warns(UserWarning, match=warning):
        scores = evaluate_model(model, data, processor, on_error="skip", **how)
    expected = evaluate_model(model, mixed[:3], processor, **({} if way == "stream" else how))
    assert scores["confusion_matrix"] == expected["confusion_matrix"] and scores["num_images"] == 3
    # By its place in the data, the page finds the image of a row.
    assert {row["id"]: row["index"] for row in scores["per_image"]} == {"sample-0": 0, "sample-1": 1, "sample-2": 3}


def test_mode_is_restored_and_streams_are_taken(model: KASegModel) -> None:
    stream = load_segmentation_dataset("scenes", split="validation", streaming=True, num_scenes=2, height=32, width=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        assert evaluate_model(model, stream, KASegImageProcessor(), device="cpu")["num_images"] == 2
        assert model.training
    finally:
        model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class CountingSamples:
    """Makes samples on demand and records how many of their images are alive at once."""

    most_alive = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        references = []
        for _ in range(12):
            image = Image.new("RGB", (32, 32))
            references.append(weakref.ref(image))
            yield {"image": image, "label": Image.new("L", (32, 32))}
            del image
            self.most_alive = max(self.most_alive, sum(reference() is not None for reference in references))


RAW = KASegImageProcessor(do_normalize=False)


def encoding(labels: np.ndarray, num_labels: int, name: str = "a") -> dict[str, Any]:
    """A sample whose image tells its labels, and something else where they are void."""
    red = np.where(labels == 255, np.arange(labels.size).reshape(labels.shape) % num_labels, labels)
    image = Image.fromarray(np.stack([red] * 3, axis=-1).astype(np.uint8))
    return {"image": image, "label": Image.fromarray(labels.astype(np.uint8)), "id": name}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_perfect_prediction_scores_one_in_every_dataset(name: str) -> None:
    space = SPECS[name].label_space
    raw = np.array([*(space.label_map or range(space.num_labels)), 255][::-1])
    raw = np.resize(np.kron(raw, np.ones(10, dtype=np.int64)), (40, 10 * -(-len(raw) // 4)))
    model = ReadsTheLabel(space.names)
    samples = [encoding(map_labels(raw, space, "first"), space.num_labels, "first")]
    perfect = evaluate_model(model, samples, RAW)
    assert list(perfect["per_category_iou"]) == list(space.names)
    for key in ("per_category_iou", "per_category_accuracy", "per_category_boundary_iou"):
        assert set(perfect[key].values()) == {1.0}
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou", "mean_boundary_iou"):
        assert perfect[key] == 1.0
    void = encoding(np.full((30, 40), 255), space.num_labels, "void")
    also_void = evaluate_model(model, [void, *samples, void], RAW)
    assert also_void.pop("num_images") == perfect.pop("num_images") + 2
    assert [row["id"] for row in also_void.pop("per_image")] == ["first", "void", "void"]
    assert perfect.pop("per_image")[0]["mean_iou"] == 1.0
    assert also_void == perfect


def test_table_of_images_and_counts() -> None:
    rng = np.random.default_rng(0)
    samples, expected = [], {}
    total, boundary = np.zeros((4, 4), dtype=int), BoundaryCounts(4)
    for index in range(4):
        labels = rng.integers(0, 3, (20 + index, 30))
        labels[:3] = 255
        predicted = np.where(rng.random(labels.shape) < index / 4, 3, labels)
        predicted[predicted == 255] = 0
        sample = encoding(predicted, 4, f"image {index}")
        samples.append({**sample, "label": Image.fromarray(labels.astype(np.uint8))})
        labelled = labels != 255
        counts = confusion_matrix(labels[labelled], predicted[labelled], labels=range(4))
        iou = counts.diagonal() / np.maximum(counts.sum(0) + counts.sum(1) - counts.diagonal(), 1)
        present = counts.sum(0) + counts.sum(1) > 0
        expected[f"image {index}"] = (iou[present].mean(), counts.trace() / counts.sum(), labelled.sum())
        total += counts
        boundary.update(predicted, labels)
    scores = evaluate_model(ReadsTheLabel(("a", "b", "c", "d")), samples, RAW, batch_size=2)
    assert scores["confusion_matrix"] == total.tolist()
    assert list(scores["per_category_boundary_iou"].values()) == boundary.scores()["per_category_boundary_iou"]
    assert [row["id"] for row in scores["per_image"]] == ["image 3", "image 2", "image 1", "image 0"]
    for row in scores["per_image"]:
        assert (row["mean_iou"], row["overall_accuracy"], row["num_pixels"]) == pytest.approx(expected[row["id"]])


def test_protocols_and_workers_reach_the_images(mixed: list[dict[str, Any]]) -> None:
    model = ReadsTheLabel(SCENES.names)
    samples = [encoding(np.array(sample["label"]), 9, sample["id"]) for sample in mixed]
    whole = evaluate_model(model, samples, RAW)
    slide = InferenceProtocol("slide", crop_size=(20, 25), overlap=7, flip=True)
    in_windows = evaluate_model(model, samples, RAW, batch_size=3, protocol=slide, num_workers=1)
    for key in ("confusion_matrix", "per_image", "mean_iou", "mean_boundary_iou"):
        assert in_windows[key] == whole[key]
    scaled = evaluate_model(model, samples, RAW, protocol=InferenceProtocol(scales=(0.5,)))
    assert scaled["mean_iou"] < whole["mean_iou"] == 1.0


def test_neither_images_nor_logits_are_kept() -> None:
    samples = CountingSamples()
    evaluate_model(ReadsTheLabel(("a", "b")), samples, RAW, batch_size=2)
    assert samples.most_alive <= 2
    model = ReadsTheLabel(("a", "b"))
    told = [encoding(np.eye(16, dtype=int), 2, str(index)) for index in range(9)]
    for protocol in (InferenceProtocol(), InferenceProtocol("slide", 8, scales=(0.5, 1), flip=True)):
        evaluate_model(model, told, RAW, batch_size=2, protocol=protocol)
    assert model.most_alive <= 2


def test_errors(model: KASegModel, mixed: list[dict[str, Any]]) -> None:
    processor = KASegImageProcessor()
    with pytest.raises(ValueError, match="no images"):
        evaluate_model(model, [], processor)
    wrong = {"image": mixed[0]["image"], "label": Image.new("L", (47, 33), 42), "id": "frame-7"}
    with pytest.raises(ValueError, match="frame-7.*42"):
        evaluate_model(model, [mixed[0], wrong], processor)
    with pytest.raises(ValueError, match="Sample sample-0 has no labels.*kaseg submit"):
        evaluate_model(model, [{**mixed[0], "label": None}], processor)
    assert not model.training


@pytest.mark.parametrize("use", ["evaluate_model", "SegmentationTrainer", "Predictor"])
def test_models_of_others_whose_classes_cannot_be_scored(use: str, tmp_path: Path) -> None:
    """What else there may be is in tests/test_modeling_kaseg.py."""
    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], patch_sizes=[7], strides=[4]
    )
    config.num_attention_heads, config.mlp_ratios, config.decoder_hidden_size = [1], [1], 8
    labels = {"evaluate_model": {0: "crack"}, "SegmentationTrainer": {1: "sky", 2: "road"}}
    config.id2label = labels.get(use, {0: "sky", 1: "road", 2: "sky"})
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = SegformerForSemanticSegmentation(config)
    image = {"image": Image.new("RGB", (32, 32)), "label": Image.new("L", (32, 32)), "id": "a"}
    message = "Use two classes|ids 1, 2|names sky more than once"
    with pytest.raises(ValueError, match=f"SegformerForSemanticSegmentation.*({message})"):
        if use == "evaluate_model":
            evaluate_model(model, [image], KASegImageProcessor())
        elif use == "Predictor":
            Predictor(model, KASegImageProcessor())
        else:
            SegmentationTrainer(model=model, args=SegmentationConfig(str(tmp_path), use_cpu=True, report_to="none"))
