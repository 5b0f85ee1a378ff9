"""Data sets on the Hub: Parquet files that hold the pictures, a file of classes and a card."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import DatasetCard, DatasetCardData, hf_hub_download
from PIL import Image

from kaseg.data import LabelSpace, get_label_space, load_segmentation_dataset, read_label_space
from kaseg.loading_errors import explained_loading
from kaseg.markdown import code, plain, table
from kaseg.model_card import DataSource

CLASSES_NAME = "classes.json"
SHARD_BYTES = 500_000_000
FEATURES = datasets.Features(image=datasets.Image(), label=datasets.Image(), id=datasets.Value("string"))


@contextmanager
def dataset_files(
    name: str | Path,
    repo_id: str,
    data_dir: str | Path | None = None,
    split: str | None = None,
    label_space: LabelSpace | str | Path | None = None,
    licence: str | None = None,
    **options: Any,
) -> Iterator[dict[str, Path | bytes]]:
    """Write a data set as it is sent to the Hub; the files are gone after the `with` block.

    Pictures keep their encoded bytes where there are any (PNG else, without loss); masks become 8-bit PNG files of
    train ids, 255 for void. `load_segmentation_dataset(repo_id, label_space=dataset_label_space(repo_id))` thus gives
    the same samples again, streaming too. `classes.json` holds the classes and their colours.

    Args:
        name, data_dir, split, label_space, options: As in [`~kaseg.data.load_segmentation_dataset`].
        repo_id (`str`): Where it will lie, for the card.
        licence (`str`, *optional*): Licence of the data; by default what is known of `name`, if anything.

    Yields:
        `dict[str, Path | bytes]`: path in the repository -> file or content, for [`~kaseg.uploading.upload`].

    Raises:
        FileNotFoundError, ValueError: As `load_segmentation_dataset`.
    """
    space = get_label_space(name, data_dir, label_space)
    loaded = load_segmentation_dataset(name, split=split, data_dir=data_dir, label_space=label_space, **options)
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {split or "train": loaded}
    source = DataSource.named(str(name))
    source = source if licence is None else replace(source, licence=licence)
    with tempfile.TemporaryDirectory(prefix="kaseg-dataset-") as scratch:
        files: dict[str, Path | bytes] = {}
        for part, data in parts.items():
            files |= _write_parquet(data, space, part, Path(scratch))
        files[CLASSES_NAME] = _classes(space).encode()
        counts = {part: len(data) for part, data in parts.items()}
        files["README.md"] = str(_card(repo_id, source, space, counts)).encode()
        yield files


def dataset_label_space(repo_id: str, revision: str | None = None, token: str | None = None) -> LabelSpace:
    """The classes of a data set that [`dataset_files`] made, for `label_space=` of `load_segmentation_dataset`.

    Args:
        repo_id (`str`): Hub id.
        revision (`str`, *optional*): Branch, tag or commit.
        token (`str`, *optional*): Instead of the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        OSError: no such data set, no right to read it, no network, or no `classes.json` in it.
    """
    with explained_loading(f"datasets/{repo_id}", revision):
        file = hf_hub_download(repo_id, CLASSES_NAME, repo_type="dataset", revision=revision, token=token)
    return replace(read_label_space(file), name=repo_id)


def _write_parquet(data: datasets.Dataset, space: LabelSpace, split: str, folder: Path) -> dict[str, Path | bytes]:
    encoded = datasets.Dataset.from_generator(
        _encode, features=FEATURES, gen_kwargs={"data": data, "space": space}, cache_dir=str(folder / "cache")
    )
    shards = max(1, math.ceil(encoded.data.nbytes / SHARD_BYTES))
    files: dict[str, Path | bytes] = {}
    for index in range(shards):
        name = f"{split}-{index:05d}-of-{shards:05d}.parquet"
        encoded.shard(shards, index, contiguous=True).to_parquet(folder / name)
        files[f"data/{name}"] = folder / name
    return files


def _encode(data: datasets.Dataset, space: LabelSpace) -> Iterator[dict[str, Any]]:
    """Samples with encoded pictures."""
    raw = data.with_format(None)
    for index in range(len(data)):
        sample = data[index]
        original = raw[index].get("image")
        image = _original(original) if isinstance(original, Mapping) else None
        yield {
            "image": image or {"bytes": _png(sample["image"]), "path": None},
            "label": None if sample["label"] is None else {"bytes": _png(sample["label"]), "path": None},
            "id": sample["id"],
        }


def _original(encoded: Mapping[str, Any]) -> dict[str, Any] | None:
    """The picture as it came, if it can be had: JPEGs would grow several times as PNG."""
    path = encoded.get("path")
    if encoded.get("bytes") is not None:
        return {"bytes": encoded["bytes"], "path": path and Path(path).name}
    if path and Path(path).is_file():
        return {"bytes": Path(path).read_bytes(), "path": Path(path).name}
    return None


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _classes(space: LabelSpace) -> str:
    entries = zip(space.names, space.palette, strict=True)
    return json.dumps({str(i): {"name": n, "color": _hex(c)} for i, (n, c) in enumerate(entries)}, indent=2) + "\n"


def _card(repo_id: str, source: DataSource, space: LabelSpace, counts: Mapping[str, int]) -> DatasetCard:
    title = source.name or repo_id.rpartition("/")[2]
    files = [{"split": split, "path": f"data/{split}-*"} for split in counts]
    data = DatasetCardData(
        pretty_name=title,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        configs=[{"config_name": "default", "data_files": files}],
        **source.hub_licence,
    )
    classes = enumerate(zip(space.names, space.palette, strict=True))
    text = [
        f"---\n{data.to_yaml()}\n---",
        f"# {plain(title)}",
        "Columns: `image`, `label` (8-bit mask of class ids, 255 is void) and `id`.",
        table(("split", "samples"), counts.items()),
        "```python\nfrom kaseg.data import load_segmentation_dataset\nfrom kaseg.hub import dataset_label_space\n\n"
        f"name = {json.dumps(repo_id)}\n"
        "dataset = load_segmentation_dataset(name, label_space=dataset_label_space(name))\n```",
        "## Classes\n\n"
        + table(("id", "class", "colour"), [(i, plain(name), code(_hex(color))) for i, (name, color) in classes])
        + f"\n\n`{CLASSES_NAME}` holds them for programs.",
        f"## Licence and source\n\n{source.licence or 'The licence is not stated.'}",
        *([f"Homepage: {source.homepage}"] if source.homepage else []),
        *([source.citation] if source.citation else []),
    ]
    return DatasetCard("\n\n".join(text) + "\n")
