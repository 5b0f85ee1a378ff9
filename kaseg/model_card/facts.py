"""All that a card says, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaseg.configuration_kaseg import KASegConfig
from kaseg.model_card.sources import DataSource, TeacherSource


@dataclass
class CardFacts:
    """What is known of a model; what is not known is left out of its card.

    Attributes:
        name: The card's title.
        model_id: What `from_pretrained` takes: a Hub id, a shipped name or a folder.
        config: Of the model.
        results: Keys of `results.json`; with a `mean_iou` the card has scores.
        data: Of the training.
        loss: Terms of the training loss and their weights.
        settings: Hyper-parameters that differ from their defaults.
        teacher: Of a distilled model.
        compared: Name -> results of other models, for the same table.
        command: Repeats the run.
        picture: File beside the card that shows an input and the mask.
        tags: Further ones for the Hub.
        remarks: Paragraphs that end the training section.

    Raises:
        ValueError: a model in `compared` was scored on another dataset or split.
    """

    name: str
    model_id: str
    config: KASegConfig
    results: Mapping[str, Any]
    data: DataSource
    loss: Mapping[str, float | str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: TeacherSource | None = None
    compared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    command: str = ""
    picture: str = ""
    tags: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

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
