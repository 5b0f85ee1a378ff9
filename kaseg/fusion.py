"""Folding BatchNorm into the convolutions before it, for deployment."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .encoders import on_meta, pass_of_shapes

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(model: nn.Module, image_shape: tuple[int, ...], **kwargs: Any) -> int:
    """Fold every BatchNorm that directly follows a convolution into it, in place; returns the number of pairs.

    Which BatchNorm follows which convolution is observed in a forward pass of shapes alone, not guessed from the order
    of the modules. A pair is folded if nothing else reads the convolution's output, be it the caller, and both are
    called once. What a BatchNorm does besides (timm's carry the activation) stays.

    Args:
        model (`nn.Module`): In eval mode.
        image_shape (`tuple[int, ...]`): Shape of an input.
        kwargs: Further arguments of the forward pass, which must return whatever the model may ever return.
    """
    pairs = list(_pairs(model, image_shape, kwargs))
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, _CONVOLUTIONS) and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        rest = list(norm.children())
        model.set_submodule(norm_name, (nn.Sequential(*rest) if rest else nn.Identity()).eval())
    return len(pairs)


def _pairs(model: nn.Module, image_shape: tuple[int, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of a convolution and of the BatchNorm that alone reads its output."""
    tensors = on_meta(model)
    recorder = _Recorder({id(tensor): name.rpartition(".")[0] for name, tensor in tensors.items()})
    with recorder:
        outputs = pass_of_shapes(model, image_shape, tensors, **kwargs)
    returned = {id(output) for output in tree_leaves(outputs)}
    for output, conv, norm in recorder.pairs:
        once = recorder.calls[conv] == recorder.calls[norm] == recorder.reads[id(output)] == 1
        if once and id(output) not in returned and isinstance(model.get_submodule(conv), _CONVOLUTIONS):
            yield conv, norm


class _Recorder(TorchFunctionMode):
    """Notes, for each call of a torch function, who owns its weights and who made its input.

    Args:
        owners: `id` of a parameter or buffer -> name of the module that it belongs to.

    Attributes:
        pairs: Output of a convolution, name of the convolution, name of the BatchNorm that was called on it.
        calls: How often each convolution and BatchNorm was called.
        reads: `id` of an output of a convolution -> how many functions that return tensors were called on it.
    """

    def __init__(self, owners: dict[int, str]) -> None:
        super().__init__()
        self.owners = owners
        self.pairs: list[tuple[torch.Tensor, str, str]] = []
        self.calls: Counter[str] = Counter()
        self.reads: Counter[int] = Counter()
        # Kept, lest another tensor gets the id of one that is gone.
        self._outputs: dict[int, tuple[torch.Tensor, str]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(result)):
            return result  # asked for a shape or the like
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.reads.update(id(leaf) for leaf in leaves if id(leaf) in self._outputs)
        # By the second argument, weight or running mean: a convolution that standardizes its weight first has its bias
        # alone to be known by, and must not be folded.
        owner = self.owners.get(id(leaves[1])) if len(leaves) > 1 else None
        name = getattr(func, "__name__", "")
        if owner is not None and name.startswith("conv"):
            self.calls[owner] += 1
            self._outputs[id(result)] = (result, owner)
        elif owner is not None and name == "batch_norm":
            self.calls[owner] += 1
            if id(leaves[0]) in self._outputs:
                self.pairs.append((*self._outputs[id(leaves[0])], owner))
        return result
