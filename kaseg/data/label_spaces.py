"""Label spaces: which classes a dataset has, how they are drawn, and how masks become train ids."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from kaseg.data.text_files import read_text
from kaseg.pixels import VOID

Color = tuple[int, int, int]

ILLEGAL = -1
ENCODINGS = ("index", "color")
_TABLE_SIZE = 65536
_NO_CLASS = 254


def palette_for(num_labels: int) -> tuple[Color, ...]:
    """One (red, green, blue) tuple in 0..255 per class, at most 2**24, from the PASCAL VOC color map; class 0 is black.

    The colors are those of `VOClabelcolormap` in the PASCAL VOC development kit (Everingham et al. 2010): the bits of
    the class id are dealt to red, green and blue in turn, from the most significant bit of each color down.
    """
    if not 0 <= num_labels <= 2**24:
        raise ValueError(f"palette_for: the PASCAL VOC color map has 2**24 colors, {num_labels} were asked for.")
    colors: list[Color] = []
    for label in range(num_labels):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


def parse_color(color: str | Sequence[int]) -> Color:
    """A color written as "#rrggbb" or as three numbers in 0..255.

    Raises:
        ValueError: If it is neither.
    """
    try:
        values = bytes.fromhex(color.removeprefix("#")) if isinstance(color, str) else bytes(color)
        red, green, blue = values
    except (TypeError, ValueError):
        raise ValueError(f'{color!r} is not a color; write "#rrggbb" or three numbers from 0 to 255.') from None
    return red, green, blue


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset.

    Args:
        name: Short name, used in messages and model cards.
        names: Class names; the position is the train id. At most 255, all different.
        palette: One (red, green, blue) color in 0..255 per class. Default: [`palette_for`].
        ignore_index: The train id of void pixels: 255, which is refused to be another. A raw value of 255 is void, too,
            unless `label_map` says otherwise.
        label_map: Raw mask value -> train id, `ignore_index` for void. `None` means that raw values are train ids.
        encoding: What the masks hold: "index", one class index per pixel, or "color", the colors of `palette`, which
            must then be all different.
        void_colors: Colors of void pixels, for the encoding "color".

    Raises:
        ValueError: If the parts do not fit each other; the message names the field.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    ignore_index: int = VOID
    label_map: Mapping[int, int] | None = field(default=None, hash=False)
    encoding: str = "index"
    void_colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple(map(parse_color, self.palette)) or palette_for(len(self.names)))
        object.__setattr__(self, "void_colors", tuple(map(parse_color, self.void_colors)))
        where = f"LabelSpace {self.name!r}"
        if not 1 <= len(self.names) <= 255:
            raise ValueError(f"{where}: names has {len(self.names)} classes; between 1 and 255 are possible.")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled:
            raise ValueError(f"{where}: names has {doubled} more than once; give every class its own name.")
        if len(self.palette) != len(self.names):
            raise ValueError(f"{where}: palette has {len(self.palette)} colors for {len(self.names)} names.")
        if self.ignore_index != VOID:
            raise ValueError(
                f"{where}: ignore_index is {self.ignore_index}, but void is {VOID} everywhere in kaseg: leave it "
                f"out, and map the raw value of void by label_map={{{self.ignore_index}: {VOID}, ...}} (null in "
                "classes.json)."
            )
        for raw, train in (self.label_map or {}).items():
            if not (0 <= raw < _TABLE_SIZE and (0 <= train < self.num_labels or train == self.ignore_index)):
                raise ValueError(
                    f"{where}: label_map sends {raw} to {train}; raw values lie in 0..{_TABLE_SIZE - 1}, train ids "
                    f"in 0..{self.num_labels - 1}, and {self.ignore_index} is void."
                )
        if self.encoding not in ENCODINGS:
            raise ValueError(f"{where}: encoding is {self.encoding!r}; it must be one of {', '.join(ENCODINGS)}.")
        if self.encoding == "color":
            self._check_colors(where)

    def _check_colors(self, where: str) -> None:
        owners: dict[Color, str] = {}
        named = [*zip(self.palette, self.names, strict=True), *((color, "void") for color in self.void_colors)]
        for color, owner in named:
            if owners.setdefault(color, owner) != owner:
                raise ValueError(
                    f"{where}: {owners[color]!r} and {owner!r} have the same color {color}, so masks of colors "
                    "cannot be decoded. Use masks of class indices, or give every class a color of its own."
                )

    def with_colors(self) -> Self:
        """The same classes for masks that hold the colors of `palette` in place of class indices.

        Raises:
            ValueError: If two classes have the same color.
        """
        return replace(self, encoding="color", label_map=None)

    @property
    def num_labels(self) -> int:
        """Number of classes, void not counted."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> class name, as in `PretrainedConfig.id2label`."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name -> train id, as in `PretrainedConfig.label2id`."""
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _table(self) -> np.ndarray:
        """Train id, int16, of every raw value; -1 marks illegal ones."""
        table = np.full(_TABLE_SIZE, ILLEGAL, dtype=np.int16)
        table[self.ignore_index] = self.ignore_index
        label_map = self.label_map if self.label_map is not None else {id_: id_ for id_ in range(self.num_labels)}
        table[list(label_map)] = list(label_map.values())
        table.flags.writeable = False
        return table

    @cached_property
    def _byte_table(self) -> bytes | None:
        """Train id of every raw value of one byte, where `_NO_CLASS` marks illegal ones; `None` if that is a class."""
        if self.num_labels > _NO_CLASS:
            return None
        table = self._table[:256]
        return np.where(table == ILLEGAL, _NO_CLASS, table).astype(np.uint8).tobytes()

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Colors as sorted 24-bit numbers, and the train id of each."""
        colors = np.array((*self.palette, *self.void_colors), dtype=np.uint8)
        train_ids = np.array([*range(self.num_labels), *[self.ignore_index] * len(self.void_colors)], dtype=np.uint8)
        codes, first = np.unique(_color_codes(colors), return_index=True)
        return codes, train_ids[first]


def _color_codes(colors: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> int32 (...): red, green and blue as one number."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def map_labels(mask: np.ndarray, label_space: LabelSpace, sample: str, file: str | None = None) -> np.ndarray:
    """Turns a raw mask into train ids. This is the one place where labels are mapped.

    Args:
        mask: Integer array (H, W) of raw values; uint8 array (H, W, 3) of colors where the label space's encoding is
            "color".
        label_space: What the values mean.
        sample, file: Name of the sample and file of the mask, for the error message.

    Returns:
        uint8 array (H, W) of train ids, `label_space.ignore_index` where void.

    Raises:
        ValueError: A value or color is neither a class nor void; the message names the sample, the file and what was
            found.
    """
    where = f"Sample {sample}: the label mask{f' {file}' if file else ''}"
    if (mask.ndim == 3) != (label_space.encoding == "color"):
        raise ValueError(
            f"{where} is an array {mask.shape}, which does not fit the encoding {label_space.encoding!r} of label "
            f"space {label_space.name!r}."
        )
    if mask.ndim == 3:
        return _map_colors(mask, label_space, where)
    if mask.dtype != np.uint8 and mask.size and (mask.min() < 0 or mask.max() >= _TABLE_SIZE):
        raise _illegal_labels(mask[(mask < 0) | (mask >= _TABLE_SIZE)], label_space, where)
    if mask.dtype == np.uint8 and (table := label_space._byte_table) is not None:
        # Not by indexing, which makes a 64-bit index of every pixel.
        found = bytearray(mask.tobytes()).translate(table)
        if _NO_CLASS not in found:
            return np.frombuffer(found, np.uint8).reshape(mask.shape)
    mapped = label_space._table[mask]
    if mapped.size and mapped.min() < 0:
        raise _illegal_labels(mask[mapped < 0], label_space, where)
    return mapped.astype(np.uint8)


def _map_colors(mask: np.ndarray, label_space: LabelSpace, where: str) -> np.ndarray:
    codes, train_ids = label_space._color_table
    wanted = _color_codes(mask)
    position = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    unknown = codes[position] != wanted
    if unknown.any():
        found = _count(wanted[unknown], lambda code: str((code >> 16, code >> 8 & 255, code & 255)))
        raise ValueError(
            f"{where} holds the colors {found}, which are not in the palette of label space {label_space.name!r}. "
            "Correct the mask (JPEG and resizing change colors), or give the LabelSpace these colors in its palette "
            "or in void_colors."
        )
    return train_ids[position]


def _count(pixels: np.ndarray, show: Callable[[int], str] = str) -> str:
    values, counts = np.unique(pixels, return_counts=True)
    listed = zip(values[:10].tolist(), counts[:10].tolist(), strict=True)
    found = ", ".join(f"{show(value)} ({count} pixels)" for value, count in listed)
    return found + (f" and {len(values) - 10} others" if len(values) > 10 else "")


def _illegal_labels(pixels: np.ndarray, label_space: LabelSpace, where: str) -> ValueError:
    label_map, void = label_space.label_map, label_space.ignore_index
    allowed = f"0..{label_space.num_labels - 1}" if label_map is None else "the keys of its label_map"
    instances = pixels.max() > 255 and max(label_map or (0,)) <= 255
    hint = "Values above 255 are usually instance ids: take the mask of classes instead. " if instances else ""
    return ValueError(
        f"{where} holds {_count(pixels)}, but label space {label_space.name!r} ({label_space.num_labels} classes) "
        f"allows {allowed} and {void} for void. {hint}Correct the mask, or pass a LabelSpace whose "
        f"label_map={{raw value: train id, or {void} for void}} names every value."
    )


def read_label_space(path: str | Path) -> LabelSpace:
    """Reads class names from a `classes.txt` (one name per line) or a `classes.json` (raw id -> name, null for void).

    In a text file, lines that start with `#` are comments. In JSON, classes get train ids in the order of their raw
    ids, so raw ids may have gaps. In place of a name there may be `{"name": "road", "color": "#804080"}`; a color
    without a name is one of void.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is not as described.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a classes.txt or a classes.json.")
    name = path.parent.name or path.stem
    text = read_text(path)
    if path.suffix != ".json":
        lines = (line.strip() for line in text.splitlines())
        return LabelSpace(name, tuple(line for line in lines if line and not line.startswith("#")))
    try:
        loaded = json.loads(text, object_pairs_hook=_unique)
        entries = {int(raw): entry if isinstance(entry, dict) else {"name": entry} for raw, entry in loaded.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{path}: expected a JSON object such as {{"0": "sky"}} (raw id -> name): {error}') from None
    try:
        return _from_raw_entries(name, entries)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object, of which Python would keep the last where a key stands twice; a ValueError for one
    (of raw ids, 01 is 1)."""
    keys = [int(key) if key.strip().isdigit() else key for key, _ in pairs]
    if doubled := sorted({str(key) for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(doubled)} stands more than once")
    return dict(pairs)


def _from_raw_entries(name: str, entries: Mapping[int, Mapping[str, Any]]) -> LabelSpace:
    # A misspelled "name" would make a class void.
    for raw, entry in entries.items():
        if unknown := sorted(entry.keys() - {"name", "color"}):
            raise ValueError(f"{raw} has the fields {', '.join(unknown)}; a class has a name and, if wanted, a color.")
    raw_ids = sorted(raw for raw, entry in entries.items() if entry.get("name") is not None)
    names = tuple(str(entries[raw]["name"]) for raw in raw_ids)
    colors = [entries[raw]["color"] for raw in raw_ids if "color" in entries[raw]]
    if colors and len(colors) != len(names):
        raise ValueError(f"{len(colors)} of {len(names)} classes have a color; give all of them one, or none.")
    void_colors = tuple(entry["color"] for entry in entries.values() if entry.get("name") is None and "color" in entry)
    label_map = {raw: VOID for raw in entries} | {raw: train for train, raw in enumerate(raw_ids)}
    plain = raw_ids == list(range(len(entries)))
    return LabelSpace(name, names, tuple(colors), label_map=None if plain else label_map, void_colors=void_colors)
