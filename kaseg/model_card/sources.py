"""The training data and the teacher of a model, with their licenses."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
    """A dataset as a card names it. What is not known is empty, and the card says so.

    Attributes:
        name: Or Hub id.
        license: In words or as an SPDX id.
        homepage, citation: Where it can be had, who made it.
    """

    name: str = ""
    license: str = ""
    homepage: str = ""
    citation: str = ""

    @classmethod
    def named(cls, name: str) -> Self:
        """One of [`kaseg.data.SPECS`], or else the name alone (of a folder its last part, not where it lies)."""
        if name in SPECS:
            spec = SPECS[name]
            return cls(spec.name, spec.license, spec.homepage, spec.citation)
        folder = Path(name).resolve().name if name and Path(name).is_dir() else name
        # Else the next to read the name would take it for the known dataset, and its license for this one's.
        return cls(f"folder {folder}" if folder in SPECS else folder)

    @classmethod
    def of(cls, dataset: Any) -> Self:
        """Reads the `info` of a `datasets.Dataset`, also through [`~kaseg.data.SegmentationDataset`]."""
        info: Any = getattr(getattr(dataset, "dataset", dataset), "info", None)
        name = getattr(info, "dataset_name", None)
        # Data built from files bears the name of the builder: "parquet", "generator", ...
        if not name or name == info.builder_name:
            return cls()
        known = cls.named(name)
        return cls(name, *(getattr(known, k) or getattr(info, k) or "" for k in ("license", "homepage", "citation")))

    @property
    def hub_license(self) -> dict[str, str]:
        """The license as a card's metadata: an SPDX id, or "other" with a name and, where known, a link."""
        if not self.license:
            return {}
        if re.fullmatch(r"[\w.+-]+", self.license):
            return {"license": self.license.lower()}
        name = re.sub(r"[^a-z0-9.]+", "-", self.license.lower()).strip("-")
        return {"license": "other", "license_name": name} | ({"license_link": self.homepage} if self.homepage else {})


@dataclass(frozen=True)
class TeacherSource:
    """A teacher as a card names it; an empty license is one that is not stated."""

    name: str
    license: str = ""

    @classmethod
    def of(cls, teacher: str | Path | nn.Module) -> Self:
        """Of a Hub id, a folder, a shipped name or a network.

        The license is the one in the teacher's own card, in its folder or in the cache of the Hub, or else that of the
        data that its `results.json` names: nothing is downloaded.
        """
        network = getattr(teacher, "model", teacher)
        if isinstance(network, nn.Module):
            name = getattr(getattr(network, "config", None), "name_or_path", "")
            return cls.of(name) if name else cls(type(network).__name__)
        name, folder = str(teacher), Path(resolve(str(teacher)))
        if folder.is_dir():
            shown = folder.resolve().name if Path(name).is_dir() else name
            data = read_results(folder).get("dataset") if (folder / RESULTS_NAME).is_file() else None
            return cls(shown, _stated_license(folder / CARD_NAME) or DataSource.named(data or "").license)
        try:
            card = try_to_load_from_cache(name, CARD_NAME)
        except HFValidationError:  # a folder that is no longer there
            return cls(Path(name).name)
        return cls(name, _stated_license(Path(card)) if isinstance(card, str) else "")


def _stated_license(card: Path) -> str:
    """The license in a card's metadata, if it can be read."""
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):
        return ""
    return str((metadata or {}).get("license") or "")
