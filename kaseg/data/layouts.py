"""How the files of datasets lie on disk: a few general layouts, which the catalog fills in.

Every layout of files has `splits(root)`, which are there (by our names: train, validation, test and a few more),
`expects(split)`, what is looked for in words, and `encoding`, the label encoding of its masks, empty for the dataset's
usual one. The samples of a split are `files(root, split, bad)`, or `file(root, split)` of Parquet.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from kaseg.data.bad_samples import BadSamples, SkippedSample
from kaseg.data.image_files import IMAGE_SUFFIXES, find_images
from kaseg.data.label_spaces import LabelSpace
from kaseg.data.text_files import read_text

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless only
_LISTED = 10
_SPLIT_FOLDERS = {"train": ("train", "training", "."), "validation": ("validation", "val"), "test": ("test",)}


class SampleFiles(NamedTuple):
    """One sample as files; `label` is `None` in splits that are published without masks."""

    id: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class ParquetFiles:
    """One Parquet file per split with encoded images in it, for those of `split_names` that are there."""

    pattern: str = "{split}.parquet"
    split_names: tuple[str, ...] = ("train", "validation", "test")
    encoding: str = ""

    def splits(self, root: Path) -> list[str]:
        return [split for split in self.split_names if self.file(root, split).is_file()]

    def file(self, root: Path, split: str) -> Path:
        return root / self.pattern.format(split=split)

    def expects(self, split: str | None = None) -> str:
        return " or ".join(self.pattern.format(split=name) for name in self.split_names if split in (None, name))


@dataclass(frozen=True)
class NamedFiles:
    """Files named after sample ids, which stand in lists or are those of the images that are there.

    Paths are below the root and written with `{id}`, `{split}` (the layout's own name of it) and the names of `folders`
    in them. `{id}` may stand for several path components, as in Cityscapes, where it is "aachen/aachen_000000_000019".

    Args:
        image, label: Where image and mask lie; where there are several, the first that exists is taken.
        split_names: Our name of a split -> the layout's own.
        ids: Where ids come from: text files with an id on each line, of which a path or a suffix is cut off (also
            `ID -1|0|1` and `IMAGE MASK`: the first word), or, with `{id}` in it, the files that fit. Several are
            united. Default: the images.
        without: Lists of ids, as in `ids`, that are taken out again.
        folders: Name -> alternatives. The first combination in which the split's lists and masks are is taken.
        unlabelled: Our names of splits whose masks may be missing.
        annotated_only: Leave out listed samples that have no mask.
        class_list: The publisher's text file with a line "raw value: class name" for each class.
        other_suffixes: Endings of files that are ignored when looking for `{id}`.
    """

    image: tuple[str, ...]
    label: tuple[str, ...]
    split_names: Mapping[str, str]
    ids: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    annotated_only: bool = False
    class_list: str = ""
    other_suffixes: tuple[str, ...] = ()
    encoding: str = ""

    def splits(self, root: Path) -> list[str]:
        return [split for split in self.split_names if self.place(root, split) is not None]

    def place(self, root: Path, split: str) -> dict[str, str] | None:
        """What the names in braces stand for, or `None` if the split is not there."""
        if split not in self.split_names:
            return None
        for choice in itertools.product(*self.folders.values()):
            names = {**dict(zip(self.folders, choice, strict=True)), "split": self.split_names[split]}
            needed = [*(self.ids or self.image[:1]), *self.without, *(() if split in self.unlabelled else self.label)]
            if all(self._is_there(root, pattern, names) for pattern in needed):
                return names
        return None

    def files(self, root: Path, split: str, bad: BadSamples) -> list[SampleFiles]:
        """The samples in order; those whose files are missing, and doubled ones, go to `bad`."""
        names = self.place(root, split)
        if names is None:
            raise FileNotFoundError(f"{root}: no {self.expects(split)}.")
        origin = " and ".join(str(root / _fill(pattern, names)) for pattern in self.ids or self.image[:1])
        content: dict[Path, set[str]] = {}  # asking the disk once per folder instead of once per file

        def exists(path: Path) -> bool:
            if path.parent not in content:
                content[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            return path.name in content[path.parent]

        samples, missing = [], []
        for name in self._ids(root, names, bad):
            paths = [
                [root / _fill(pattern, names, name) for pattern in patterns] for patterns in (self.image, self.label)
            ]
            image, label = (next(filter(exists, candidates), None) for candidates in paths)
            if label is None and image is not None and self.annotated_only:
                continue
            if image is None or (label is None and split not in self.unlabelled):
                path = " or ".join(map(str, paths[0] if image is None else paths[1]))
                missing.append(SkippedSample(name, f"{path}: no such file, but {origin} lists sample {name}."))
            else:
                samples.append(SampleFiles(name, image, label))
        bad.reject(missing, FileNotFoundError)
        return samples

    def check_classes(self, root: Path, split: str, label_space: LabelSpace) -> None:
        """Raises a ValueError if the publisher's list of classes, where there is one, calls a class differently; it
        names the file, the value and both names."""
        names = self.place(root, split) if self.class_list else None
        file = root / _fill(self.class_list, names or {})
        if names is None or not file.is_file():
            return
        listed = dict(line.split(":", 1) for line in read_text(file).splitlines() if ":" in line)
        published = {int(value): name.strip() for value, name in listed.items() if value.strip().isdigit()}
        for value, train_id in (label_space.label_map or {}).items():
            ours = label_space.id2label.get(train_id)
            rest = sum(other == train_id for other in (label_space.label_map or {}).values()) > 1
            if ours is not None and not rest and published.get(value) != ours:
                raise ValueError(
                    f"{file}: it calls the label {value} {published.get(value)!r}, but in label space "
                    f"{label_space.name!r} it is {ours!r}. Use the publisher's own files, or pass label_space= with a "
                    "label_map that fits these."
                )

    def expects(self, split: str | None = None) -> str:
        lists = [*(self.ids or self.image[:1]), *self.without]
        own = [own for ours, own in self.split_names.items() if split in (None, ours)]
        parts = [part.replace("{split}", " | ".join(own)) for part in dict.fromkeys([*lists, *self.label])]
        used = {name: choices for name, choices in self.folders.items() if any(f"{{{name}}}" in part for part in parts)}
        where = "".join(f", {{{name}}} being {' or '.join(choices)}" for name, choices in used.items())
        return " and ".join(parts) + where

    def _is_there(self, root: Path, pattern: str, names: Mapping[str, str]) -> bool:
        if "{id}" in pattern:
            return any(self._matches(root, pattern, names))
        return (root / _fill(pattern, names)).is_file()

    def _matches(self, root: Path, pattern: str, names: Mapping[str, str]) -> Iterator[str]:
        """Ids of the files that fit a pattern, folder by folder, each in alphabetical order."""
        folder, suffix = _fill(pattern, {**names, "id": "{id}"}).split("{id}")
        for parent, below, files in os.walk(root / folder, followlinks=True):
            below.sort()
            prefix = Path(parent).relative_to(root / folder).as_posix()
            for name in sorted(files):
                if name.endswith(suffix) and not name.startswith(".") and not name.endswith(self.other_suffixes):
                    yield str(PurePosixPath(prefix, name.removesuffix(suffix)))

    def _read_list(self, root: Path, pattern: str, names: Mapping[str, str]) -> list[str]:
        if "{id}" in pattern:
            return list(self._matches(root, pattern, names))
        lines = read_text(root / _fill(pattern, names)).splitlines()
        words = [PurePosixPath(_first_entry(line)) for line in lines if line.strip()]
        return [word.stem if word.suffix.lower() in IMAGE_SUFFIXES else word.name for word in words]

    def _ids(self, root: Path, names: Mapping[str, str], bad: BadSamples) -> list[str]:
        left_out = {name for pattern in self.without for name in self._read_list(root, pattern, names)}
        united: dict[str, None] = {}
        for pattern in self.ids or self.image[:1]:
            listed = self._read_list(root, pattern, names)
            doubled = [name for name, count in Counter(listed).items() for _ in range(count - 1)]
            file = root / _fill(pattern, names)
            reason = "{} lists sample {} more than once. Remove the line."
            bad.reject([SkippedSample(name, reason.format(file, name)) for name in doubled])
            united.update(dict.fromkeys(listed))
        return [name for name in united if name not in left_out]


def _first_entry(line: str) -> str:
    """The sample that a line of a list names: an id, which may hold spaces; an id and whether a class is in the image
    (-1, 0, 1; VOC's lists of a class); or the paths of an image and its mask."""
    words = line.split()
    is_first = words[-1] in ("-1", "0", "1") or PurePosixPath(words[0]).suffix.lower() in IMAGE_SUFFIXES
    return words[0] if len(words) == 2 and is_first else line.strip()


def _fill(pattern: str, names: Mapping[str, str], name: str = "") -> str:
    return pattern.format(**{"id": name, **names})


@dataclass(frozen=True)
class PairedFolders:
    """A folder of images and a folder of masks whose stems are equal.

    Args:
        image_folder, label_folder: Paths below the root, with `{split}` in them.
        split_names: Our name of a split -> the folder names it may have. Where both folders lie directly below the
            root, that is the split "train".
        roots: Folders below the given one in which the layout may start.
    """

    image_folder: str = "{split}/images"
    label_folder: str = "{split}/masks"
    split_names: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_SPLIT_FOLDERS))
    roots: tuple[str, ...] = (".",)
    encoding: str = ""

    def splits(self, root: Path) -> list[str]:
        return [split for split in self.split_names if self._find(root, split)]

    def files(self, root: Path, split: str, bad: BadSamples) -> list[SampleFiles]:
        found = self._find(root, split)
        if found is None:
            raise FileNotFoundError(f"{root}: no {self.expects(split)}.")
        images, labels = _by_stem(found[0], IMAGE_SUFFIXES, bad), _by_stem(found[1], MASK_SUFFIXES, bad)
        if not images:
            raise FileNotFoundError(f"{found[0]}: no images ({', '.join(IMAGE_SUFFIXES)}).")
        for have, lack, folder, what in (
            (images, labels, found[1], f"mask ({', '.join(MASK_SUFFIXES)}; JPEG would change the labels)"),
            (labels, images, found[0], "image"),
        ):
            reason = "{}: no {} for {}. Each image needs a mask with the same stem."
            lacking = sorted(have.keys() - lack.keys())
            lines = [SkippedSample(stem, reason.format(folder, what, have[stem].name)) for stem in lacking]
            bad.reject(lines, FileNotFoundError)
        return [SampleFiles(stem, images[stem], labels[stem]) for stem in sorted(images.keys() & labels.keys())]

    def expects(self, split: str | None = None) -> str:
        names = [name for ours, theirs in self.split_names.items() if split in (None, ours) for name in theirs]
        both = (self.image_folder, self.label_folder)
        return " or ".join(
            " and ".join(f"{PurePosixPath(folder.format(split=name))}/" for folder in both) for name in names
        )

    def _find(self, root: Path, split: str) -> tuple[Path, Path] | None:
        for start, name in itertools.product(self.roots, self.split_names.get(split, ())):
            images, labels = (root / start / part.format(split=name) for part in (self.image_folder, self.label_folder))
            if images.is_dir() and labels.is_dir():
                return images, labels
        return None


def _by_stem(folder: Path, suffixes: tuple[str, ...], bad: BadSamples) -> dict[str, Path]:
    files: dict[str, Path] = {}
    below = [path.relative_to(folder).as_posix() for path in find_images(folder) if path.parent != folder]
    reason = "{}: {} is in a subfolder, which is not read. Move its files up, or name image_folder and label_folder."
    bad.reject([SkippedSample(name, reason.format(folder, name)) for name in below])
    doubled = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in files:
                reason = f"{folder}: {path.name} and {files[path.stem].name} have the same stem. Remove one of them."
                doubled.append(SkippedSample(path.stem, reason))
            files.setdefault(path.stem, path)
    bad.reject(doubled)
    return files


FileLayout: TypeAlias = ParquetFiles | NamedFiles | PairedFolders


@dataclass(frozen=True)
class RenderedScenes:
    """Scenes drawn on access by `kaseg.data.scenes`, by default `num_scenes` of a split; nothing lies on disk."""

    num_scenes: Mapping[str, int] = field(default_factory=lambda: {"train": 400, "validation": 100, "test": 100})


def whats_there(root: Path) -> str:
    """The content of a folder in words, for messages about data that are not there."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more if names else "nothing"
