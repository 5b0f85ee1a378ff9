import pytest
import torch

from kaseg.data.collator import EvalCollator, SegmentationCollator, unpadded_batches


def _sample(height: int, width: int, value: int = 1, label_size: tuple[int, int] | None = None) -> dict:
    labels = torch.full(label_size or (height, width), value)
    return {"pixel_values": torch.full((3, height, width), float(value)), "labels": labels}


def test_equal_sizes_are_stacked():
    batch = SegmentationCollator()([_sample(4, 5, 1), _sample(4, 5, 2)])
    assert batch["pixel_values"].shape == (2, 3, 4, 5) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].shape == (2, 4, 5) and batch["labels"].dtype == torch.int64
    assert (batch["labels"][1] == 2).all()


def test_different_sizes_are_padded():
    sizes, expected = [(4, 7), (6, 5)], (6, 7)
    batch = SegmentationCollator()([_sample(*size) for size in sizes])
    assert batch["labels"].shape == (2, *expected)
    for index, (height, width) in enumerate(sizes):
        inside = torch.zeros(expected, dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(batch["pixel_values"][index], inside.float().expand(3, -1, -1))
        assert torch.equal(batch["labels"][index], torch.where(inside, 1, 255))


def test_resized_pictures_keep_the_size_of_their_labels():
    batch = SegmentationCollator()([_sample(4, 5, label_size=(8, 10))] * 2)
    assert batch["pixel_values"].shape == (2, 3, 4, 5) and batch["labels"].shape == (2, 8, 10)


@pytest.mark.parametrize("other", [((4, 6), (8, 12)), ((4, 5), (8, 11))])
def test_padding_never_shifts_labels_against_pictures(other):
    samples = [_sample(*size, label_size=label_size) for size, label_size in (((4, 5), (8, 10)), other)]
    with pytest.raises(ValueError, match="cannot be padded alike"):
        SegmentationCollator()(samples)


@pytest.mark.parametrize("count", range(5))
def test_what_is_padded_for_evaluation_is_unpadded(count: int) -> None:
    """Also where labels keep their size while images were resized."""
    sizes = [((4, 6), (8, 12)), ((4, 6), (9, 12)), ((5, 3), (5, 3)), ((4, 6), (4, 6))]
    samples = [{"pixel_values": torch.rand(3, *image), "labels": torch.randint(0, 5, label)} for image, label in sizes]
    batch = EvalCollator()(samples)
    runs = list(unpadded_batches(batch, count))
    assert [len(images) for images, _ in runs] == [[], [1], [2], [2, 1], [2, 1, 1]][count]
    images = [image for batch, _ in runs for image in batch]
    labels = [label for _, of_run in runs for label in of_run]
    for sample, image, label in zip(samples, images, labels, strict=False):
        assert torch.equal(sample["pixel_values"], image) and torch.equal(sample["labels"], label)
    without = {name: torch.zeros(2, 3, 4, 4) for name in ("pixel_values", "labels")}
    assert len(list(unpadded_batches(without, min(count, 2)))) == min(count, 1)
