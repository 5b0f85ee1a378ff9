"""All that a card says, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaseg.configuration_kaseg import KASegConfig
from kaseg.model_card.sources import DataSource, TeacherSource


@dataclass
class CardFacts:
    """What is known of a model; what is not known is left out of its card.

    Raises:
        ValueError: a model in `compared` was scored on another dataset or split.
    """

    name: str  # the card's title
    model_id: str  # what `from_pretrained` takes: a Hub id, a shipped name or a folder
    config: KASegConfig
    results: Mapping[str, Any]  # keys of `results.json`; with a `mean_iou` the card has scores
    data: DataSource  # of the training
    loss: Mapping[str, float | str] = field(default_factory=dict)  # terms of the training loss and their weights
    settings: Mapping[str, Any] = field(default_factory=dict)  # hyper-parameters that differ from their defaults
    teacher: TeacherSource | None = None
    compared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # other models' results, for the same table
    command: str = ""  # repeats the run
    picture: str = ""  # file beside the card that shows an input and the mask
    tags: tuple[str, ...] = ()  # further ones for the Hub
    remarks: tuple[str, ...] = ()  # paragraphs that end the training section

    def __post_init__(self) -> None:
        for name, other in self.compared.items() if self.has_scores else ():
            for key in ("dataset", "split"):
                if other.get(key) != self.results.get(key):
                    raise ValueError(
                        f"{name} was scored on another {key} ({other.get(key)!r}) than {self.name} "
                        f"({self.results.get(key)!r}): they cannot stand in one table. Evaluate both on the same."
                    )

    @property
    def has_scores(self) -> bool:
        """Whether the model was evaluated."""
        return self.results.get("mean_iou") is not None

    @property
    def adapted(self) -> bool:
        """Whether a teacher was part of the loss."""
        return len(self.loss) > 1
