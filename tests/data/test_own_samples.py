from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from toy import SIZE, arguments

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.data import EvalTransform, SegmentationDataset
from kaseg.data.own_samples import standard_sample
from kaseg.evaluation.evaluator import evaluate_model

RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(4)]
LABELS = [RNG.integers(0, 2, (SIZE, SIZE), np.uint8) for _ in range(4)]
PAIRS = [(Image.fromarray(p), Image.fromarray(m)) for p, m in zip(PIXELS, LABELS, strict=True)]


class Listed(torch.utils.data.Dataset):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def columns(image: str = "image", label: str = "label") -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {image: [pair[0] for pair in PAIRS], label: [pair[1] for pair in PAIRS]},
        features=datasets.Features({image: datasets.Image(), label: datasets.Image()}),
    )


def prepared(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What transformers' guide of semantic segmentation does in its transform."""
    processor = KASegImageProcessor()
    return dict(processor(batch["image"], segmentation_maps=batch["label"]))


RAW = {
    "our columns": columns(),
    "the guide's columns": columns("pixel_values", "labels"),
    "other usual columns": columns("img", "annotation"),
    "torch": columns().with_format("torch"),
    "numpy": columns().with_format("numpy"),
    "a list": [{"image": image, "label": label, "id": str(i)} for i, (image, label) in enumerate(PAIRS)],
    "pairs": PAIRS,
    "a torch dataset": Listed(PAIRS),
    "a subset": Subset(Listed([{"image": p, "mask": m} for p, m in zip(PIXELS, LABELS, strict=True)]), [0, 1, 2, 3]),
    "wide integers": [(p, m.astype(np.int64)) for p, m in zip(PIXELS, LABELS, strict=True)],
    "tensors": [
        {"image": torch.from_numpy(p).permute(2, 0, 1), "label": torch.from_numpy(m)[None]}
        for p, m in zip(PIXELS, LABELS, strict=True)
    ],
}
PREPARED = {
    "set_transform": columns().with_transform(prepared),
    "mapped": columns().map(prepared, batched=True, remove_columns=["image", "label"]),
    "uint8 labels": [
        {"pixel_values": inputs["pixel_values"], "labels": inputs["labels"].to(torch.uint8)}
        for inputs in SegmentationDataset(PAIRS, EvalTransform())
    ],
}


@pytest.mark.parametrize("form", [*RAW, *PREPARED])
def test_all_forms_give_the_same_inputs(form: str) -> None:
    expected = SegmentationDataset(PAIRS, EvalTransform())[1]
    found = SegmentationDataset((RAW | PREPARED)[form], EvalTransform(), num_labels=2)[1]
    assert found["labels"].dtype == torch.int64 and torch.equal(found["labels"], expected["labels"])
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def model() -> KASegModel:
    torch.manual_seed(0)
    return KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, num_labels=2))


def trainer(model: KASegModel, output_dir, train: Any, evaluation: Any = None, **fields: Any) -> SegmentationTrainer:
    args = SegmentationConfig(**arguments(output_dir, max_steps=1, per_device_train_batch_size=2))
    return SegmentationTrainer(model, args, train_dataset=train, eval_dataset=evaluation, **fields)


def test_trainer_and_evaluator_score_all_forms_alike(model: KASegModel, tmp_path) -> None:
    expected = evaluate_model(model, PAIRS, KASegImageProcessor())["mean_iou"]
    for form, data in RAW.items():
        assert evaluate_model(model, data, KASegImageProcessor())["mean_iou"] == expected, form
    scored = trainer(model, tmp_path, PAIRS, datasets.DatasetDict(first=columns(), second=columns("img", "mask")))
    for form, data in (RAW | PREPARED).items():
        assert scored.evaluate(data)["eval_mean_iou"] == pytest.approx(expected), form
    metrics = scored.evaluate()
    assert metrics["eval_first_mean_iou"] == metrics["eval_second_mean_iou"] == pytest.approx(expected)


@pytest.mark.parametrize("form", ["the guide's columns", "torch", "a subset", "set_transform"])
def test_training_takes_them(form: str, tmp_path) -> None:
    model = KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, num_labels=2))
    run = trainer(model, tmp_path, (RAW | PREPARED)[form])
    run.train()
    assert run.state.global_step == 1


IMAGE, MASK = PAIRS[0]
WRONG = {
    "other names": ({"photo": IMAGE, "target": MASK}, "has the fields photo, target and none for its image"),
    "no mask": ({"image": IMAGE, "target": MASK}, "has the fields image, target and none for its mask"),
    "a class": ({"image": IMAGE, "label": 3}, r"field 'label' is 3 \(a int\), not a mask"),
    "a path": ({"image": "a.png", "label": MASK}, r"field 'image' is 'a.png' \(a str\), not an image"),
    "undecoded": ({"image": {"bytes": b""}, "label": MASK}, "field 'image' is"),
    "floats": ({"image": IMAGE, "label": LABELS[0] / 2}, "float64 and shape .32, 32., not a mask"),
    "a float image": ({"image": PIXELS[0] / 255, "label": MASK}, "float64 and shape .32, 32, 3., not an image"),
    "colors": ({"image": IMAGE, "label": PIXELS[0]}, "not a mask"),
    "logits": ({"image": IMAGE, "label": np.zeros((2, 32, 32), np.int64)}, "not a mask"),
    "batched": ({"pixel_values": torch.zeros(1, 3, 32, 32), "labels": LABELS[0]}, r"shape \(1, 3, 32, 32\)"),
    "unlabelled": ({"pixel_values": torch.zeros(3, 32, 32)}, "none for its mask"),
    "negative": ({"image": IMAGE, "label": np.full((32, 32), -100)}, "label -100 is neither one of the model's 2"),
    "too large": ({"pixel_values": torch.zeros(3, 32, 32), "labels": LABELS[0] + 7}, "label [78] is neither"),
    "wraps": ({"image": IMAGE, "label": np.full((32, 32), 2**32 + 1)}, "holds 4294967297, which is no class id"),
    "a number": (7, "it is a int"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_something_else_is_named(wrong: str) -> None:
    sample, said = WRONG[wrong]
    data = SegmentationDataset([PAIRS[0], sample], EvalTransform(), num_labels=2)
    assert set(data[0]) == {"pixel_values", "labels"}
    with pytest.raises(ValueError, match=rf"Sample number 1 failed: .*{said}"):
        data[1]


def test_what_is_not_for_this_use_is_refused(model: KASegModel, tmp_path) -> None:
    splits = datasets.DatasetDict(train=columns(), validation=columns())
    with pytest.raises(ValueError, match=r"not a DatasetDict of train, validation: .*data\['train'\]"):
        trainer(model, tmp_path, splits)
    with pytest.raises(ValueError, match=r"not a DatasetDict of train, validation: .*data\['validation'\]"):
        evaluate_model(model, splits, KASegImageProcessor())
    with pytest.raises(ValueError, match=r"Sample 0 failed: it has normalized pixel_values.*SegmentationTrainer"):
        evaluate_model(model, PREPARED["set_transform"], KASegImageProcessor())


def test_other_fields_stay() -> None:
    sample = standard_sample({"id": "a", "img": PIXELS[0], "seg": 3, "mask": LABELS[0]})
    assert (sample["id"], sample["seg"]) == ("a", 3) and sample["label"].mode == "L"


def test_a_model_of_four_bands_is_not_given_rgb(tmp_path) -> None:
    model = KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, num_labels=2, num_channels=4))
    run = trainer(model, tmp_path, PAIRS, PAIRS)
    for call in (run.train, run.evaluate, lambda: evaluate_model(model, PAIRS, KASegImageProcessor())):
        with pytest.raises(ValueError, match="the model takes images of 4 channels, these have 3.*pixel_values"):
            call()
    bands = [{"pixel_values": torch.zeros(4, SIZE, SIZE), "labels": labels} for labels in LABELS]
    run = trainer(model, tmp_path, bands, bands)
    run.train()
    assert "eval_mean_iou" in run.evaluate()


def test_labels_of_a_users_collator_may_be_bytes(model: KASegModel, tmp_path) -> None:
    def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": torch.zeros(2, 32, 32, dtype=torch.uint8)}

    run = trainer(KASegModel(model.config), tmp_path, Listed(["anything"] * 4), data_collator=collate)
    run.train()
    assert run.state.global_step == 1
