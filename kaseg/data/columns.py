"""Brings the columns of Parquet and Hub data to `image`, `label` and `id`."""

from __future__ import annotations

from typing import Any

import datasets

from kaseg.data.samples import ENCODED_FEATURES, IMAGE_COLUMNS, LABEL_COLUMNS, AnyDataset, index_id


def standard_columns(
    data: AnyDataset, image_column: str | None, label_column: str | None, where: str, split: str
) -> AnyDataset:
    """Still encoded pictures and masks, and an id for each.

    Args:
        data: Any columns.
        image_column, label_column: Those of the pictures and masks. Default: guessed from the usual names.
        where: Name of the split, for messages.
        split: Its short name; ids are made of it where there are none. "test" may have no masks.

    Raises:
        ValueError: If there are no such columns, or they hold something else; the message names those that there are.
    """
    if data.column_names is None:
        raise ValueError(f"{where}: this stream does not tell its columns; load it with streaming=False.")
    names = list(data.column_names)
    image_column = _pick_column(image_column, IMAGE_COLUMNS, names, "image", where)
    if split == "test" and label_column is None and not any(name in names for name in LABEL_COLUMNS):
        data, label_column = _without_labels(data, image_column), "label"
        names = list(data.column_names)
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
    return data if has_ids else _number(data, split)


def _without_labels(data: AnyDataset, image_column: str) -> AnyDataset:
    """Adds a column `label` that is empty."""
    data = data.cast_column(image_column, datasets.Image(decode=False))
    feature = datasets.Image(decode=False)
    if isinstance(data, datasets.Dataset):
        return data.add_column("label", [None] * len(data), feature=feature)
    return data.map(_add_no_label, features=datasets.Features({**data.features, "label": feature}))


def _add_no_label(sample: dict[str, Any]) -> dict[str, Any]:
    return {"label": None}


def _number(data: AnyDataset, split: str) -> AnyDataset:
    if isinstance(data, datasets.Dataset):
        return data.add_column("id", [index_id(split, index) for index in range(len(data))])
    return data.map(_add_id, with_indices=True, fn_kwargs={"split": split}, features=ENCODED_FEATURES)


def _add_id(sample: dict[str, Any], index: int, split: str) -> dict[str, Any]:
    return {"id": index_id(split, index)}


def _pick_column(asked: str | None, usual: tuple[str, ...], names: list[str], what: str, where: str) -> str:
    if asked is not None and asked not in names:
        raise ValueError(f"{where}: no column {asked!r}; its columns are {names}.")
    found = [asked] if asked is not None else [name for name in usual if name in names]
    if not found:
        raise ValueError(f"{where}: no {what} column ({', '.join(usual)}) among {names}. Name it with {what}_column=.")
    return found[0]
