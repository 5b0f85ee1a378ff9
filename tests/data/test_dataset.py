import pickle
import random

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kaseg.data.collator import SegmentationCollator
from kaseg.data.dataset import SegmentationDataset, StreamingSegmentationDataset, WithUnlabelled
from kaseg.data.transforms import EvalTransform, TrainTransform

CROP = TrainTransform(crop_size=16, brightness=0.2)


class _Render:
    """An image of noise and its mask for each index."""

    def __call__(self, batch: dict) -> dict:
        images, labels = [], []
        for index in batch["index"]:
            rng = np.random.default_rng(index)
            images.append(Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)))
            labels.append(Image.fromarray(rng.integers(0, 5, (24, 32)).astype(np.uint8)))
        return {"image": images, "label": labels, "id": [f"scene-{index}" for index in batch["index"]]}


class _FailingTransform:
    def __call__(self, image, label):
        raise ArithmeticError("cannot divide")


def _samples(count: int = 6) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"index": list(range(count))}).with_transform(_Render())


def _stream(count: int = 6, shards: int = 1) -> datasets.IterableDataset:
    data = datasets.Dataset.from_dict({"index": list(range(count))}).to_iterable_dataset(num_shards=shards)
    return data.map(_Render(), batched=True, batch_size=1, remove_columns=["index"])


def _same(left: dict, right: dict) -> bool:
    return all(torch.equal(left[name], right[name]) for name in ("pixel_values", "labels"))


def test_samples_are_a_function_of_seed_epoch_and_index():
    dataset = SegmentationDataset(_samples(), CROP, seed=1)
    first = [dataset[index] for index in range(6)]
    torch.manual_seed(123)
    random.seed(5)
    again = {index: SegmentationDataset(_samples(), CROP, seed=1)[index] for index in (4, 0, 3, 5, 1, 2)}
    assert all(_same(first[index], again[index]) for index in range(6))

    other_seed = SegmentationDataset(_samples(), CROP, seed=2)
    dataset.set_epoch(1)
    assert not any(_same(first[index], dataset[index]) for index in range(6))
    assert not any(_same(first[index], other_seed[index]) for index in range(6))
    dataset.set_epoch(0)
    assert _same(first[2], dataset[2])


def test_the_global_generators_are_left_alone(monkeypatch):
    dataset = SegmentationDataset(_samples(), CROP)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        for name in ("manual_seed", "manual_seed_all"):
            patch.setattr(torch.cuda, name, None)  # calling it would fail
        dataset[0]
    assert torch.equal(torch.rand(3), expected)

    dataset.transform = _FailingTransform()
    torch.manual_seed(0)
    with pytest.raises(ValueError):
        dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_workers_change_nothing_and_see_the_epoch():
    dataset = SegmentationDataset(_samples(), CROP)
    alone = DataLoader(dataset, batch_size=3, collate_fn=SegmentationCollator())
    forked: dict = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"}
    workers = DataLoader(dataset, batch_size=3, collate_fn=SegmentationCollator(), **forked)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        batches = list(zip(alone, workers, strict=True))
        assert len(batches) == 2 and all(_same(left, right) for left, right in batches), f"epoch {epoch}"


def test_indices_and_pickling():
    dataset = SegmentationDataset(_samples(), CROP, seed=3)
    assert len(dataset) == 6
    assert _same(dataset[-1], dataset[5]) and _same(dataset[torch.tensor(2)], dataset[2])
    for index in (6, -7):
        with pytest.raises(IndexError, match=str(index)):
            dataset[index]
    assert sum(1 for _ in dataset) == 6
    dataset.set_epoch(4)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.epoch == 4 and _same(copy[1], dataset[1])


def test_errors_name_the_sample():
    dataset = SegmentationDataset(_samples(), _FailingTransform())
    with pytest.raises(ValueError, match=r"Sample number 3 \(id scene-3\) failed: cannot divide"):
        dataset[3]
    with pytest.raises(ValueError, match="Sample with id scene-0 failed: cannot divide"):
        next(iter(StreamingSegmentationDataset(_stream(), _FailingTransform())))


def _by_content(samples) -> list[bytes]:
    return sorted(sample["pixel_values"].numpy().tobytes() for sample in samples)


def test_streams_are_a_function_of_seed_epoch_and_id():
    dataset = StreamingSegmentationDataset(_stream(), CROP, seed=1)
    first = list(dataset)
    torch.manual_seed(99)
    assert len(first) == 6 and all(_same(left, right) for left, right in zip(first, dataset, strict=True))
    shuffled = StreamingSegmentationDataset(_stream().shuffle(seed=4, buffer_size=6), CROP, seed=1)
    assert _by_content(shuffled) == _by_content(first)
    shuffled.set_epoch(1)
    assert not set(_by_content(shuffled)) & set(_by_content(first))


def test_streams_are_shuffled_anew_in_each_epoch():
    stream = StreamingSegmentationDataset(_stream().shuffle(seed=4, buffer_size=6), EvalTransform())
    orders = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        orders.append([sample["pixel_values"].sum().item() for sample in stream])
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1])


def test_streams_with_workers():
    dataset = StreamingSegmentationDataset(_stream(shards=2), CROP)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert _by_content(loader) == _by_content(dataset)


class TestWithUnlabelled:
    @staticmethod
    def _images(count: int) -> datasets.Dataset:
        """Other images than those of `_samples`, without a column of masks."""

        def render(batch: dict) -> dict:
            return {"image": _Render()({"index": [index + 100 for index in batch["index"]]})["image"]}

        return datasets.Dataset.from_dict({"index": list(range(count))}).with_transform(render)

    @pytest.mark.parametrize("labelled, unlabelled", [(2, 5), (5, 2), (3, 3)])
    def test_there_are_as_many_of_each(self, labelled: int, unlabelled: int) -> None:
        data = WithUnlabelled(_samples(labelled), self._images(unlabelled), EvalTransform())
        length = max(labelled, unlabelled)
        assert len(data) == 2 * length
        plain, others = (SegmentationDataset(d, EvalTransform()) for d in (_samples(labelled), _samples(200)))
        for index in range(length):
            assert _same(data[index], plain[index % labelled])
            other = data[length + index]
            assert torch.equal(other["pixel_values"], others[100 + index % unlabelled]["pixel_values"])
            assert other["labels"].shape == (24, 32) and other["labels"].eq(255).all()

    @pytest.mark.parametrize(
        "labelled, unlabelled, share, expected",
        [(6, 2, 0.75, (6, 2)), (6, 1, 0.75, (6, 2)), (2, 4, 0.75, (12, 4)), (2, 3, 0.25, (2, 6)), (7, 2, 0.8, (8, 2))],
    )
    def test_shares(self, labelled: int, unlabelled: int, share: float, expected: tuple[int, int]) -> None:
        data = WithUnlabelled(_samples(labelled), self._images(unlabelled), EvalTransform(), labelled_share=share)
        with_labels = [sample["labels"].ne(255).any().item() for sample in data]
        assert (sum(with_labels), len(with_labels) - sum(with_labels)) == expected
        images = {sample["pixel_values"].numpy().tobytes() for sample in data}
        assert len(images) == labelled + unlabelled  # none is left out

    def test_every_sample_and_epoch_is_augmented_anew(self) -> None:
        data = WithUnlabelled(_samples(1), self._images(8), CROP)
        assert len({data[index]["pixel_values"].numpy().tobytes() for index in range(16)}) == 16
        data = WithUnlabelled(_samples(2), _samples(2), CROP)  # the two of a number differ, too
        before = [data[index]["pixel_values"] for index in range(4)]
        assert not any(torch.equal(before[i], before[2 + i]) for i in range(2))
        data.set_epoch(1)
        assert not any(torch.equal(data[index]["pixel_values"], before[index]) for index in range(4))
        data.set_epoch(0)
        assert all(torch.equal(data[index]["pixel_values"], before[index]) for index in range(4))

    @pytest.mark.parametrize("labelled, unlabelled", [(0, 2), (2, 0)])
    def test_both_are_needed(self, labelled: int, unlabelled: int) -> None:
        with pytest.raises(ValueError, match=f"{labelled} labelled and {unlabelled} unlabelled"):
            WithUnlabelled(_samples(labelled), self._images(unlabelled), CROP)
