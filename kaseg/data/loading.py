"""Loading of segmentation data sets by name, from a folder or from the Hub, always in the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from PIL import Image

from kaseg.data.image_files import EncodedImage, read_image, read_mask
from kaseg.data.label_spaces import LabelSpace, map_labels, read_label_space
from kaseg.data.scenes import render_scene
from kaseg.data.sources import FOLDER_LAYOUT, SPECS, FileLayout, ParquetFiles, RenderedScenes
from kaseg.data.transforms import check_same_size

IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "mask", "annotation", "semantic_segmentation", "labels")
SPLIT_SYNONYMS = {"val": "validation"}
CLASS_FILES = ("classes.txt", "classes.json")

AnyDataset: TypeAlias = "datasets.Dataset | datasets.IterableDataset"
AnyDatasetDict: TypeAlias = "datasets.DatasetDict | datasets.IterableDatasetDict"

_ENCODED_FEATURES = datasets.Features(
    image=datasets.Image(decode=False), label=datasets.Image(decode=False), id=datasets.Value("string")
)


def load_segmentation_dataset(
    name: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    label_space: LabelSpace | str | Path | None = None,
    revision: str | None = None,
    **scene_options: int,
) -> AnyDataset | AnyDatasetDict:
    """Loads a data set whose samples are decoded when they are accessed.

    Every sample has three columns: `image` (PIL picture, mode "RGB", upright), `label` (PIL mask, mode "L", train ids
    with 255 for void, the size of the picture) and `id` (string).

    Args:
        name: One of
            - "camvid": `{split}.parquet` files in `data_dir`;
            - "voc2012": the official layout in `data_dir`, or in `VOC2012` or `VOCdevkit/VOC2012` below it;
            - "scenes": synthetic street scenes, drawn on access;
            - a folder with `images/` and `masks/` of equal stems, directly (then it is the split "train") or in
              `train/`, `validation/` and `test/`, and a `classes.txt` or `classes.json` (see [`read_label_space`]);
              "folder" with `data_dir` is the same;
            - a Hub id or a folder that `datasets.load_dataset` understands, with a picture and a mask column.
        split: "train", "validation" (or "val") or "test". Default: all, in a `DatasetDict`.
        data_dir: Folder of the data.
        streaming: Return an `IterableDataset`.
        image_column, label_column: Columns of Hub data. Default: guessed from the usual names.
        label_space: Meaning of the mask values: a [`LabelSpace`], the name of a known data set, or a file of class
            names. Needed for Hub data and for folders without class names.
        revision: Branch, tag or commit of Hub data.
        **scene_options: For "scenes" only: `num_scenes`, `height` (192), `width` (256), `seed` (0).

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` when streaming; in a dictionary by split if `split` is `None`.

    Raises:
        FileNotFoundError: If a file, a folder or the split is missing.
        ValueError: If arguments or columns do not fit. On access: if a sample cannot be decoded, sizes differ, or a
            label is out of range; the message names the sample.
    """
    name, split = str(name), SPLIT_SYNONYMS.get(split or "", split)
    if scene_options and name != "scenes":
        raise TypeError(f"load_segmentation_dataset: unexpected arguments {sorted(scene_options)} for {name!r}.")
    if not _is_known_layout(name, data_dir):
        space = get_label_space(name, data_dir, label_space)
        return _load_hub(name, split, data_dir, streaming, (image_column, label_column), space, revision)
    if image_column or label_column or revision:
        raise ValueError(f"image_column, label_column and revision are for Hub data; {name!r} has none of them.")
    return _load_known(name, split, data_dir, streaming, label_space, scene_options)


def get_label_space(
    name: str | Path, data_dir: str | Path | None = None, label_space: LabelSpace | str | Path | None = None
) -> LabelSpace:
    """The classes of a data set.

    Args:
        name: As in [`load_segmentation_dataset`].
        data_dir: Folder of the data, where `name` is "folder".
        label_space: As in [`load_segmentation_dataset`]; goes before what is known of `name`.

    Raises:
        ValueError: If the classes are not known; the message says how to give them.
    """
    if isinstance(label_space, LabelSpace):
        return label_space
    if label_space is not None:
        spec = SPECS.get(str(label_space))
        return spec.label_space if spec else read_label_space(label_space)
    name = str(name)
    if name in SPECS:
        return SPECS[name].label_space
    root = _local_root(name, data_dir)
    for file in CLASS_FILES:
        if root is not None and (root / file).is_file():
            return read_label_space(root / file)
    raise ValueError(
        f"The classes of {name!r} are not known. Pass label_space=: a LabelSpace, one of {sorted(SPECS)}, or a file of "
        f"class names; for a folder, {' or '.join(CLASS_FILES)} in it will do."
    )


def _local_root(name: str, data_dir: str | Path | None) -> Path | None:
    """The folder of a data set, or `None` for Hub ids (and for known names without `data_dir`)."""
    if name in SPECS or name == "folder":
        return Path(data_dir).expanduser() if data_dir is not None else None
    path = Path(name).expanduser()
    if path.is_dir():
        return path if data_dir is None else path / data_dir
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder, and not a Hub id or one of {sorted(SPECS)} either.")
    return None


def _is_known_layout(name: str, data_dir: str | Path | None) -> bool:
    if name in SPECS or name == "folder":
        return True
    root = _local_root(name, data_dir)
    return root is not None and bool(FOLDER_LAYOUT.splits(root))


def _load_known(
    name: str,
    split: str | None,
    data_dir: str | Path | None,
    streaming: bool,
    label_space: LabelSpace | str | Path | None,
    scene_options: dict[str, int],
) -> AnyDataset | AnyDatasetDict:
    layout = SPECS[name].layout if name in SPECS else FOLDER_LAYOUT
    if isinstance(layout, RenderedScenes):
        return _load_scenes(layout, split, streaming, get_label_space(name, data_dir, label_space), **scene_options)
    root = _local_root(name, data_dir)
    if root is None:
        homepage = f" The data can be had from {SPECS[name].homepage}." if name in SPECS else ""
        raise ValueError(f"load_segmentation_dataset({name!r}) needs data_dir=, the folder of its files.{homepage}")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data_dir of {name!r}).")
    available = layout.splits(root)
    if not available:
        raise FileNotFoundError(f"{root}: no split of {name!r} is there; expected {layout}.")
    space = get_label_space(name, data_dir, label_space)
    return _by_split(split, available, str(root), lambda part: _load_files(layout, root, part, streaming, space))


def _by_split(
    split: str | None, available: list[str], where: str, load: Callable[[str], AnyDataset]
) -> AnyDataset | AnyDatasetDict:
    if split is not None:
        if split not in available:
            raise FileNotFoundError(f"{where} has no split {split!r}; it has {', '.join(available)}.")
        return load(split)
    parts = {part: load(part) for part in available}
    streaming = any(isinstance(part, datasets.IterableDataset) for part in parts.values())
    return datasets.IterableDatasetDict(parts) if streaming else datasets.DatasetDict(parts)


def _load_files(
    layout: ParquetFiles | FileLayout, root: Path, split: str, streaming: bool, space: LabelSpace
) -> AnyDataset:
    if isinstance(layout, ParquetFiles):
        data_files = {split: str(layout.file(root, split))}
        data = datasets.load_dataset("parquet", data_files=data_files, split=split, streaming=streaming)
        return _standardize(data, None, None, f"{root}, split {split}", split, space)
    samples = layout.files(root, split)
    encoded = {
        "image": [str(sample.image) for sample in samples],
        "label": [str(sample.label) for sample in samples],
        "id": [sample.id for sample in samples],
    }
    data = datasets.Dataset.from_dict(encoded, features=_ENCODED_FEATURES)
    return _decode_on_access(data.to_iterable_dataset() if streaming else data, _DecodeSample(space))


def _load_hub(
    name: str,
    split: str | None,
    data_dir: str | Path | None,
    streaming: bool,
    columns: tuple[str | None, str | None],
    space: LabelSpace,
    revision: str | None,
) -> AnyDataset | AnyDatasetDict:
    where: dict[str, Any] = {"path": name, "revision": revision}
    if data_dir is not None:
        where["data_dir"] = str(data_dir)
    own_names = {SPLIT_SYNONYMS.get(own, own): own for own in datasets.get_dataset_split_names(**where)}

    def load(part: str) -> AnyDataset:
        data = datasets.load_dataset(**where, split=own_names[part], streaming=streaming)
        return _standardize(data, *columns, f"{name}, split {part}", part, space)

    return _by_split(split, list(own_names), name, load)


def _standardize(
    data: AnyDataset, image_column: str | None, label_column: str | None, where: str, split: str, space: LabelSpace
) -> AnyDataset:
    """Brings columns that hold pictures to `image`, `label` and `id`."""
    if data.column_names is None:
        raise ValueError(f"{where}: this stream does not tell its columns; load it with streaming=False.")
    names = list(data.column_names)
    image_column = _pick_column(image_column, IMAGE_COLUMNS, names, "image", where)
    label_column = _pick_column(label_column, LABEL_COLUMNS, names, "label", where)
    for column in (image_column, label_column):
        feature = data.features[column]
        if not isinstance(feature, datasets.Image) and feature != datasets.Value("string"):
            raise ValueError(
                f"{where}: column {column!r} holds {feature}, not pictures or their paths. (Plain folders need "
                f"images/ and masks/.)"
            )
        # Before anything else: other steps decode the pictures of a stream and encode them again, JPEGs with loss.
        # Column by column: `cast` would write a copy of the whole data set.
        data = data.cast_column(column, datasets.Image(decode=False))
    has_ids = "id" in names and "id" not in (image_column, label_column)
    data = data.select_columns([image_column, label_column, *(["id"] if has_ids else [])])
    renamed = {old: new for old, new in {image_column: "image", label_column: "label"}.items() if old != new}
    if renamed:
        data = data.rename_columns(renamed)
    if not has_ids:
        data = _number(data, split)
    return _decode_on_access(data, _DecodeSample(space))


def _number(data: AnyDataset, split: str) -> AnyDataset:
    if isinstance(data, datasets.Dataset):
        return data.add_column("id", [_index_id(split, index) for index in range(len(data))])
    return data.map(_add_id, with_indices=True, fn_kwargs={"split": split}, features=_ENCODED_FEATURES)


def _add_id(sample: dict[str, Any], index: int, split: str) -> dict[str, Any]:
    return {"id": _index_id(split, index)}


def _index_id(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def _pick_column(asked: str | None, usual: tuple[str, ...], names: list[str], what: str, where: str) -> str:
    if asked is not None and asked not in names:
        raise ValueError(f"{where}: no column {asked!r}; its columns are {names}.")
    found = [asked] if asked is not None else [name for name in usual if name in names]
    if not found:
        raise ValueError(f"{where}: no {what} column ({', '.join(usual)}) among {names}. Name it with {what}_column=.")
    return found[0]


class _DecodeSample:
    """Turns encoded columns into an upright RGB picture and a mask of train ids."""

    def __init__(self, label_space: LabelSpace) -> None:
        self.label_space = label_space

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        name, encoded_image, encoded_label = str(sample["id"]), sample["image"], sample["label"]
        image = read_image(_check(encoded_image, "image", name), name)
        label = Image.fromarray(
            map_labels(read_mask(_check(encoded_label, "label", name), name), self.label_space, name)
        )
        check_same_size(image, label, name)
        return {"image": image, "label": label, "id": name}


class _RenderSample:
    """Draws a synthetic scene."""

    def __init__(self, seed: int, height: int, width: int, split: str, label_space: LabelSpace) -> None:
        self.seed, self.height, self.width, self.split = seed, height, width, split
        self.label_space = label_space

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        pixels, labels = render_scene(self.seed, sample["index"], self.height, self.width)
        name = _index_id(self.split, sample["index"])
        label = Image.fromarray(map_labels(labels, self.label_space, name))
        return {"image": Image.fromarray(pixels), "label": label, "id": name}


class _Batched:
    """Applies a function of one sample to a batch of columns."""

    def __init__(self, function: _DecodeSample | _RenderSample) -> None:
        self.function = function

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        samples = [self.function(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        return {column: [sample[column] for sample in samples] for column in ("image", "label", "id")}


def _check(encoded: EncodedImage | None, column: str, name: str) -> EncodedImage:
    if encoded is None:
        raise ValueError(f"Sample {name}: column {column!r} is empty. Leave the sample out, or give it a {column}.")
    return encoded


def _decode_on_access(data: AnyDataset, function: _DecodeSample | _RenderSample) -> AnyDataset:
    if isinstance(data, datasets.IterableDataset):
        return data.map(function, remove_columns=data.column_names)
    return data.with_transform(_Batched(function))


def _load_scenes(
    layout: RenderedScenes,
    split: str | None,
    streaming: bool,
    space: LabelSpace,
    num_scenes: int | None = None,
    height: int = 192,
    width: int = 256,
    seed: int = 0,
) -> AnyDataset | AnyDatasetDict:
    available = list(layout.num_scenes)

    def load(part: str) -> AnyDataset:
        count = layout.num_scenes[part] if num_scenes is None else num_scenes
        data = datasets.Dataset.from_dict({"index": list(range(count))})
        # Splits never share a seed, whatever seeds are asked for.
        part_seed = seed * len(available) + available.index(part)
        render = _RenderSample(part_seed, height, width, part, space)
        return _decode_on_access(data.to_iterable_dataset() if streaming else data, render)

    return _by_split(split, available, "The data set 'scenes'", load)
