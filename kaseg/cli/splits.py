"""The split of a dataset that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import LabelSpace
    from ..modeling_kaseg import KASegModel


def load_split(
    dataset: str, split: str, data_dir: Path | None, space: LabelSpace, max_samples: int | None, **options: Any
) -> Any:
    """A split of a dataset, or its first `max_samples` samples; options as `load_segmentation_dataset` has them."""
    from ..data import load_segmentation_dataset

    data = load_segmentation_dataset(dataset, split=split, data_dir=data_dir, label_space=space, **options)
    return data if max_samples is None else data.select(range(min(max_samples, len(data))))


def check_classes(model: KASegModel, label_space: LabelSpace) -> None:
    """Raises a ValueError that lists both if the model's classes are not the dataset's, in its order."""
    names = tuple(name for _, name in sorted(model.config.id2label.items()))
    if names != label_space.names:
        raise ValueError(
            f"The model's classes are not those of the dataset {label_space.name!r}.\n"
            f"Model ({len(names)}): {', '.join(names)}\n"
            f"Dataset ({label_space.num_labels}): {', '.join(label_space.names)}"
        )
