"""Datasets on the Hub: Parquet files that hold the images, a file of classes and a card."""

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
from kaseg.markdown import code, escaped, table
from kaseg.model_card import DataSource

CLASSES_NAME = "classes.json"
SHARD_BYTES = 500_000_000
FEATURES = datasets.Features(image=datasets.Image(), label=datasets.Image(), id=datasets.Value("string"))
_TEMPLATE = Path(__file__).with_name("dataset_card_template.md")


@contextmanager
def dataset_files(
    name: str | Path,
    repo_id: str,
    data_dir: str | Path | None = None,
    split: str | None = None,
    label_space: LabelSpace | str | Path | None = None,
    license: str | None = None,
    **options: Any,
) -> Iterator[dict[str, Path | bytes]]:
    """Writes a dataset as [`~kaseg.uploading.upload`] sends it to the Hub: path in the repository -> file or content.
    The files are gone after the `with` block.

    Images keep their encoded bytes where there are any (PNG else, without loss); masks become 8-bit PNG files of train
    ids, 255 for void. `load_segmentation_dataset(repo_id, label_space=dataset_label_space(repo_id))` thus gives the
    same samples again, streaming too. `classes.json` holds the classes and their colors.

    Args:
        name, data_dir, split, label_space, options: As in [`~kaseg.data.load_segmentation_dataset`].
        repo_id (`str`): Where it will lie, for the card.
        license (`str`, *optional*): License of the data; by default what is known of `name`, if anything.

    Raises:
        FileNotFoundError, ValueError: As `load_segmentation_dataset`.
    """
    space = get_label_space(name, data_dir, label_space)
    loaded = load_segmentation_dataset(name, split=split, data_dir=data_dir, label_space=label_space, **options)
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {split or "train": loaded}
    source = DataSource.named(str(name))
    source = source if license is None else replace(source, license=license)
    classes = {
        str(index): {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for index, (name, color) in enumerate(zip(space.names, space.palette, strict=True))
    }
    with tempfile.TemporaryDirectory(prefix="kaseg-dataset-") as scratch:
        files: dict[str, Path | bytes] = {}
        for part, data in parts.items():
            files |= _write_parquet(data, part, Path(scratch))
        files[CLASSES_NAME] = (json.dumps(classes, indent=2) + "\n").encode()
        counts = {part: len(data) for part, data in parts.items()}
        files["README.md"] = str(_card(repo_id, source, classes, counts)).encode()
        yield files


def dataset_label_space(repo_id: str, revision: str | None = None, token: str | None = None) -> LabelSpace:
    """Reads the classes of a dataset that [`dataset_files`] made, for `label_space=` of `load_segmentation_dataset`.

    Args:
        repo_id (`str`): Hub id.
        revision (`str`, *optional*): Branch, tag or commit.
        token (`str`, *optional*): Instead of the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        OSError: no such dataset, no right to read it, no network, or no `classes.json` in it.
    """
    with explained_loading(f"datasets/{repo_id}", revision):
        file = hf_hub_download(repo_id, CLASSES_NAME, repo_type="dataset", revision=revision, token=token)
    return replace(read_label_space(file), name=repo_id)


def _write_parquet(data: datasets.Dataset, split: str, folder: Path) -> dict[str, Path | bytes]:
    encoded = datasets.Dataset.from_generator(
        _encode, features=FEATURES, gen_kwargs={"data": data}, cache_dir=str(folder / "cache")
    )
    shards = max(1, math.ceil(encoded.data.nbytes / SHARD_BYTES))
    files: dict[str, Path | bytes] = {}
    for index in range(shards):
        name = f"{split}-{index:05d}-of-{shards:05d}.parquet"
        encoded.shard(shards, index, contiguous=True).to_parquet(folder / name)
        files[f"data/{name}"] = folder / name
    return files


def _encode(data: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """Samples with encoded images."""
    raw = data.with_format(None)
    for index in range(len(data)):
        sample = data[index]
        yield {
            "image": _original(raw[index].get("image")) or _png(sample["image"]),
            "label": None if sample["label"] is None else _png(sample["label"]),
            "id": sample["id"],
        }


def _original(encoded: Any) -> dict[str, Any] | None:
    """The image as it came, if it can be had: JPEGs would grow several times as PNG."""
    if not isinstance(encoded, Mapping):
        return None
    content, path = encoded.get("bytes"), encoded.get("path")
    if content is None and path and Path(path).is_file():
        content = Path(path).read_bytes()
    return None if content is None else {"bytes": content, "path": path and Path(path).name}


def _png(image: Image.Image) -> dict[str, Any]:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def _card(
    repo_id: str, source: DataSource, classes: Mapping[str, Mapping[str, str]], counts: Mapping[str, int]
) -> DatasetCard:
    title = source.name or repo_id.rpartition("/")[2]
    data_files = [{"split": split, "path": f"data/{split}-*"} for split in counts]
    data = DatasetCardData(
        pretty_name=title,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        configs=[{"config_name": "default", "data_files": data_files}],
        **source.hub_license,
    )
    rows = [(index, escaped(entry["name"]), code(entry["color"])) for index, entry in classes.items()]
    return DatasetCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        escaped=escaped,
        title=title,
        source=source,
        repo_id=json.dumps(repo_id),
        splits=table(("split", "samples"), counts.items()),
        classes=table(("id", "class", "color"), rows),
    )
