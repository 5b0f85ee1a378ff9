"""Label spaces: which classes a data set has, how they are drawn, and how raw mask values become train ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

Color = tuple[int, int, int]

VOID = 255
ILLEGAL = -1
_TABLE_SIZE = 65536


def palette_for(num_labels: int) -> tuple[Color, ...]:
    """The PASCAL VOC colour map for any number of classes.

    Args:
        num_labels: How many colours, at most 256.

    Returns:
        One (red, green, blue) tuple in 0..255 per class; class 0 is black.

    The colours are those of `VOClabelcolormap` in the PASCAL VOC development kit (Everingham et al. 2010): the bits of
    the class id are dealt to red, green and blue in turn, from the most significant bit of each colour down.
    """
    if not 0 <= num_labels <= 256:
        raise ValueError(f"palette_for: the PASCAL VOC colour map has 256 colours, {num_labels} were asked for.")
    colors: list[Color] = []
    for label in range(num_labels):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set.

    Args:
        name: Short name, used in messages and model cards.
        names: Class names; the position is the train id. At most 255, all different.
        palette: One (red, green, blue) colour in 0..255 per class. Default: [`palette_for`].
        ignore_index: The id of void pixels, 255 by default. Never a class; a raw value equal to it is always void
            unless `label_map` says otherwise.
        label_map: Raw mask value -> train id, `ignore_index` for void. `None` means that raw values are train ids.

    Raises:
        ValueError: If the parts do not fit each other; the message names the field.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    ignore_index: int = VOID
    label_map: Mapping[int, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple(self.palette) or palette_for(len(self.names)))
        where = f"LabelSpace {self.name!r}"
        if not 1 <= len(self.names) <= 255:
            raise ValueError(f"{where}: names has {len(self.names)} classes; between 1 and 255 are possible.")
        doubled = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubled:
            raise ValueError(f"{where}: names has {doubled} more than once; give every class its own name.")
        if len(self.palette) != len(self.names):
            raise ValueError(f"{where}: palette has {len(self.palette)} colours for {len(self.names)} names.")
        if not self.num_labels <= self.ignore_index <= 255:
            raise ValueError(
                f"{where}: ignore_index is {self.ignore_index}; it must lie in {self.num_labels}..255, "
                "outside the train ids."
            )
        for raw, train in (self.label_map or {}).items():
            if not (0 <= raw < _TABLE_SIZE and (0 <= train < self.num_labels or train == self.ignore_index)):
                raise ValueError(
                    f"{where}: label_map sends {raw} to {train}; raw values lie in 0..{_TABLE_SIZE - 1}, train ids "
                    f"in 0..{self.num_labels - 1}, and {self.ignore_index} is void."
                )

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
        table = np.full(_TABLE_SIZE, ILLEGAL, dtype=np.int16)
        table[self.ignore_index] = self.ignore_index
        if self.label_map is None:
            table[: self.num_labels] = np.arange(self.num_labels)
        else:
            for raw, train in self.label_map.items():
                table[raw] = train
        table.flags.writeable = False
        return table

    def lookup_table(self) -> np.ndarray:
        """The map from raw values to train ids as an int16 array of 65536 entries; -1 marks illegal raw values."""
        return self._table


def map_labels(mask: np.ndarray, label_space: LabelSpace, sample: str) -> np.ndarray:
    """Turns a raw mask into train ids. This is the one place where labels are mapped.

    Args:
        mask: Integer array (H, W) of raw values.
        label_space: What the values mean.
        sample: Name of the sample, for the error message.

    Returns:
        uint8 array (H, W) of train ids, `label_space.ignore_index` where void.

    Raises:
        ValueError: If a value is neither a class nor void; the message names the sample and the values.
    """
    if mask.dtype != np.uint8 and mask.size and (mask.min() < 0 or mask.max() >= _TABLE_SIZE):
        raise _illegal_labels(mask[(mask < 0) | (mask >= _TABLE_SIZE)], label_space, sample)
    mapped = label_space.lookup_table()[mask]
    if mapped.size and mapped.min() < 0:
        raise _illegal_labels(mask[mapped < 0], label_space, sample)
    return mapped.astype(np.uint8)


def _illegal_labels(pixels: np.ndarray, label_space: LabelSpace, sample: str) -> ValueError:
    values, counts = np.unique(pixels, return_counts=True)
    found = ", ".join(f"{value} ({count} pixels)" for value, count in zip(values[:10], counts[:10], strict=True))
    more = f" and {len(values) - 10} other values" if len(values) > 10 else ""
    allowed = f"0..{label_space.num_labels - 1}" if label_space.label_map is None else "the keys of its label_map"
    return ValueError(
        f"Sample {sample}: the label mask holds {found}{more}, but label space {label_space.name!r} "
        f"({label_space.num_labels} classes) allows {allowed} and {label_space.ignore_index} for void. Correct the "
        "mask, or pass a LabelSpace whose label_map={raw value: train id, or "
        f"{label_space.ignore_index} for void}} names every value."
    )


def read_label_space(path: str | Path) -> LabelSpace:
    """Reads class names from a `classes.txt` (one name per line) or a `classes.json` (raw id -> name, null for void).

    In JSON, classes get train ids in the order of their raw ids, so raw ids may have gaps.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is not as described.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a classes.txt or a classes.json.")
    name = path.parent.name or path.stem
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return LabelSpace(name, tuple(line.strip() for line in text.splitlines() if line.strip()))
    try:
        entries = {int(raw): label for raw, label in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{path}: expected a JSON object such as {{"0": "sky"}} (raw id -> name): {error}') from None
    return _from_raw_names(name, entries)


def _from_raw_names(name: str, entries: Mapping[int, str | None]) -> LabelSpace:
    raw_ids = sorted(raw for raw, label in entries.items() if label is not None)
    names = tuple(str(entries[raw]) for raw in raw_ids)
    if raw_ids == list(range(len(entries))):
        return LabelSpace(name, names)
    label_map = {raw: VOID for raw in entries} | {raw: train for train, raw in enumerate(raw_ids)}
    return LabelSpace(name, names, label_map=label_map)


def _space(name: str, classes: Sequence[tuple[str, Color]], label_map: Mapping[int, int] | None = None) -> LabelSpace:
    return LabelSpace(name, tuple(c for c, _ in classes), tuple(color for _, color in classes), label_map=label_map)


CAMVID = _space(
    "camvid",
    [
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
    ],
    label_map={**{train: train for train in range(11)}, 11: VOID},
)

_VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
PASCAL_VOC = LabelSpace("voc2012", tuple(_VOC_NAMES.split()))

SCENES = _space(
    "scenes",
    [
        ("sky", (70, 130, 180)),
        ("road", (128, 64, 128)),
        ("pavement", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("tree", (107, 142, 35)),
        ("car", (0, 0, 142)),
        ("person", (220, 20, 60)),
        ("pole", (153, 153, 153)),
        ("sign", (220, 220, 0)),
    ],
)
