"""Where a teacher is tapped: the submodule whose input or output is distilled, and maps made of what it gives."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from kaseg.close_names import did_you_mean
from kaseg.distillation.teachers.input_sizes import InputSize

# Universal models have no classifier of pixels: their masks are products of queries and this module's map.
_MASK_FEATURES = {
    "mask2former": "model.pixel_level_module.decoder.mask_projection",
    "maskformer": "model.pixel_level_module.decoder.mask_projection",
    "oneformer": "model.pixel_level_module.decoder.mask_projection",
    "eomt": "upscale_block",
    "eomt_dinov3": "upscale_block",
}
# A class token and registers; with more in front of them, patches are only found if their size is known.
_MAX_PREFIX = 16
_SHOWN_TAPS = 30


@dataclass(frozen=True)
class Tap:
    """A submodule by name, and whether its input is meant in place of its output."""

    name: str
    reads_input: bool = False

    def __str__(self) -> str:
        return f"the {'input' if self.reads_input else 'output'} of {self.name or 'the whole network'}"


@contextmanager
def recorded(modules: Mapping[Tap, nn.Module]) -> Iterator[dict[Tap, Any]]:
    """Inside, the last input or output of each submodule is kept in the dictionary given back."""
    seen: dict[Tap, Any] = {}

    def keep(tap: Tap) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], *output: Any) -> None:
            # What follows may change an output in place, as the ReLU behind many a BatchNorm does.
            seen[tap] = _copied(output[0]) if output else next(iter((*args, *kwargs.values())))

        return hook

    handles = [
        module.register_forward_pre_hook(keep(tap), with_kwargs=True)
        if tap.reads_input
        else module.register_forward_hook(keep(tap), with_kwargs=True)
        for tap, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, value)


def as_map(value: Any, image_size: tuple[int, int], patch_size: int | None = None) -> torch.Tensor | None:
    """A map (B, c, h, w) of what a submodule gave for an image of `image_size` (height, width); `None` if it is none.

    Maps with channels last (B, h, w, c) are turned; tokens (B, n, c) become a map once those in front of the patches
    (class tokens, registers, queries) are dropped. Of a tuple, list, dict or `ModelOutput` the last entry that is a map
    counts.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim == 4:
            if not _is_grid(value.shape[2:], image_size) and _is_grid(value.shape[1:3], image_size):
                return value.permute(0, 3, 1, 2)
            return value
        if value.ndim == 3:
            grid = _token_grid(value.shape[1], image_size, patch_size)
            if grid is not None:
                height, width = grid
                patches = value[:, value.shape[1] - height * width :]
                return patches.transpose(1, 2).reshape(value.shape[0], -1, height, width)
        return None
    items = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(items, list | tuple):
        for item in reversed(items):
            found = as_map(item, image_size, patch_size)
            if found is not None:
                return found
    return None


def _is_grid(grid: tuple[int, ...] | torch.Size, image_size: tuple[int, int]) -> bool:
    """Whether positions are spread over the image evenly in both directions, to one position."""
    height, width = grid
    return abs(height * image_size[1] / image_size[0] - width) <= max(1.0, image_size[1] / image_size[0])


def _token_grid(count: int, image_size: tuple[int, int], patch_size: int | None) -> tuple[int, int] | None:
    """The grid of `count` tokens: that of the known patches if there are enough; else the one with exactly `count`
    positions; else the finest of whole patches that leaves a few tokens over."""
    height, width = image_size
    if patch_size and height % patch_size == 0 and width % patch_size == 0:
        grid = height // patch_size, width // patch_size
        if count >= grid[0] * grid[1]:
            return grid
    sides = range(1, min(height, width) + 1)
    for side in sides:
        grid = -(-height // side), -(-width // side)
        if grid[0] * grid[1] == count:
            return grid
    for side in sides:
        grid = height // side, width // side
        if height % side == 0 and width % side == 0 and 0 <= count - grid[0] * grid[1] <= _MAX_PREFIX:
            return grid
    return None


def find_tap(
    model: nn.Module, num_labels: int | None, run: Callable[[], Any], logits_of: Callable[[Any], torch.Tensor | None]
) -> Tap:
    """The default tap: the input of the classifier, the map "just before the classifier" (our reading of the paper's
    "last feature map"); of universal models the map that their mask queries are multiplied with.

    The classifier is a convolution or linear layer with `num_labels` outputs, by default the channels of the logits.
    Where there are several (auxiliary heads), it is the one whose output in a dry run is the logits, as they are or
    resized; if none is, because the logits are a sum, the one that is called last. `run` runs the network on an
    example, and `logits_of` reads the logits (B, C, h, w) from what it gives. A ValueError if there is no classifier.
    """
    named = _MASK_FEATURES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if named is not None:
        return Tap(named)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if num_labels is None:
        logits = logits_of(run())
        num_labels = logits.shape[1] if logits is not None and logits.ndim == 4 else None
    candidates = {n: m for n, m in layers.items() if _outputs(m) == num_labels}
    if not candidates:
        raise ValueError(
            f"Found no convolution or linear layer with num_labels={num_labels} outputs in {type(model).__name__}; "
            f"name the submodule whose output is to be distilled with tap=. {_described(available_taps(model, run))}"
        )
    if len(candidates) == 1:
        return Tap(next(iter(candidates)), reads_input=True)
    with recorded({Tap(name): module for name, module in candidates.items()}) as seen:
        logits = logits_of(run())
    called = [tap.name for tap in seen]
    matching = [tap.name for tap, output in seen.items() if logits is not None and becomes(output, logits)]
    return Tap((matching or called or list(candidates))[-1], reads_input=True)


def _outputs(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def becomes(output: Any, logits: torch.Tensor) -> bool:
    """Whether a layer's output is the logits, as it is or resized."""
    if not isinstance(output, torch.Tensor) or output.ndim != 4 or output.shape[:2] != logits.shape[:2]:
        return False
    # Relative to their range: untrained heads give logits as small as 1e-5.
    tolerance = 1e-3 * float(logits.max() - logits.min())
    variants = (
        F.interpolate(output, size=logits.shape[-2:], mode="bilinear", align_corners=aligned)
        for aligned in (False, True)
    )
    return any(float((variant - logits).abs().max()) <= tolerance for variant in variants)


def named_tap(model: nn.Module, name: str, run: Callable[[], Any]) -> Tap:
    """The tap at the output of the submodule `name`, or a ValueError that lists those that give maps."""
    names = [n for n, _ in model.named_modules() if n]
    if name in names:
        return Tap(name)
    hint = did_you_mean(name, names)
    raise ValueError(f"The teacher has no submodule {name!r} to tap.{hint} {_described(available_taps(model, run))}")


def available_taps(model: nn.Module, run: Callable[[], Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape (c, h, w) of every submodule that gives a map in the dry run, in the order of the forward pass."""
    taps = {Tap(name): module for name, module in model.named_modules() if name}
    with recorded(taps | {Tap("", reads_input=True): model}) as seen:
        run()
    image_size = tuple(seen.pop(Tap("", reads_input=True)).shape[-2:])
    maps = {tap.name: as_map(value, image_size, patch_size_of(model)) for tap, value in seen.items()}
    return {name: tuple(found.shape[1:]) for name, found in maps.items() if found is not None}


def _described(taps: Mapping[str, tuple[int, ...]]) -> str:
    """The outermost of the taps, in words."""
    by_depth = sorted(taps, key=lambda name: name.count("."))[:_SHOWN_TAPS]
    listed = ", ".join(f"{name} {shape}" for name, shape in taps.items() if name in by_depth)
    left = len(taps) - len(by_depth)
    rest = f" and {left} others, see kaseg.distillation.list_taps." if left else "."
    return f"Maps (channels, height, width) come from: {listed}{rest}"


def patch_size_of(model: nn.Module) -> int | None:
    """Pixels per side of a patch, where the model says so."""
    size = getattr(getattr(model, "config", None), "patch_size", None)
    return size if isinstance(size, int) else None


def example_image(model: nn.Module, size: InputSize, side: int = 128) -> torch.Tensor:
    """Noise (1, channels, H, W) in a size that the network takes, always the same."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    noise = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    reference = reference_tensor(model)
    return size.fit(noise).to(reference.device, reference.dtype)


def reference_tensor(model: nn.Module) -> torch.Tensor:
    """A tensor of the type and on the device that the network computes in: its first parameter or, as pooling and fixed
    filters have none, buffer of a floating type, else a new one of the default type."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


@torch.no_grad()
def list_taps(model: nn.Module, image_size: int = 128, **model_inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Every submodule that can be tapped: name -> (channels, height, width) of its map for a square image.

    Args:
        model: Any segmentation network.
        image_size: Side of the image; networks that take but one size get that.
        model_inputs: Further arguments of the forward pass.

    Example:

    ```python
    >>> from torch import nn
    >>> from kaseg.distillation import list_taps
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> list_taps(network, image_size=64)
    {'0': (8, 32, 32), '1': (8, 32, 32), '2': (2, 32, 32)}

    ```
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"list_taps takes a network, not {model!r}: load it with TeacherAdapter(...).model.")
    image = example_image(model, InputSize.of(model), image_size)
    was_training = model.training
    model.eval()
    try:
        return available_taps(model, lambda: model(image, **model_inputs))
    finally:
        model.train(was_training)
