"""Loading of segmentation datasets by name, from a folder or from the Hub, always in the same form."""

import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from kaseg.data.bad_samples import ON_ERROR, BadSamples, SkippedSample, drop_bad_samples, drop_doubled_ids
from kaseg.data.label_spaces import LabelSpace, read_label_space
from kaseg.data.layouts import FileLayout, NamedFiles, PairedFolders, ParquetFiles, RenderedScenes, whats_there
from kaseg.data.samples import (
    ENCODED_FEATURES,
    AnyDataset,
    DecodeSample,
    decode_on_access,
    render_sample,
    standard_columns,
)
from kaseg.data.sources import FOLDER_LAYOUT, SPECS, DatasetSpec, find_label_space, hub_source

SPLIT_SYNONYMS = {"val": "validation"}
CLASS_FILES = ("classes.txt", "classes.json")

AnyDatasetDict: TypeAlias = datasets.DatasetDict | datasets.IterableDatasetDict
AnyLabelSpace: TypeAlias = LabelSpace | str | Path | None


@dataclass(frozen=True)
class _Request:
    """What a user asks for."""

    name: str
    split: str | None
    data_dir: str | Path | None
    streaming: bool
    label_space: AnyLabelSpace
    on_error: str
    skipped: list[SkippedSample] | None
    num_proc: int | None

    def bad(self, split: str) -> BadSamples:
        """Where the bad samples of a split go."""
        skipped = [] if self.skipped is None else self.skipped
        return BadSamples(f"{self.name}, split {split}", self.on_error == "skip", skipped)


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
    config_name: str | None = None,
    image_folder: str | None = None,
    label_folder: str | None = None,
    on_error: str = "raise",
    skipped: list[SkippedSample] | None = None,
    num_proc: int | None = None,
    **scene_options: int,
) -> AnyDataset | AnyDatasetDict:
    """Loads a dataset whose samples are decoded when they are accessed.

    Every sample has three columns: `image` (PIL image, mode "RGB", upright), `label` (PIL mask, mode "L", train ids
    with 255 for void, the size of the image) and `id` (string). In test splits that are published without masks,
    `label` is `None`: they can be predicted, not trained on or scored. `info` names the dataset and its license.

    Args:
        name: A known dataset ("ade20k", "camvid", "cityscapes", "cityscapes_coarse", "coco_stuff", "pascal_context",
            "pascal_context_60", "voc2012"; docs/datasets.md describes them), whose files lie in `data_dir` as they are
            published; "scenes", street scenes drawn on access; a folder with `images/` and `masks/` of equal stems,
            directly (the split "train") or in `train/`, `validation/` and `test/`, and a `classes.txt` or
            `classes.json` (see [`read_label_space`]; "folder" with `data_dir` is the same); or a Hub id or folder that
            `datasets.load_dataset` understands, with a column of images and one of masks.
        split: "train", "validation" (or "val"), "test", or one that the dataset has besides: "trainval" and "trainaug"
            (with the masks of SBD) of "voc2012", "train_extra" of "cityscapes_coarse". Default: all, in a dictionary.
        data_dir: Folder of the data.
        streaming: Return an `IterableDataset`.
        image_column, label_column: Columns of Hub data. Default: those known of that Hub id, or else the usual names.
        label_space: Meaning of the mask values: a [`LabelSpace`]; "NAME" or "NAME:ENCODING", the classes of a known
            dataset in one of its label encodings, such as "cityscapes:train_ids"; a file of class names; or
            "NAME:color", "FILE:color" for masks of colors. Needed for unknown Hub data and folders without class names.
        revision, config_name: Branch, tag or commit of Hub data, and their configuration.
        image_folder, label_folder: For own folders: names in place of "images" and "masks", such as "JPEGImages", or
            paths with `{split}` in them, such as "images/{split}".
        on_error: "raise", or "skip" to leave out samples that cannot be used, with one warning that counts and lists
            them. This tries every sample once when loading; a stream leaves them out as it comes to them.
        skipped: A list, to which the [`SkippedSample`]s (id, reason) are added; by a stream while it is read.
        num_proc: Number of processes that try the samples. Default: this one alone.
        **scene_options: For "scenes" only: `num_scenes`, `height` (192), `width` (256), `seed` (0).

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` when streaming; in a dictionary by split if `split` is `None`.

    Raises:
        FileNotFoundError: A file, a folder or the split is missing; the message says what was looked for.
        OSError: Hub data cannot be reached.
        TypeError: Scene options for other data than "scenes".
        ValueError: Arguments or columns do not fit, a split is empty or ids are doubled. On access: a sample cannot be
            decoded, sizes differ, or a label is out of range; the message names the sample and its file.
    """
    name, split = str(name), SPLIT_SYNONYMS.get(split or "", split)
    if scene_options and name != "scenes":
        raise TypeError(f"load_segmentation_dataset: unexpected arguments {sorted(scene_options)} for {name!r}.")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}.")
    if on_error == "raise" and (skipped is not None or num_proc is not None):
        raise ValueError("skipped and num_proc would change nothing: they are for on_error='skip'.")
    request = _Request(name, split, data_dir, streaming, label_space, on_error, skipped, num_proc)
    own = [
        folder and (folder if "{split}" in folder else f"{{split}}/{folder}") for folder in (image_folder, label_folder)
    ]
    folders = PairedFolders(own[0] or FOLDER_LAYOUT.image_folder, own[1] or FOLDER_LAYOUT.label_folder)
    hub_options = {"image": image_column, "label": label_column, "revision": revision, "config": config_name}
    root = _local_root(name, data_dir)
    if name not in SPECS and name != "folder" and (root is None or not folders.splits(root)):
        if folders != FOLDER_LAYOUT:
            raise _nothing_there(request, [folders])
        return _signed(_load_hub(request, hub_options), name)
    if any(hub_options.values()):
        raise ValueError(
            f"image_column, label_column, revision and config_name are for Hub data; {name!r} has none of them."
        )
    if name in SPECS and folders != FOLDER_LAYOUT:
        raise ValueError(f"image_folder and label_folder are for own folders; those of {name!r} are known.")
    if name == "scenes":
        return _signed(_load_scenes(request, **scene_options), name)
    return _signed(_load_local(request, folders), name)


def _signed(data: AnyDataset | AnyDatasetDict, name: str) -> AnyDataset | AnyDatasetDict:
    """Writes name, license, homepage and citation into the `info` of data, for model cards."""
    known = hub_source(name)
    spec = SPECS.get(name) if known is None else known[0]
    for part in data.values() if isinstance(data, dict) else (data,):
        # Of a folder only its name, not where it lies.
        part.info.dataset_name = Path(name).name if Path(name).is_dir() else name
        if spec is not None:
            part.info.license, part.info.homepage, part.info.citation = spec.license, spec.homepage, spec.citation
    return data


def get_label_space(
    name: str | Path, data_dir: str | Path | None = None, label_space: LabelSpace | str | Path | None = None
) -> LabelSpace:
    """Finds the classes of a dataset; `label_space` goes before what is known of `name`.

    Args:
        name, data_dir, label_space: As in [`load_segmentation_dataset`].

    Raises:
        ValueError: The classes are not known; the message says how to give them.
    """
    if isinstance(label_space, LabelSpace):
        return label_space
    if label_space is not None:
        return find_label_space(label_space)
    name = str(name)
    if name in SPECS:
        return SPECS[name].label_space
    known = hub_source(name)
    if known is not None:
        spec, source = known
        return spec.encoded(source.encoding)
    root = _local_root(name, data_dir)
    for file in CLASS_FILES:
        if root is not None and (root / file).is_file():
            return read_label_space(root / file)
    there = f" In {root} there is: {whats_there(root)}." if root is not None and root.is_dir() else ""
    raise ValueError(
        f"The classes of {name!r} are not known. Pass label_space=: a LabelSpace, one of {sorted(SPECS)}, or a file of "
        f"class names; for a folder, {' or '.join(CLASS_FILES)} in it will do.{there}"
    )


def _local_root(name: str, data_dir: str | Path | None) -> Path | None:
    """The folder of a dataset, or `None` for Hub ids (and for known names without `data_dir`)."""
    if name in SPECS or name == "folder":
        return Path(data_dir).expanduser() if data_dir is not None else None
    path = Path(name).expanduser()
    if path.is_dir():
        return path if data_dir is None else path / data_dir
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder, and not a Hub id or one of {sorted(SPECS)} either.")
    return None


def _layouts_and_spaces(
    request: _Request, folders: PairedFolders
) -> tuple[list[Any], Callable[[FileLayout], LabelSpace], DatasetSpec | None]:
    """The layouts that come into question, what the masks of each hold, and the dataset if that is its own classes."""
    spec, asked = SPECS.get(request.name), request.label_space
    if spec is None:
        # Asked for late: that the folder is not there is the more helpful message.
        return [folders], lambda layout: get_label_space(request.name, request.data_dir, asked), None
    layouts: list[Any] = list(spec.layouts)
    if asked is None:
        return layouts, lambda layout: spec.encoded(layout.encoding), spec
    space = get_label_space(request.name, None, asked)
    relative = SPECS.get(space.name)
    if relative is not None and relative.encodings.keys() == spec.encodings.keys():
        spec = relative  # other classes for the same masks, such as those of pascal_context_60 for pascal_context
    encoding = spec.encoding_of(space)
    if encoding is None:
        return layouts, lambda layout: space, None
    usual = spec.label_space == space
    if usual and not str(asked).startswith(f"{spec.name}:"):
        return layouts, lambda layout: spec.encoded(layout.encoding), spec
    with_it = [layout for layout in layouts if (layout.encoding or next(iter(spec.encodings))) == encoding]
    return with_it or layouts, lambda layout: space, spec if with_it else None


def _load_local(request: _Request, folders: PairedFolders) -> AnyDataset | AnyDatasetDict:
    name, root = request.name, _local_root(request.name, request.data_dir)
    if root is None:
        homepage = f" The data can be had from {SPECS[name].homepage}." if name in SPECS else ""
        raise ValueError(f"load_segmentation_dataset({name!r}) needs data_dir=, the folder of its files.{homepage}")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data_dir of {name!r}).")
    layouts, space_of, spec = _layouts_and_spaces(request, folders)
    found: dict[str, Any] = {}
    wanted = [split for layout in layouts for split in layout.split_names]
    for split in sorted(set(wanted), key=wanted.index):
        layout = next((layout for layout in layouts if split in layout.splits(root)), None)
        if layout is not None:
            found[split] = layout
    if not found:
        raise _nothing_there(request, layouts)

    def load(split: str) -> AnyDataset:
        layout = found[split]
        space = space_of(layout)
        if spec is not None and isinstance(layout, NamedFiles):
            layout.check_classes(root, split, space)
        return _load_files(request, layout, root, split, space)

    missing = _looked_for(layouts, request.split) + f" In {root} there is: {whats_there(root)}."
    return _by_split(request.split, list(found), str(root), load, missing)


def _looked_for(layouts: list[Any], split: str | None = None) -> str:
    expected = [layout.expects(split) for layout in layouts if split is None or split in layout.split_names]
    return f" Looked for {'; or '.join(expected)}." if expected else ""


def _nothing_there(request: _Request, layouts: list[Any]) -> FileNotFoundError:
    root = _local_root(request.name, request.data_dir) or Path(request.name)
    there = f" In it there is: {whats_there(root)}." if root.is_dir() else ""
    return FileNotFoundError(f"{root}: no split of {request.name!r} is there.{_looked_for(layouts)}{there}")


def _by_split(
    split: str | None, available: list[str], where: str, load: Callable[[str], AnyDataset], missing: str = ""
) -> AnyDataset | AnyDatasetDict:
    if split is not None:
        if split not in available:
            raise FileNotFoundError(f"{where} has no split {split!r}; it has {', '.join(available)}.{missing}")
        return load(split)
    parts = {part: load(part) for part in available}
    streaming = any(isinstance(part, datasets.IterableDataset) for part in parts.values())
    return datasets.IterableDatasetDict(parts) if streaming else datasets.DatasetDict(parts)


def _load_files(request: _Request, layout: FileLayout, root: Path, split: str, space: LabelSpace) -> AnyDataset:
    bad = request.bad(split)
    if isinstance(layout, ParquetFiles):
        # Patterns are put behind the working directory, which may look like one, too.
        path = str(layout.file(root, split).absolute())
        if "::" in path:  # which `datasets` takes for a file in an archive
            raise ValueError(f"{path}: `datasets` reads what is before '::' alone. Rename the folder.")
        data_files = {split: glob.escape(path)}
        data = datasets.load_dataset("parquet", data_files=data_files, split=split, streaming=request.streaming)
        data = standard_columns(data, None, None, f"{root}, split {split}", split)
        return _usable(request, data, DecodeSample(space, unlabelled=split == "test"), bad)
    samples = layout.files(root, split, bad)
    encoded = {
        "image": [str(sample.image) for sample in samples],
        "label": [None if sample.label is None else str(sample.label) for sample in samples],
        "id": [sample.id for sample in samples],
    }
    data = datasets.Dataset.from_dict(encoded, features=ENCODED_FEATURES)
    unlabelled = isinstance(layout, NamedFiles) and split in layout.unlabelled
    return _usable(request, data, DecodeSample(space, unlabelled), bad)


def _usable(request: _Request, data: AnyDataset, decode: DecodeSample, bad: BadSamples) -> AnyDataset:
    """Decodes on access what is left when bad samples are dealt with as the user asks."""
    if isinstance(data, datasets.IterableDataset):
        return decode_on_access(data, decode, bad if bad.skip else None)
    if not len(data) and not bad.found:
        raise ValueError(f"{bad.where}: the split is empty; it needs at least one sample.")
    data = drop_doubled_ids(data, bad)
    if request.streaming:
        bad.warn(len(data))  # about the files that are missing; the stream itself warns about what it meets
        return decode_on_access(data.to_iterable_dataset(), decode, bad if bad.skip else None)
    if bad.skip:
        data = drop_bad_samples(data, decode, bad, request.num_proc)
        bad.warn(len(data))
    return decode_on_access(data, decode)


def _load_hub(request: _Request, options: dict[str, str | None]) -> AnyDataset | AnyDatasetDict:
    space = get_label_space(request.name, request.data_dir, request.label_space)
    root = _local_root(request.name, request.data_dir)
    if root is not None and root.is_dir():
        path = str(root.resolve())
        if "::" in path or glob.escape(path) != path:
            raise ValueError(
                f"{path}: of a path with '*', '?', '[' or '::' `datasets` reads every folder that fits, or none. "
                "Rename the folder. (Own folders with images/ and masks/ may have any name.)"
            )
    known = hub_source(request.name)
    data_dir = request.data_dir
    if known is not None:
        _, source = known
        if data_dir is None and not options["revision"] and not options["config"]:
            data_dir = source.data_dir
        options = {key: value or getattr(source, key) for key, value in options.items()}
    where: dict[str, Any] = {"path": request.name, "revision": options["revision"]}
    if data_dir is not None:
        where["data_dir"] = str(data_dir)
    with _listing_folder(request):
        splits = datasets.get_dataset_split_names(**where, config_name=options["config"])
    own_names = {SPLIT_SYNONYMS.get(own, own): own for own in splits}

    def load(split: str) -> AnyDataset:
        with _listing_folder(request):
            data = datasets.load_dataset(
                **where, name=options["config"], split=own_names[split], streaming=request.streaming
            )
            data = standard_columns(data, options["image"], options["label"], f"{request.name}, split {split}", split)
        return _usable(request, data, DecodeSample(space, unlabelled=split == "test"), request.bad(split))

    return _by_split(request.split, list(own_names), request.name, load)


@contextmanager
def _listing_folder(request: _Request) -> Iterator[None]:
    """Adds to errors about a folder on this machine what would have been read there, and what lies in it."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        root = _local_root(request.name, request.data_dir)
        if root is None or not root.is_dir():
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        there = f"{_looked_for([FOLDER_LAYOUT])} In {root} there is: {whats_there(root)}."
        raise kind(f"{str(error).removesuffix('.')}.{there}") from error


def _load_scenes(
    request: _Request, num_scenes: int | None = None, height: int = 192, width: int = 256, seed: int = 0
) -> AnyDataset | AnyDatasetDict:
    layout = SPECS["scenes"].layouts[0]
    assert isinstance(layout, RenderedScenes)
    if num_scenes is not None and num_scenes < 1:
        raise ValueError(f"num_scenes is {num_scenes}; it must be positive.")
    space = get_label_space("scenes", None, request.label_space)
    available = list(layout.num_scenes)

    def load(part: str) -> AnyDataset:
        count = layout.num_scenes[part] if num_scenes is None else num_scenes
        data = datasets.Dataset.from_dict({"index": list(range(count))})
        # Splits never share a seed, whatever seeds are asked for.
        part_seed = seed * len(available) + available.index(part)
        render = partial(render_sample, seed=part_seed, height=height, width=width, split=part, label_space=space)
        return decode_on_access(data.to_iterable_dataset() if request.streaming else data, render)

    return _by_split(request.split, available, "The dataset 'scenes'", load)
