"""The data sets we know: what they hold, whose they are, and how their files lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from kaseg.data.label_spaces import CAMVID, PASCAL_VOC, SCENES, LabelSpace

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # lossless only


class SampleFiles(NamedTuple):
    """One sample as files."""

    id: str
    image: Path
    label: Path


class FileLayout(Protocol):
    """How pictures and masks lie in a folder. Split names are ours: train, validation, test."""

    def splits(self, root: Path) -> list[str]:
        """The splits that are there."""

    def files(self, root: Path, split: str) -> list[SampleFiles]:
        """The samples of a split that is there."""


@dataclass(frozen=True)
class ParquetFiles:
    """One Parquet file per split with encoded pictures in it.

    Args:
        pattern: File name with `{split}` in it.
        split_names: Our names of the splits it may have.
    """

    pattern: str = "{split}.parquet"
    split_names: tuple[str, ...] = ("train", "validation", "test")

    def splits(self, root: Path) -> list[str]:
        """The splits that are there."""
        return [split for split in self.split_names if self.file(root, split).is_file()]

    def file(self, root: Path, split: str) -> Path:
        """The Parquet file of a split."""
        return root / self.pattern.format(split=split)


@dataclass(frozen=True)
class ListedFiles:
    """Text files with one sample id per line, and files named after the ids, as in PASCAL VOC.

    Args:
        id_list, image, label: Paths below the root, with `{split}` and `{id}` in them.
        split_names: Our name of a split -> the layout's own.
        roots: Folders below the given one in which the layout may start; the first with a list is taken.
    """

    id_list: str
    image: str
    label: str
    split_names: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "validation": "val"})
    roots: tuple[str, ...] = (".",)

    def splits(self, root: Path) -> list[str]:
        """The splits that are there."""
        return [split for split in self.split_names if self._find(root, split)]

    def files(self, root: Path, split: str) -> list[SampleFiles]:
        """The samples of a split that is there.

        Raises:
            FileNotFoundError: If a listed file is missing; the message names it and the list.
        """
        found = self._find(root, split)
        if found is None:
            raise FileNotFoundError(f"{root}: no {self.id_list.format(split=self.split_names[split])}.")
        base, id_list = found
        samples = []
        for name in id_list.read_text(encoding="utf-8").split():
            image, label = (
                base / part.format(id=name, split=self.split_names[split]) for part in (self.image, self.label)
            )
            for path in (image, label):
                if not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file, but {id_list} lists sample {name}.")
            samples.append(SampleFiles(name, image, label))
        return samples

    def _find(self, root: Path, split: str) -> tuple[Path, Path] | None:
        for base in (root / folder for folder in self.roots):
            id_list = base / self.id_list.format(split=self.split_names[split])
            if id_list.is_file():
                return base, id_list
        return None


@dataclass(frozen=True)
class PairedFolders:
    """A folder of pictures and a folder of masks whose stems are equal.

    Args:
        image_folder, label_folder: Paths below the root, with `{split}` in them.
        split_names: Our name of a split -> the folder names it may have. Where both folders lie directly below the
            root, that is the split "train".
    """

    image_folder: str = "{split}/images"
    label_folder: str = "{split}/masks"
    split_names: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "train": ("train", "training", "."),
            "validation": ("validation", "val"),
            "test": ("test",),
        }
    )

    def splits(self, root: Path) -> list[str]:
        """The splits that are there."""
        return [split for split in self.split_names if self._find(root, split)]

    def files(self, root: Path, split: str) -> list[SampleFiles]:
        """The samples of a split that is there, ordered by name.

        Raises:
            FileNotFoundError: If pictures and masks do not pair up; the message names some that do not.
            ValueError: If two files have the same stem.
        """
        found = self._find(root, split)
        if found is None:
            raise FileNotFoundError(f"{root}: no folder {self.image_folder.format(split=split)}.")
        images, labels = _by_stem(found[0], IMAGE_SUFFIXES), _by_stem(found[1], MASK_SUFFIXES)
        if not images:
            raise FileNotFoundError(f"{found[0]}: no pictures ({', '.join(IMAGE_SUFFIXES)}).")
        for have, lack, folder in ((images, labels, found[1]), (labels, images, found[0])):
            missing = sorted(have.keys() - lack.keys())
            if missing:
                raise FileNotFoundError(
                    f"{folder}: no file for {', '.join(missing[:5])} ({len(missing)} missing). Each picture needs a "
                    f"mask with the same stem ({', '.join(MASK_SUFFIXES)}; JPEG would change the labels)."
                )
        return [SampleFiles(stem, images[stem], labels[stem]) for stem in sorted(images)]

    def _find(self, root: Path, split: str) -> tuple[Path, Path] | None:
        for name in self.split_names[split]:
            images, labels = (root / part.format(split=name) for part in (self.image_folder, self.label_folder))
            if images.is_dir() and labels.is_dir():
                return images, labels
        return None


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in files:
                raise ValueError(f"{folder}: {path.name} and {files[path.stem].name} have the same stem.")
            files[path.stem] = path
    return files


@dataclass(frozen=True)
class RenderedScenes:
    """Scenes drawn on access by `kaseg.data.scenes`; nothing lies on disk.

    Args:
        num_scenes: Our name of a split -> how many scenes it has by default.
    """

    num_scenes: Mapping[str, int] = field(default_factory=lambda: {"train": 400, "validation": 100, "test": 100})


@dataclass(frozen=True)
class DatasetSpec:
    """All we know about a data set.

    Args:
        name: What users type.
        label_space: Its classes.
        layout: How its files lie on disk.
        licence: Licence of the data, in words or as an SPDX id.
        homepage: Where it can be had.
        citation: Who made it.
    """

    name: str
    label_space: LabelSpace
    layout: ParquetFiles | FileLayout | RenderedScenes
    licence: str
    homepage: str
    citation: str


FOLDER_LAYOUT = PairedFolders()

SPECS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="camvid",
            label_space=CAMVID,
            layout=ParquetFiles(),
            licence="CC-BY-NC-4.0",
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
            citation="Brostow, Fauqueur, Cipolla: Semantic object classes in video: A high-definition ground truth "
            "database. Pattern Recognition Letters, 2009. Split: Badrinarayanan et al., SegNet.",
        ),
        DatasetSpec(
            name="voc2012",
            label_space=PASCAL_VOC,
            layout=ListedFiles(
                id_list="ImageSets/Segmentation/{split}.txt",
                image="JPEGImages/{id}.jpg",
                label="SegmentationClass/{id}.png",
                roots=(".", "VOC2012", "VOCdevkit/VOC2012"),
            ),
            licence="Flickr terms of use",
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            citation="Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) "
            "challenge. IJCV, 2010.",
        ),
        DatasetSpec(
            name="scenes",
            label_space=SCENES,
            layout=RenderedScenes(),
            licence="Apache-2.0",
            homepage="",
            citation="Synthetic street scenes drawn by kaseg.",
        ),
    )
}
