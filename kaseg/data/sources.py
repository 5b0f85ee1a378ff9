"""The datasets we know: what they hold, whose they are, and how to get them; read from the files in `catalog/`.

The name of a file is the name of the dataset. Its keys:

- `title`, `license`, `homepage`, `citation`, `download`, `splits` (name -> number of samples): as in [`DatasetSpec`].
- `layouts`: a list; `kind` is one of `_LAYOUTS`, the other keys are the fields of that class.
- `classes`: a list in the order of the train ids; each entry has `name`, perhaps `color`, and for each encoding its raw
  value under the encoding's name (by default its train id). `void_colors`: colors of void in masks of colors.
- `encodings`: name -> `{}`, or `rest`, ranges of raw values such as `0-6 9`: those that no class has are void or, with
  `rest_is`, of that class. The first encoding is the usual one. This key and all that follow may be left out.
- `hub`: a list of fields of [`HubSource`].
- `base`: a dataset whose keys are taken over where this file does not set them; `first_classes` come before its
  `classes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from kaseg.data.label_spaces import LabelSpace, read_label_space
from kaseg.data.layouts import FileLayout, NamedFiles, PairedFolders, ParquetFiles, RenderedScenes

TRAIN_IDS = "train_ids"
COLOR = "color"


@dataclass(frozen=True)
class HubSource:
    """A copy of a dataset on the Hub.

    Attributes:
        id: Of its repository.
        image, label: Its columns of images and of masks.
        config: Where there are several.
        revision: Branch, tag or commit to read.
        data_dir: Folder to read, where configurations are folders and nothing tells their names.
        encoding: Name of its label encoding; empty for the dataset's usual one.
    """

    id: str
    image: str
    label: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    encoding: str = ""


@dataclass(frozen=True)
class DatasetSpec:
    """All we know about a dataset.

    Attributes:
        name: What users type.
        label_space: Its classes, with its usual label encoding.
        layouts: How its files can lie; of those that have a split, the first is taken.
        license: Of the data, in words or as an SPDX id.
        homepage, citation: Where it can be had, who made it.
        title: Its name in full.
        download: What to get, in words.
        split_sizes: Numbers of samples as published, by our names of the splits.
        encodings: Name of a label encoding -> the classes with its raw values. The usual one comes first; `train_ids`
            (0, 1, ... and 255 for void) is always there.
        hub: Copies on the Hub.
    """

    name: str
    label_space: LabelSpace
    layouts: tuple[FileLayout | RenderedScenes, ...]
    license: str
    homepage: str
    citation: str
    title: str = ""
    download: str = ""
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    encodings: Mapping[str, LabelSpace] = field(default_factory=dict)
    hub: tuple[HubSource, ...] = ()

    def encoded(self, encoding: str) -> LabelSpace:
        """The classes in one of the label encodings: "" (the usual one), one of `encodings`, or "color"."""
        if not encoding:
            return self.label_space
        if encoding == COLOR:
            return self.label_space.with_colors()
        if encoding not in self.encodings:
            raise ValueError(
                f"Dataset {self.name!r} has no label encoding {encoding!r}; it has {', '.join(self.encodings)} and "
                f"{COLOR}."
            )
        return self.encodings[encoding]

    def encoding_of(self, label_space: LabelSpace) -> str | None:
        """Name of the encoding that a label space of this dataset stands for; `None` if it is another's."""
        return next((name for name, space in self.encodings.items() if space == label_space), None)


FOLDER_LAYOUT = PairedFolders()
_LAYOUTS = {"files": NamedFiles, "folders": PairedFolders, "parquet": ParquetFiles, "scenes": RenderedScenes}


def _tuples(value: Any) -> Any:
    """Lists of a YAML file as tuples, so that what is made of them cannot be changed."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_layout(entry: Mapping[str, Any]) -> Any:
    options = _tuples({key: value for key, value in entry.items() if key != "kind"})
    for key in ("image", "label", "ids", "without") if entry["kind"] == "files" else ():
        if isinstance(options.get(key), str):
            options[key] = (options[key],)
    return _LAYOUTS[entry["kind"]](**options)


def _numbers(ranges: str) -> list[int]:
    """ "3 5-7" -> [3, 5, 6, 7]"""
    bounds = [[int(bound) for bound in part.split("-")] for part in ranges.split()]
    return [value for bound in bounds for value in range(bound[0], bound[-1] + 1)]


def _read_encodings(name: str, entry: Mapping[str, Any]) -> dict[str, LabelSpace]:
    """The label spaces of a catalog file: a raw value stands in a class's line, under the name of the encoding."""
    classes = [*entry.get("first_classes", ()), *entry["classes"]]
    names = tuple(row["name"] for row in classes)
    palette = tuple(row["color"] for row in classes if "color" in row)
    plain = LabelSpace(name, names, palette, void_colors=tuple(entry.get("void_colors", ())))
    spaces = {}
    for encoding, rule in entry.get("encodings", {}).items():
        others = names.index(rule["rest_is"]) if "rest_is" in rule else plain.ignore_index
        label_map = dict.fromkeys(_numbers(str(rule.get("rest", ""))), others)
        label_map.update({row.get(encoding, train_id): train_id for train_id, row in enumerate(classes)})
        spaces[encoding] = LabelSpace(name, names, palette, label_map=label_map, void_colors=plain.void_colors)
    return {**spaces, TRAIN_IDS: plain}


def _read_spec(name: str, entry: Mapping[str, Any]) -> DatasetSpec:
    encodings = _read_encodings(name, entry)
    return DatasetSpec(
        name=name,
        label_space=next(iter(encodings.values())),
        layouts=tuple(map(_read_layout, entry["layouts"])),
        encodings=encodings,
        split_sizes=entry["splits"],
        hub=tuple(HubSource(**source) for source in entry.get("hub", ())),
        **{key: entry[key] for key in ("license", "homepage", "citation", "title", "download")},
    )


def _read_catalog() -> dict[str, DatasetSpec]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    folder = files(__package__) / "catalog"
    entries = {
        file.name.removesuffix(".yaml"): yaml.load(file.read_text(encoding="utf-8"), loader)
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }
    return {
        name: _read_spec(name, {**(entries[entry["base"]] if "base" in entry else {}), **entry})
        for name, entry in entries.items()
    }


SPECS: dict[str, DatasetSpec] = _read_catalog()

CAMVID = SPECS["camvid"].label_space
PASCAL_VOC = SPECS["voc2012"].label_space
SCENES = SPECS["scenes"].label_space


def hub_source(name: str) -> tuple[DatasetSpec, HubSource] | None:
    """What we know of a dataset of the Hub, if we know it."""
    return next(((spec, source) for spec in SPECS.values() for source in spec.hub if source.id == name), None)


def find_label_space(written: str | Path) -> LabelSpace:
    """Finds the label space that a user means by "NAME", "NAME:ENCODING", "FILE" or "FILE:color".

    NAME is a known dataset and ENCODING one of its label encodings or "color"; FILE holds class names (see
    [`read_label_space`]). A FileNotFoundError says that it is neither, a ValueError what is wrong with the rest.
    """
    written = str(written)
    name, _, encoding = written.partition(":")
    if name in SPECS:
        return SPECS[name].encoded(encoding)
    file = written.removesuffix(f":{COLOR}")
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"{file}: no such file, nor a known dataset ({', '.join(SPECS)}); label_space is one of these or a file "
            "of class names."
        )
    space = read_label_space(file)
    return space if file == written else space.with_colors()
