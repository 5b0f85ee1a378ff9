"""Mixing of the images of a batch: CutMix and ClassMix."""

from collections.abc import Callable

import torch
from torch import Tensor

from kaseg.data.dataset import sample_seed
from kaseg.pixels import VOID

MIXES = ("cutmix", "classmix")
MIXED_IMAGES = ("all", "unlabelled")
BOX_AREA = 0.5


class BatchMixer:
    """Pastes a part of one image of a batch into another, and the same part of its labels.

    With `x_b` image `b`, `y_b` its labels, `d` the image that is drawn for it (never `b` itself), and `M_b` a mask of
    the pixels that are pasted,

        x'_b = M_b x_d + (1 - M_b) x_b          y'_b = M_b y_d + (1 - M_b) y_b

    - `"cutmix"` (Yun et al., ICCV 2019, in the form of French et al., BMVC 2020, for segmentation): `M_b` is a box of
      half the area; `height = 0.5^u` and `width = 0.5^(1 - u)` of the crop's with `u` uniform in 0..1, anywhere within.
    - `"classmix"` (Olsson et al., WACV 2021): `M_b` is where image `d` shows one of half of its classes, drawn at
      random and rounded down: an image of a single class gives nothing. Its classes are those of its labels, void left
      out. Of an image without any label they are what `classify` says, which is one forward pass of the teacher over
      the unlabelled images that are pasted from.

    The draws depend on the seed and the numbers of a call alone, on no other generator and no device.

    Args:
        method (`str`): `"cutmix"` or `"classmix"`.
        probability (`float`, defaults to 0.5): Of each image to have something pasted into it, over 0 and at most 1
            (our choice; both papers mix all unlabelled images and no labelled ones).
        images (`str`, defaults to `"all"`): Which images are mixed, with one another: `"all"`, or those of the
            `"unlabelled"`, which have no pixel with a label.
        seed (`int`, defaults to 0): Seed of the draws.

    Raises:
        ValueError: If a setting is out of its range; the message names it.

    Example:
        >>> import torch
        >>> from kaseg.data import BatchMixer
        >>> batch = {"pixel_values": torch.rand(4, 3, 8, 8), "labels": torch.randint(0, 5, (4, 8, 8))}
        >>> mixed = BatchMixer("cutmix", probability=1.0)(batch, 0)
        >>> mixed["pixel_values"].shape, (mixed["pixel_values"] != batch["pixel_values"]).flatten(1).any(1).tolist()
        (torch.Size([4, 3, 8, 8]), [True, True, True, True])
    """

    def __init__(self, method: str, probability: float = 0.5, images: str = "all", seed: int = 0) -> None:
        check_mix(method, probability, images)
        self.method, self.probability, self.images, self.seed = method, probability, images, seed

    def __call__(
        self, batch: dict[str, Tensor], *numbers: int, classify: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Makes a mixed batch.

        Args:
            batch: `pixel_values` (B, 3, H, W) and `labels` (B, H, W); further entries are passed on.
            numbers: Of the step, the micro-batch, the process: the same numbers give the same draws.
            classify: Class ids (N, H, W) of images (N, 3, H, W), for ClassMix. Without it, nothing is taken from
                images that have no label.

        Raises:
            ValueError: Images and labels differ in size.
        """
        pixel_values, labels = batch["pixel_values"], batch["labels"]
        if pixel_values.shape[-2:] != labels.shape[-2:]:
            raise ValueError(
                f"mix pastes images and labels alike, but pixel_values are {tuple(pixel_values.shape[-2:])} and labels "
                f"{tuple(labels.shape[-2:])}: give both the same size, or leave mix out."
            )
        # On the CPU, so that runs on every device mix alike.
        generator = torch.Generator().manual_seed(sample_seed(self.seed, "mix", *numbers))
        unlabelled = labels.eq(VOID).flatten(1).all(1).cpu()
        donors, pasted_into = self._draw_pairs(unlabelled, generator)
        if not pasted_into.any():
            return batch
        if self.method == "cutmix":
            masks = draw_boxes(len(labels), (labels.shape[-2], labels.shape[-1]), generator).to(labels.device)
        else:
            # For 256 classes and every image, so that no draw depends on what the others show.
            scores = torch.rand(len(labels), VOID + 1, generator=generator)
            asked = donors[pasted_into & unlabelled[donors]].to(labels.device)
            classes = labels
            if classify is not None and len(asked):
                classes = labels.index_copy(0, asked, classify(pixel_values[asked]).to(labels.dtype))
            masks = half_of_the_classes(classes, scores.to(labels.device))[donors]
        masks &= pasted_into.to(labels.device)[:, None, None]
        mixed = torch.where(masks[:, None], pixel_values[donors], pixel_values)
        return {**batch, "pixel_values": mixed, "labels": torch.where(masks, labels[donors], labels)}

    def _draw_pairs(self, unlabelled: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The image (B,) that each one is mixed with, and whether it is mixed (B,)."""
        count = len(unlabelled)
        pasted_into = torch.rand(count, generator=generator) < self.probability
        order = torch.randperm(count, generator=generator)
        if self.images == "unlabelled":
            pasted_into &= unlabelled
            order = order[unlabelled[order]]
        donors = torch.arange(count)
        donors[order] = order.roll(1)  # one circle, so that nobody is its own
        return donors, pasted_into & (donors != torch.arange(count))


def check_mix(method: str, probability: float, images: str) -> None:
    """Raises a ValueError that names the setting of `mix`, `mix_probability` or `mix_of` that cannot be."""
    if method not in MIXES:
        raise ValueError(f"mix must be one of {MIXES}, got {method!r}.")
    if not 0 < probability <= 1:
        raise ValueError(f"mix_probability must be over 0 and at most 1, got {probability}.")
    if images not in MIXED_IMAGES:
        raise ValueError(f"mix_of must be one of {MIXED_IMAGES}, got {images!r}.")


def draw_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Masks (count, height, width) of one box each of half the area, of random aspect ratio and place."""
    exponents, tops, lefts = torch.rand(3, count, 1, generator=generator)
    masks = []
    for length, exponent, place in ((size[0], exponents, tops), (size[1], 1 - exponents, lefts)):
        side = (length * BOX_AREA**exponent).round()
        start = ((length - side) * place).round()
        positions = torch.arange(length)
        masks.append((positions >= start) & (positions < start + side))
    return masks[0][:, :, None] & masks[1][:, None, :]


def half_of_the_classes(labels: Tensor, scores: Tensor) -> Tensor:
    """Masks (N, H, W) of the pixels of half of each image's classes, rounded down: of those with the highest scores
    (N, 256), which are in 0..1. Labels (N, H, W) may be void."""
    flat = labels.flatten(1).long()
    present = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, flat, True)
    present[:, VOID] = False
    ranks = scores.masked_fill(~present, -1.0).argsort(1, descending=True).argsort(1)
    chosen = present & (ranks < present.sum(1, keepdim=True) // 2)
    return chosen.gather(1, flat).view_as(labels)
