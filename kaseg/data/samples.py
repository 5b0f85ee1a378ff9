"""Samples of `datasets`: their columns, and decoding and drawing when they are accessed."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import datasets
import pyarrow.compute as pc
from PIL import Image

from kaseg.data.bad_samples import BadSamples, SkippedSample
from kaseg.data.image_files import EncodedImage, read_image, read_mask, warn_if_only_the_image_is_turned
from kaseg.data.label_spaces import LabelSpace, map_labels
from kaseg.data.scenes import render_scene
from kaseg.data.transforms import check_sample

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset
SampleFunction: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

# The usual names of the columns of images and masks.
IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "mask", "annotation", "semantic_segmentation", "labels")
ENCODED_FEATURES = datasets.Features(
    image=datasets.Image(decode=False), label=datasets.Image(decode=False), id=datasets.Value("string")
)


@dataclass
class DecodeSample:
    """Turns encoded columns into an upright RGB image and a mask of train ids; `None` where there may be none
    (`unlabelled`)."""

    label_space: LabelSpace
    unlabelled: bool = False

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        name = str(sample["id"])
        image = read_image(_check(sample["image"], "image", name), name)
        label = self.mask(sample)
        if label is not None:
            paths = [str(encoded["path"]) for encoded in (sample["image"], sample["label"]) if encoded.get("path")]
            where = f"{name} ({', '.join(paths)})" if paths else name
            check_sample(image, label, where)
            warn_if_only_the_image_is_turned(image, sample["label"], where)
        return {"image": image, "label": label, "id": name}

    def mask(self, sample: Mapping[str, Any]) -> Image.Image | None:
        """The mask of train ids alone, of the encoded columns `label` and `id`; `None` where there may be none."""
        name, encoded = str(sample["id"]), sample["label"]
        if encoded is None and self.unlabelled:
            return None
        encoded = _check(encoded, "label", name)
        mask = read_mask(encoded, name, colors=self.label_space.encoding == "color")
        return Image.fromarray(map_labels(mask, self.label_space, name, encoded.get("path")))


def render_sample(
    sample: dict[str, Any], seed: int, height: int, width: int, split: str, label_space: LabelSpace
) -> dict[str, Any]:
    """Draws the synthetic scene of an `index`."""
    pixels, labels = render_scene(seed, sample["index"], height, width)
    name = index_id(split, sample["index"])
    label = Image.fromarray(map_labels(labels, label_space, name))
    return {"image": Image.fromarray(pixels), "label": label, "id": name}


@dataclass
class _Batched:
    """Applies a function of one sample to a batch of columns; leaves samples on which it fails to `bad`, if given.

    The first one is warned about; all are added to `bad.skipped`, in this process (a DataLoader's workers each have a
    list of their own).
    """

    function: SampleFunction
    bad: BadSamples | None = None
    warned: bool = False

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        samples = []
        for values in zip(*batch.values(), strict=True):
            sample = dict(zip(batch, values, strict=True))
            try:
                samples.append(self.function(sample))
            except (ValueError, OSError) as error:
                if self.bad is None:
                    raise
                if not self.warned:
                    self.warned = True
                    warnings.warn(
                        f"{self.bad.where}: a sample was skipped. {error} Further ones are skipped without a warning; "
                        "load_segmentation_dataset(..., skipped=a_list) lists them all.",
                        stacklevel=2,
                    )
                self.bad.reject([SkippedSample(str(sample["id"]), str(error))])
        return {column: [sample[column] for sample in samples] for column in ("image", "label", "id")}


def index_id(split: str, index: int) -> str:
    """The id of a sample that has none of its own."""
    return f"{split}-{index:06d}"


def _check(encoded: EncodedImage | None, column: str, name: str) -> EncodedImage:
    if encoded is None:
        raise ValueError(f"Sample {name}: column {column!r} is empty. Leave the sample out, or give it a {column}.")
    return encoded


def mask_reader(data: Any) -> Callable[[int], Any]:
    """A function from the number of a sample to its mask; without its image, where that is decoded on access."""
    transform = data.format["format_kwargs"].get("transform") if isinstance(data, datasets.Dataset) else None
    if isinstance(transform, _Batched) and isinstance(transform.function, DecodeSample):
        decode, encoded = transform.function, data.with_format(None).select_columns(["label", "id"])
        return lambda index: decode.mask(encoded[index])
    if isinstance(data, datasets.Dataset) and data.format["type"] is None and "label" in data.column_names:
        data = data.select_columns(["label"])

    return lambda index: mask_of(data[index])


def mask_of(sample: Any) -> Any:
    """The mask of a sample in any of the forms of [`~kaseg.data.own_samples.standard_sample`], if it has one."""
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[1]
    names = LABEL_COLUMNS if isinstance(sample, Mapping) else ()
    return next((sample[name] for name in names if name in sample), None)


def decode_on_access(data: AnyDataset, function: SampleFunction, bad: BadSamples | None = None) -> AnyDataset:
    """Applies a function that makes `image`, `label` and `id` of a sample whenever one is accessed. Samples of a stream
    on which it fails go to `bad`, if given."""
    if not isinstance(data, datasets.IterableDataset):
        return data.with_transform(_Batched(function))
    if bad is None:
        return data.map(function, remove_columns=data.column_names)
    return data.map(_Batched(function, bad), batched=True, batch_size=1, remove_columns=data.column_names)


def source_files(data: Any) -> set[str]:
    """Real paths of the image and mask files that a dataset is decoded from, as far as it tells."""
    if not isinstance(data, datasets.Dataset):
        return set()
    found = []
    for column in {"image", "label"} & {*data.column_names}:
        if isinstance(data.features[column], datasets.Image):
            encoded = data.data.column(column)
            is_file = pc.is_null(pc.struct_field(encoded, "bytes"))
            found += pc.struct_field(encoded, "path").filter(is_file).drop_null().to_pylist()
    return {os.path.realpath(path) for path in found}


def standard_columns(
    data: AnyDataset, image_column: str | None, label_column: str | None, where: str, split: str
) -> AnyDataset:
    """Gives data with encoded `image` and `label`, from columns that are named or have a usual name, and an `id`, made
    of `split` where there is none. "test" may lack masks. A ValueError calls the data `where` and names its columns."""
    if data.column_names is None:
        raise ValueError(f"{where}: this stream does not tell its columns; load it with streaming=False.")
    names, encoded = list(data.column_names), datasets.Image(decode=False)
    image_column = _pick_column(image_column, IMAGE_COLUMNS, names, "image", where)
    lacks_labels = split == "test" and label_column is None and not any(name in names for name in LABEL_COLUMNS)
    label_column = None if lacks_labels else _pick_column(label_column, LABEL_COLUMNS, names, "label", where)
    for column in filter(None, (image_column, label_column)):
        feature = data.features[column]
        if not isinstance(feature, datasets.Image) and feature != datasets.Value("string"):
            raise ValueError(
                f"{where}: column {column!r} holds {feature}, not images or their paths. (Plain folders need "
                f"images/ and masks/.)"
            )
        # Before anything else: other steps decode the images of a stream and encode them again, JPEGs with loss.
        # Column by column: `cast` would write a copy of the whole dataset.
        data = data.cast_column(column, encoded)
    if label_column is None:
        label_column = "label"
        if isinstance(data, datasets.Dataset):
            data = data.add_column(label_column, [None] * len(data), feature=encoded)
        else:
            data = data.map(_add_no_label, features=datasets.Features({**data.features, label_column: encoded}))
    has_ids = "id" in names and "id" not in (image_column, label_column)
    data = data.select_columns([image_column, label_column, *(["id"] if has_ids else [])])
    renamed = {old: new for old, new in {image_column: "image", label_column: "label"}.items() if old != new}
    if renamed:
        data = data.rename_columns(renamed)
    if has_ids:
        return data
    if isinstance(data, datasets.Dataset):
        return data.add_column("id", [index_id(split, index) for index in range(len(data))])
    return data.map(_add_id, with_indices=True, fn_kwargs={"split": split}, features=ENCODED_FEATURES)


def _add_no_label(sample: dict[str, Any]) -> dict[str, Any]:
    return {"label": None}


def _add_id(sample: dict[str, Any], index: int, split: str) -> dict[str, Any]:
    return {"id": index_id(split, index)}


def _pick_column(asked: str | None, usual: tuple[str, ...], names: list[str], what: str, where: str) -> str:
    if asked is not None and asked not in names:
        raise ValueError(f"{where}: no column {asked!r}; its columns are {names}.")
    found = asked if asked is not None else next((name for name in usual if name in names), None)
    if found is None:
        raise ValueError(f"{where}: no {what} column ({', '.join(usual)}) among {names}. Name it with {what}_column=.")
    return found
