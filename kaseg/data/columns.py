"""Brings the columns of Parquet and Hub data to `image`, `label` and `id`."""

from __future__ import annotations

from typing import Any

import datasets

from kaseg.data.samples import ENCODED_FEATURES, IMAGE_COLUMNS, LABEL_COLUMNS, AnyDataset, index_id


def standard_columns(
    data: AnyDataset, image_column: str | None, label_column: str | None, where: str, split: str
) -> AnyDataset:
    """Gives data with encoded images and masks, and an id for each.

    Args:
        data: Any columns.
        image_column, label_column: Those of the images and masks. Default: guessed from the usual names.
        where: Name of the split, for messages.
        split: Its short name; ids are made of it where there are none. "test" may have no masks.

    Raises:
        ValueError: There are no such columns, or they hold something else; the message names those that there are.
    """
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
