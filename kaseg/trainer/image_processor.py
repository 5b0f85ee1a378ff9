"""Which image processor a trainer trains with and saves."""

import logging
from typing import Any

from transformers import AutoImageProcessor

from kaseg.data.transforms import check_edges
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.modeling_kaseg import KASegModel
from kaseg.pixels import VOID

logger = logging.getLogger(__name__)


def image_processor_for(
    model: Any, given: Any = None, short_edge: int | None = None, max_long_edge: int | None = None
) -> KASegImageProcessor:
    """Finds the image processor of a model that is to be trained, the first of these that there is:

    1. The user's own (`given`). One that is no [`KASegImageProcessor`] is replaced by one that gives the same pixel
       values, without resizing and cropping.
    2. The one beside the checkpoint that the model was loaded from.
    3. One with ImageNet's mean and standard deviation.

    With `short_edge` and `max_long_edge` it resizes images so, whatever it did before: a model predicts at the size
    that it was evaluated at.

    Raises:
        ValueError: it gives pixel values or labels that training would not see, or has another void label than 255; the
            edges are not positive, or the second one is the smaller or alone.
    """
    name = getattr(model.config, "name_or_path", None)
    if given is not None:
        processor = _converted(given)
    elif name:
        processor = _of_checkpoint(name)
    else:
        processor = _of_new_model(model)
    if getattr(processor, "ignore_index", VOID) != VOID:
        raise ValueError(
            f"The image processor's ignore_index is {processor.ignore_index}; the trainer, its losses and scores take "
            f"{VOID} for void: leave ignore_index out."
        )
    check_edges("eval_size", short_edge, max_long_edge)
    if short_edge is None:
        return processor
    size = {"shortest_edge": short_edge} | ({} if max_long_edge is None else {"longest_edge": max_long_edge})
    return type(processor).from_dict({**processor.to_dict(), "do_resize": True, "size": size})


def _of_checkpoint(name: str) -> KASegImageProcessor:
    try:
        # False, as transformers would otherwise ask on the terminal whether to run the code of a repository.
        found = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        logger.warning(
            "No processing_class was given, and %s has no image processor (%s): ImageNet's mean and standard deviation "
            "are assumed. If the checkpoint was trained with others, pass processing_class=KASegImageProcessor("
            "image_mean=..., image_std=...).",
            name,
            str(error).strip().partition("\n")[0],
        )
        return KASegImageProcessor()
    logger.info("No processing_class was given: the image processor of %s is used.", name)
    return _converted(found)


def _converted(processor: Any) -> KASegImageProcessor:
    ours = KASegImageProcessor.of(processor)
    if ours is not processor:
        logger.warning(
            "The image processor is a %s. A KASegImageProcessor with the same mean and standard deviation, which "
            "neither resizes nor crops, is trained with and saved in its place.",
            type(processor).__name__,
        )
    return ours


def _of_new_model(model: Any) -> KASegImageProcessor:
    processor = KASegImageProcessor()
    config = getattr(model.encoder.body, "pretrained_cfg", None) if isinstance(model, KASegModel) else None
    mean, std = (tuple((config or {}).get(name) or ()) for name in ("mean", "std"))
    if mean and (mean, std) != (tuple(processor.image_mean), tuple(processor.image_std)):
        logger.warning(
            "No processing_class was given: ImageNet's mean and standard deviation are assumed, but timm's weights of "
            "%s were trained with mean %s and standard deviation %s. If the model starts from them, pass "
            "processing_class=KASegImageProcessor(image_mean=..., image_std=...).",
            model.config.backbone,
            mean,
            std,
        )
    return processor
