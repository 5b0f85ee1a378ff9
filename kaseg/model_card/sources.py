"""Whose work a model rests on: its training data and its teacher, with their licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn
from yaml import YAMLError

from kaseg.checkpoints import resolve
from kaseg.data import SPECS
from kaseg.model_card.results import RESULTS_NAME, read_results

CARD_NAME = "README.md"


@dataclass(frozen=True)
class DataSource:
    """A data set as a card names it. What is not known is empty, and the card says so.

    Args:
        name: Name or Hub id.
        licence: Licence in words or as an SPDX id.
        homepage: Where it can be had.
        citation: Who made it.
    """

    name: str = ""
    licence: str = ""
    homepage: str = ""
    citation: str = ""

    @classmethod
    def named(cls, name: str) -> DataSource:
        """One of [`kaseg.data.SPECS`], or a data set of which no more is known than its name (of a folder, its last
        part: where it lay is nobody's concern)."""
        if name in SPECS:
            spec = SPECS[name]
            return cls(spec.name, spec.licence, spec.homepage, spec.citation)
        return cls(Path(name).resolve().name if name and Path(name).is_dir() else name)

    @classmethod
    def of(cls, dataset: Any) -> DataSource:
        """What the `info` of a `datasets.Dataset` says, also through [`~kaseg.data.SegmentationDataset`]."""
        info: Any = getattr(getattr(dataset, "dataset", dataset), "info", None)
        name = getattr(info, "dataset_name", None)
        # Data built from files bears the name of the builder: "parquet", "generator", ...
        if not name or name == info.builder_name:
            return cls()
        known = cls.named(name)
        return cls(
            name,
            known.licence or info.license or "",
            known.homepage or info.homepage or "",
            known.citation or info.citation or "",
        )

    @property
    def hub_licence(self) -> dict[str, str]:
        """The licence as a card's metadata: an SPDX id, or "other" with a name and, where known, a link."""
        if not self.licence:
            return {}
        if re.fullmatch(r"[\w.+-]+", self.licence):
            return {"license": self.licence.lower()}
        name = re.sub(r"[^a-z0-9.]+", "-", self.licence.lower()).strip("-")
        return {"license": "other", "license_name": name} | ({"license_link": self.homepage} if self.homepage else {})


@dataclass(frozen=True)
class TeacherSource:
    """A teacher as a card names it; an empty licence is one that is not stated."""

    name: str
    licence: str = ""

    @classmethod
    def of(cls, teacher: str | Path | nn.Module) -> TeacherSource:
        """Of a Hub id, a folder, a shipped name or a network.

        The licence is the one in the teacher's own card, in its folder or in the cache of the Hub, or else that of the
        data that its `results.json` names: nothing is fetched.
        """
        network = getattr(teacher, "model", teacher)
        if isinstance(network, nn.Module):
            name = getattr(getattr(network, "config", None), "name_or_path", "")
            return cls.of(name) if name else cls(type(network).__name__)
        name, folder = str(teacher), Path(resolve(str(teacher)))
        if folder.is_dir():
            shown = folder.resolve().name if Path(name).is_dir() else name
            return cls(shown, _stated_licence(folder / CARD_NAME) or _data_licence(folder))
        try:
            card = try_to_load_from_cache(name, CARD_NAME)
        except HFValidationError:  # a folder that is no longer there
            return cls(Path(name).name)
        return cls(name, _stated_licence(Path(card)) if isinstance(card, str) else "")


def _stated_licence(card: Path) -> str:
    """The licence in a card's metadata, if it can be read."""
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):
        return ""
    return str((metadata or {}).get("license") or "")


def _data_licence(run_dir: Path) -> str:
    """The licence of the data that a finished run was trained on, if known."""
    if not (run_dir / RESULTS_NAME).is_file():
        return ""
    return DataSource.named(read_results(run_dir).get("dataset") or "").licence
