from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kaseg import KASegImageProcessor
from kaseg.data import load_segmentation_dataset
from kaseg.evaluation.processes import Processes
from kaseg.evaluation.samples import PreparedSample, prepared_batches


def sample(name: str, size: tuple[int, int] = (8, 6), label: Any = 0) -> dict[str, Any]:
    mask = Image.new("L", size, label) if isinstance(label, int) else label
    return {"image": Image.new("RGB", size, "red"), "label": mask, "id": name}


def names(batches: Iterator[list[PreparedSample]]) -> list[list[str]]:
    return [[sample.name for sample in batch] for batch in batches]


def test_neighbors_of_one_size_share_a_batch() -> None:
    data = [sample("a"), sample("b"), sample("c"), sample("d", (6, 8)), sample("e")]
    processor = KASegImageProcessor(do_pad=True, size_divisor=32)
    batches = list(prepared_batches(data, processor, batch_size=2))
    assert names(iter(batches)) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert batches[0][0].pixel_values.shape == (1, 3, 6, 8) and batches[2][0].size == (8, 6)


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_share_all_samples_and_none_twice(count: int, kind: Any) -> None:
    data = [sample(str(index)) for index in range(5)]
    found = [
        s
        for rank in range(count)
        for batch in prepared_batches(kind(data), KASegImageProcessor(), 2, 0, Processes(rank, count))
        for s in batch
    ]
    assert sorted(s.index for s in found) == [0, 1, 2, 3, 4] and all(s.name == str(s.index) for s in found)


def test_a_process_reads_its_own_samples_only() -> None:
    class Recorder(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    read: list[int] = []
    list(prepared_batches(Recorder(map(sample, "abcde")), KASegImageProcessor(), processes=Processes(1, 3)))
    assert read == [1, 4]


@pytest.mark.parametrize("labels", [np.array([[0, 300], [1, 255]], dtype=np.uint16), [[0, 300], [1, 255]]])
def test_labels_of_any_integer_type(labels: Any) -> None:
    ((prepared,),) = prepared_batches([sample("a", (2, 2), labels)], KASegImageProcessor())
    assert prepared.labels is not None and prepared.labels.tolist() == [[0, 300], [1, 255]]


def test_samples_without_labels() -> None:
    data = [sample("a", label=None), {"image": Image.new("RGB", (8, 6))}, sample("c", label=3)]
    (batch,) = prepared_batches(data, KASegImageProcessor(), batch_size=3)
    assert [s.labels is None for s in batch] == [True, True, False]
    assert [s.size for s in batch] == [(6, 8)] * 3 and [s.name for s in batch] == ["a", "1", "c"]
    (batch,) = prepared_batches(data, KASegImageProcessor(), batch_size=3, with_labels=False)
    assert all(s.labels is None for s in batch)


def test_workers_give_the_same_samples_in_the_same_order() -> None:
    data = load_segmentation_dataset("scenes", split="validation", num_scenes=5, height=32, width=48)
    here, there = (
        [s for batch in prepared_batches(data, KASegImageProcessor(), 2, workers) for s in batch] for workers in (0, 2)
    )
    assert [s.name for s in here] == [s.name for s in there] and len(here) == 5
    for first, second in zip(here, there, strict=True):
        assert torch.equal(first.pixel_values, second.pixel_values)
        assert first.labels is not None and second.labels is not None and torch.equal(first.labels, second.labels)


def test_mistakes() -> None:
    processor = KASegImageProcessor()
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            list(prepared_batches([sample("a")], processor, **options))
    with pytest.raises(ValueError, match="num_workers=2 needs a dataset with a length"):
        list(prepared_batches(iter([sample("a")]), processor, num_workers=2))
    for other in ((6, 8), (16, 12), (8, 7)):  # turned, scaled, of another image
        with pytest.raises(ValueError, match="Sample a failed: the image is 8x6 and its label mask"):
            list(prepared_batches([sample("a", label=Image.new("L", other))], processor))
    for image in (Image.new("F", (8, 6)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="Sample a failed: "):
            list(prepared_batches([sample("a", label=None) | {"image": image}], processor))
    with pytest.raises(ValueError, match="Sample a failed: its field 'label' is a ndarray of float64"):
        list(prepared_batches([sample("a", label=np.zeros((6, 8)))], processor))
