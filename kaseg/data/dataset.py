"""PyTorch datasets that augment each sample as a pure function of (seed, epoch, sample)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import datasets
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from kaseg.data.own_samples import is_prepared, standard_sample
from kaseg.pixels import VOID

_NAME_BYTES = 64

Transform = Callable[[Image.Image, Image.Image], dict[str, torch.Tensor]]
# The whole image and where the crop lies in it (see TrainTransform.with_view) -> further inputs by name.
MapsOfCrop = Callable[[Image.Image, tuple[float, float, float, float]], dict[str, torch.Tensor]]


def sample_seed(*parts: int | str) -> int:
    """A seed of 64 bits that is a function of the parts, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_name(name: Any) -> torch.Tensor:
    """A sample's name as a tensor of one length, which travels in batches like any other (cut off where too long)."""
    text = str(name).encode()[:_NAME_BYTES]
    return torch.tensor([*text, *bytes(_NAME_BYTES - len(text))], dtype=torch.uint8)


def read_names(names: torch.Tensor) -> list[str]:
    """The names of a batch (B, 64) of [`write_name`]."""
    return [bytes(name).rstrip(b"\0").decode(errors="ignore") for name in names.tolist()]


class _Augmented:
    """Transforms samples with torch's CPU generator seeded for each, and keeps the epoch of the augmentation.

    The epoch lies in shared memory, so that DataLoader workers that already run see `set_epoch`.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Transform,
        seed: int = 0,
        unlabelled: bool = False,
        num_labels: int | None = None,
        maps: MapsOfCrop | None = None,
        with_names: bool = False,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.unlabelled = unlabelled
        self.num_labels = num_labels
        self.maps = maps
        self.with_names = with_names
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose augmentation is drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, in running DataLoader workers too, and that of the data where they have one."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def _augment(self, example: Any, key: int | str) -> dict[str, torch.Tensor]:
        """The inputs made of a sample; `key` names it for the seed, and in `sample_names` where it has no `id`."""
        example = standard_sample(example, with_label=not self.unlabelled)
        if self.unlabelled:
            example = {**example, "label": Image.new("L", example["image"].size, VOID)}
        inputs = self._inputs(example, sample_seed(self.seed, self.epoch, key))
        if self.num_labels is not None:
            labels = inputs["labels"]
            outside = labels[((labels >= self.num_labels) | (labels < 0)) & (labels != VOID)]
            if outside.numel():
                raise ValueError(
                    f"label {int(outside[0])} is neither one of the model's {self.num_labels} classes nor void ({VOID})"
                )
        return {**inputs, "sample_names": write_name(example.get("id", key))} if self.with_names else inputs

    def _inputs(self, example: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
        if is_prepared(example):
            if self.maps is not None:
                raise ValueError(
                    "its pixel_values are prepared already, and the teacher's maps are of whole images: give images, "
                    "or set teacher_view to 'crop'"
                )
            return {name: example[name] for name in ("pixel_values", "labels")}
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the CUDA generators too, and every forward pass would drop the same units.
            torch.default_generator.manual_seed(seed)
            if self.maps is None:
                return self.transform(example["image"], example["label"])
            inputs, view = self.transform.with_view(example["image"], example["label"])  # type: ignore[attr-defined]
            return inputs | self.maps(example["image"], view)


class SegmentationDataset(_Augmented, torch.utils.data.Dataset):
    """A map-style dataset of transformed samples.

    Samples may have any of the forms of [`~kaseg.data.own_samples.standard_sample`]; those with normalized
    `pixel_values` are taken as they are.

    The transform runs with torch's CPU generator seeded from (seed, epoch, index) and put back afterwards. So the
    augmentation does not depend on the number of workers, on the order of access or on the global generator, and a
    resumed run sees exactly what the unbroken run would have seen. Transforms must draw from torch only.

    Args:
        dataset: Data with the columns `image` and `label`, as [`load_segmentation_dataset`] returns it, or anything
            with a length whose entries are samples: a list, a `torch.utils.data.Dataset` or a `Subset`.
        transform: Takes (image, label) and returns the model's inputs, for example [`TrainTransform`].
        seed: Seed of the augmentation.
        unlabelled: Take the images alone: every pixel's label is void, and `label` need not be there.
        num_labels: Refuse labels outside these classes; by default they are not looked at.
        maps: Adds inputs for the crop, such as a teacher's maps of it; `transform` is then a [`TrainTransform`].
        with_names: Also give `sample_names`, the sample's id as [`write_name`] has it.
    """

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The transformed sample.

        Raises:
            IndexError: There is no such sample.
            ValueError: The sample cannot be read or transformed, or has a label outside the classes; the message names
                it.
        """
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)} samples")
        index %= len(self)
        name = f"number {index}"
        try:
            example = self.dataset[index]
            if isinstance(example, Mapping) and "id" in example:
                name = f"number {index} (id {example['id']})"
            return self._augment(example, index)
        except Exception as error:
            raise ValueError(f"Sample {name} failed: {error}") from error


class WithUnlabelled(torch.utils.data.ConcatDataset):
    """Labelled samples, then unlabelled ones; those of which there are too few are repeated.

    Shuffled, `labelled_share` of a batch is labelled on average. Repeated samples are augmented anew each time.

    Args:
        labelled: Data with the columns `image` and `label`.
        unlabelled: Data with the column `image`; a `ConcatDataset` of several such.
        transform, seed, num_labels, maps: As for [`SegmentationDataset`].
        labelled_share: Above 0 and below 1.

    Raises:
        ValueError: One of the two is empty.
    """

    def __init__(
        self,
        labelled: datasets.Dataset,
        unlabelled: datasets.Dataset | torch.utils.data.ConcatDataset,
        transform: Transform,
        seed: int = 0,
        num_labels: int | None = None,
        maps: MapsOfCrop | None = None,
        labelled_share: float = 0.5,
    ) -> None:
        if not len(labelled) or not len(unlabelled):
            raise ValueError(f"There are {len(labelled)} labelled and {len(unlabelled)} unlabelled samples: need both.")
        samples = max(len(labelled) / labelled_share, len(unlabelled) / (1 - labelled_share))
        lengths = round(samples * labelled_share), round(samples * (1 - labelled_share))
        options: dict[str, Any] = {"maps": maps, "with_names": True}
        first = SegmentationDataset(_repeated(labelled, lengths[0]), transform, seed, num_labels=num_labels, **options)
        # With a seed of its own, so that the two samples of an index are not augmented alike.
        own_seed = sample_seed(seed, "unlabelled")
        second = SegmentationDataset(_repeated(unlabelled, lengths[1]), transform, own_seed, unlabelled=True, **options)
        super().__init__([first, second])
        self.dataset = labelled  # whose name and license a model card states

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the augmentation."""
        for part in self.datasets:
            part.set_epoch(epoch)  # type: ignore[attr-defined]


def _repeated(data: Any, length: int) -> Any:
    if len(data) == length:
        return data
    return torch.utils.data.Subset(data, [index % len(data) for index in range(length)])


class StreamingSegmentationDataset(_Augmented, torch.utils.data.IterableDataset):
    """The iterable counterpart of [`SegmentationDataset`], for streamed data.

    The augmentation is a function of (seed, epoch, id of the sample), so that neither shuffling nor the number of
    workers changes it.

    Args:
        dataset: Streamed data with the columns `image`, `label` and `id`, as [`load_segmentation_dataset`] returns it
            with `streaming=True`.
        transform, seed, num_labels, with_names: As for [`SegmentationDataset`].
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        transform: Transform,
        seed: int = 0,
        num_labels: int | None = None,
        with_names: bool = False,
    ) -> None:
        super().__init__(dataset, transform, seed, num_labels=num_labels, with_names=with_names)

    def share(self, index: int, count: int) -> Self:
        """The samples of process `index` out of `count`: every sample is in one of the shares, none in two."""
        own = split_dataset_by_node(self.dataset, index, count)
        return type(self)(own, self.transform, self.seed, self.num_labels, self.with_names)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for example in self.dataset:
            if "id" not in example and not is_prepared(example):
                raise ValueError(
                    f"The stream has the columns {sorted(example)} but no 'id', from which the augmentation is drawn: "
                    "load it with load_segmentation_dataset(..., streaming=True), or add one."
                )
            try:
                yield self._augment(example, example.get("id", ""))
            except Exception as error:
                raise ValueError(f"Sample with id {example.get('id')} failed: {error}") from error
