import doctest
import itertools

import numpy as np
import pytest
import torch

from kaseg.data import BatchMixer, mixing
from kaseg.data.mixing import draw_boxes, half_of_the_classes


def make_batch(count: int = 6, height: int = 12, width: int = 16, unlabelled: tuple[int, ...] = ()) -> dict:
    """Images whose pixels and labels say which image they are from and where they lie."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(height * width).view(1, 1, height, width)
    pixel_values = (1000 * torch.arange(count).view(-1, 1, 1, 1) + place).expand(-1, 3, -1, -1).float()
    # Squares of classes, of which every image has some of its own, and a strip of void.
    labels = torch.randint(0, 7, (count, height // 4, width // 4), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, 0] = 255
    labels[list(unlabelled)] = 255
    return {"pixel_values": pixel_values, "labels": labels}


def origins(batch: dict) -> torch.Tensor:
    """Which image each pixel (B, H, W) is from; checks that it lies where it lay."""
    values = batch["pixel_values"]
    height, width = values.shape[-2:]
    assert torch.equal(
        values[:, 0] % 1000, torch.arange(height * width).view(height, width).expand(len(values), -1, -1)
    )
    assert torch.equal(values[:, 0], values[:, 1]) and torch.equal(values[:, 0], values[:, 2])
    return (values[:, 0] // 1000).long()


@pytest.mark.parametrize("method", ["cutmix", "classmix"])
@pytest.mark.parametrize("images", ["all", "unlabelled"])
def test_labels_are_mixed_as_the_images_are(method: str, images: str) -> None:
    batch = make_batch(unlabelled=(1, 2, 4))
    kept = {name: value.clone() for name, value in batch.items()}
    somewhere = False
    for step in range(8):
        mixed = BatchMixer(method, 1.0, images)(batch, step, classify=lambda x: (x[:, 0] % 3).long())
        source = origins(mixed)
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in source.shape[1:]), indexing="ij")
        assert torch.equal(mixed["labels"], kept["labels"][source, rows, columns])
        own = torch.arange(6).view(-1, 1, 1)
        somewhere |= bool((source != own).any())
        for index in range(6):
            others = set(source[index].unique().tolist()) - {index}
            assert len(others) <= 1
            if images == "unlabelled":
                assert others <= {1, 2, 4} and (index in (1, 2, 4) or not others)
    assert somewhere
    assert all(torch.equal(batch[name], value) for name, value in kept.items())


def test_boxes_are_those_of_the_formula() -> None:
    count, size = 200, (20, 31)
    masks = draw_boxes(count, size, torch.Generator().manual_seed(3)).numpy()
    draws = torch.rand(3, count, generator=torch.Generator().manual_seed(3)).double().numpy()
    heights = set()
    for mask, u, top, left in zip(masks, *draws, strict=True):
        height, width = round(20 * 0.5**u), round(31 * 0.5 ** (1 - u))
        first, start = round((20 - height) * top), round((31 - width) * left)
        expected = np.zeros(size, bool)
        expected[first : first + height, start : start + width] = True
        assert np.array_equal(mask, expected)
        heights.add(height)
    # Half of the area, but for rounding, in every form from half as high to half as wide.
    assert abs(masks.mean() - 0.5) < 0.01 and heights == set(range(10, 21))


def test_half_of_the_classes_rounded_down_and_never_void() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (40, 6, 6), generator=generator)
    labels[labels == 4] = 255
    labels[0], labels[1] = 255, 3
    labels[2] = torch.tensor([0, 255, 2]).repeat(12).view(6, 6)
    scores = torch.rand(40, 256, generator=generator)
    masks = half_of_the_classes(labels, scores)
    for mask, label, score in zip(masks, labels, scores, strict=True):
        classes = [value for value in label.unique().tolist() if value != 255]
        chosen = sorted(classes, key=lambda value: -score[value])[: len(classes) // 2]
        assert torch.equal(mask, torch.isin(label, torch.tensor(chosen, dtype=torch.long)))
    assert not masks[0].any() and not masks[1].any() and masks[2].sum() == 12


def test_every_class_is_chosen_as_often() -> None:
    labels = torch.tensor([[0, 1], [2, 3]]).expand(4000, -1, -1)
    masks = half_of_the_classes(labels, torch.rand(4000, 256, generator=torch.Generator().manual_seed(1)))
    assert (masks.float().mean(0) - 0.5).abs().max() < 0.04  # five standard deviations


def test_classes_of_unlabelled_images_are_those_that_are_asked_for() -> None:
    batch = make_batch(4, unlabelled=(0, 1, 2, 3))
    asked = []

    def left_and_right(images: torch.Tensor) -> torch.Tensor:
        asked.append((images[:, 0, 0, 0] // 1000).tolist())
        return (torch.arange(16) >= 8).long().expand(len(images), 12, -1)

    for step in range(6):
        source = origins(BatchMixer("classmix", 1.0)(batch, step, classify=left_and_right))
        pasted = source != torch.arange(4).view(-1, 1, 1)
        assert ((pasted[..., :8].all((1, 2))) ^ (pasted[..., 8:].all((1, 2)))).all()
    assert all(sorted(images) == [0, 1, 2, 3] for images in asked) and len(asked) == 6
    assert origins(BatchMixer("classmix", 1.0)(batch, 0)).eq(torch.arange(4).view(-1, 1, 1)).all()


def test_only_what_is_pasted_from_is_asked_for() -> None:
    batch = make_batch(6, unlabelled=(0, 3))
    for step in range(20):
        seen: list[int] = []

        def note(images: torch.Tensor, seen: list[int] = seen) -> torch.Tensor:
            seen += (images[:, 0, 0, 0] // 1000).int().tolist()
            return images[:, 0].long() % 2

        source = origins(BatchMixer("classmix", 0.3)(batch, step, classify=note))
        pasted = [set(image.unique().tolist()) - {index} for index, image in enumerate(source)]
        assert sorted(seen) == sorted({0, 3} & set(itertools.chain.from_iterable(pasted)))


@pytest.mark.parametrize("method", ["cutmix", "classmix"])
def test_draws_are_a_function_of_seed_and_numbers(method: str) -> None:
    batch = make_batch()

    def mixed(seed: int, *numbers: int) -> torch.Tensor:
        torch.manual_seed(len(numbers) + seed)
        return BatchMixer(method, seed=seed)(batch, *numbers)["pixel_values"]

    assert torch.equal(mixed(1, 5, 0, 0), mixed(1, 5, 0, 0))
    before = torch.get_rng_state()
    BatchMixer(method, 1.0)(batch, 0)
    assert torch.equal(before, torch.get_rng_state()), "another generator is drawn from"
    others = [mixed(1, 5, 0, 0), mixed(2, 5, 0, 0), mixed(1, 6, 0, 0), mixed(1, 5, 1, 0), mixed(1, 5, 0, 1)]
    assert all(not torch.equal(first, second) for first, second in itertools.combinations(others, 2))


@pytest.mark.parametrize("probability", [0.2, 0.5, 1.0])
def test_as_many_are_mixed_as_the_probability_says(probability: float) -> None:
    mixer, batch, changed = BatchMixer("cutmix", probability), make_batch(8), 0
    for step in range(150):
        changed += (mixer(batch, step)["pixel_values"] != batch["pixel_values"]).flatten(1).any(1).sum().item()
    assert abs(changed / 1200 - probability) < 5 * 0.5 / 1200**0.5 and (probability < 1 or changed == 1200)


def test_nobody_is_left_over_however_many_there_are() -> None:
    for count in (2, 3, 7):
        batch = make_batch(count)
        for step in range(10):
            mixed = BatchMixer("cutmix", 1.0)(batch, step)
            assert (mixed["pixel_values"] != batch["pixel_values"]).flatten(1).any(1).all()
    for unlabelled in ((2,), ()):  # but who has no other
        batch = make_batch(unlabelled=unlabelled)
        mixed = BatchMixer("cutmix", 1.0, "unlabelled")(batch, 0)
        assert all(torch.equal(mixed[name], batch[name]) for name in batch)


def test_further_entries_and_types_are_kept() -> None:
    batch = {**make_batch(), "names": ["a"]}
    batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    mixed = BatchMixer("cutmix", 1.0)(batch, 0)
    assert mixed["names"] == ["a"] and mixed["pixel_values"].dtype == torch.bfloat16
    assert mixed["labels"].dtype == torch.int64
    batch["labels"] = batch["labels"][:, ::2]
    with pytest.raises(ValueError, match=r"pixel_values are \(12, 16\) and labels \(6, 16\)"):
        BatchMixer("cutmix")(batch, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mixup"}, "mix must be one of .*cutmix.*, got 'mixup'"),
        ({"method": "cutmix", "probability": 0.0}, "mix_probability must be over 0 and at most 1, got 0.0"),
        ({"method": "cutmix", "probability": 1.5}, "mix_probability must be over 0 and at most 1, got 1.5"),
        ({"method": "cutmix", "probability": float("nan")}, "mix_probability must be over 0"),
        ({"method": "cutmix", "images": "labelled"}, "mix_of must be one of .*unlabelled.*, got 'labelled'"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchMixer(**settings)


def test_the_example_runs() -> None:
    assert doctest.testmod(mixing).failed == 0
