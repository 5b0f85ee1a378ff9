"""What makes a model fast once it is trained."""

from typing import TypeVar

import torch
from torch import nn

from kaseg.modeling_kaseg import KASegModel

M = TypeVar("M", bound=nn.Module)


def deployed(model: M) -> M:
    """Makes a [`KASegModel`] fast, in place: BatchNorm folded into the convolutions, channels-last weights, and 1x1
    convolutions that oneDNN computes also where torch has one thread.

    The logits stay the same up to rounding. The model can be neither trained nor saved afterwards. Other models come
    back as they are. All steps are our choice; `kaseg benchmark` times the first two one by one (engines `eager`,
    `fused`, `channels_last`); `tests/benchmarks/predict_throughput.py` times what comes of all three.

    Args:
        model: Any model; put in eval mode.

    Returns:
        The model itself.
    """
    model.eval()
    if isinstance(model, KASegModel):
        model.fuse().eval().to(memory_format=torch.channels_last)
        if torch.backends.mkldnn.is_available():
            _leave_pointwise_to_onednn(model)
    return model


class _OneDNNConv2d(nn.Conv2d):
    """A 1x1 convolution that asks for oneDNN by name. With one thread torch prefers a plain matrix product for them,
    which is slower by far on channels-last maps; and one thread for each of several images is what a CPU is used best
    with."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        usual = input.device.type != "cpu" or input.dtype != torch.float32 or input.ndim != 4
        usual = usual or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        # Compilers do not know the operation, and make their own choice.
        if usual or torch.compiler.is_compiling() or not torch.backends.mkldnn.enabled:  # type: ignore[attr-defined]
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, (0, 0), self.stride, self.dilation, self.groups)  # type: ignore[no-any-return]


def _leave_pointwise_to_onednn(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.padding == (0, 0):
            pointwise = _OneDNNConv2d(module.in_channels, module.out_channels, 1, groups=module.groups, device="meta")
            pointwise.stride, pointwise.dilation = module.stride, module.dilation
            pointwise.weight, pointwise.bias = module.weight, module.bias
            model.set_submodule(name, pointwise.eval())
