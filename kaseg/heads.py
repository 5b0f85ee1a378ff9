"""Segmentation heads: feature maps of an encoder -> the map that the 1x1 classifier reads."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation


def finest_index(strides: Sequence[int], stride: int) -> int:
    """Index of the first map at `stride` or just coarser (the last map, if all are finer)."""
    return next((i for i, s in enumerate(strides) if s >= stride), len(strides) - 1)


def pyramid_indices(strides: Sequence[int], stride: int) -> list[int]:
    """Indices of the deepest map at each stride from `stride` on, from fine to coarse; at least the last map's."""
    last = len(strides) - 1
    return [i for i, s in enumerate(strides) if i == last or (s >= stride and s != strides[i + 1])]


def _resize(x: torch.Tensor, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, BatchNorm and ReLU; `separable` splits it into depthwise and pointwise ones."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1, separable: bool = False
    ) -> None:
        depthwise: Iterable[nn.Module] = ()
        if separable and kernel_size > 1:
            depthwise = Conv2dNormActivation(
                in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels
            )
            kernel_size = dilation = 1
        super().__init__(*depthwise, *Conv2dNormActivation(in_channels, out_channels, kernel_size, dilation=dilation))


class ImagePooling(nn.Module):
    """Global average pooling, 1x1 convolution, and the one vector spread over the map again."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(in_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.project[1].training and x.shape[0] == 1:
            raise ValueError(
                "Image pooling cannot be trained on a batch of one image: BatchNorm would see a single value per "
                "channel. Use a batch of two or more per device (dataloader_drop_last=True drops a short last batch) "
                "or freeze_batch_norm=True."
            )
        pooled = self.project(F.adaptive_avg_pool2d(x, 1))
        return pooled.expand(-1, -1, x.shape[-2], x.shape[-1])


class Head(nn.Module):
    """Encoder maps, from fine to coarse -> the map that the classifier reads, at `stride`."""

    stride: int


class StudentHead(Head):
    """The DeepLab MobileNetV2 head of the paper's student: no ASPP, no decoder.

    {global pooling + 1x1 conv, 1x1 conv} -> concat -> 1x1 conv, all with BatchNorm and ReLU. Its cost at 513x513 is
    what pins it to the paper: 3.23 / 5.50 / 17.70 / 67.03 GFLOPs at stride 32 / 16 / 8 / 4 (He et al. 2019, Fig. 1).

    Shapes: last encoder map (B, c, h, w) -> (B, channels, h, w).
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.pool = ImagePooling(in_channels[-1], channels)
        self.conv = ConvBNReLU(in_channels[-1], channels)
        self.project = ConvBNReLU(2 * channels, channels)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        return self.project(torch.cat([self.pool(x), self.conv(x)], dim=1))


class DeepLabV3PlusHead(Head):
    """ASPP and decoder of DeepLabV3+ (Chen et al., ECCV 2018), the head of the paper's teachers.

    ASPP (1x1, three atrous 3x3, image pooling) -> 1x1 -> upsampled to the stride-4 map, whose channels are reduced to
    `skip_channels` -> concat -> two 3x3 convs. `separable=True` uses atrous separable convolutions as DeepLabV3+ does.

    Shapes: encoder maps -> (B, channels, h, w) of the finest map at stride 4 or more.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        atrous_rates: Sequence[int],
        channels: int = 256,
        skip_channels: int = 48,
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.skip_index = finest_index(strides, 4)
        self.stride = strides[self.skip_index]
        deep = in_channels[-1]
        self.aspp = nn.ModuleList(
            [ConvBNReLU(deep, channels)]
            + [ConvBNReLU(deep, channels, 3, dilation=rate, separable=separable) for rate in atrous_rates]
            + [ImagePooling(deep, channels)]
        )
        self.aspp_project = ConvBNReLU(len(self.aspp) * channels, channels)
        self.skip = ConvBNReLU(in_channels[self.skip_index], skip_channels)
        self.decoder = nn.Sequential(
            ConvBNReLU(channels + skip_channels, channels, 3, separable=separable),
            ConvBNReLU(channels, channels, 3, separable=separable),
        )

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        x = self.aspp_project(torch.cat([branch(x) for branch in self.aspp], dim=1))
        skip = self.skip(features[self.skip_index])
        return self.decoder(torch.cat([_resize(x, skip.shape[-2:]), skip], dim=1))


class LRASPPHead(Head):
    """Lite reduced ASPP (LR-ASPP) of MobileNetV3 (Howard et al., ICCV 2019).

    1x1 conv of the deepest map, gated per channel by the sigmoid of a 1x1 conv of its global mean, upsampled and added
    to the stride-8 map. The paper gives each of the two maps its own 1x1 classifier and adds the logits; here the
    stride-8 map is projected linearly to `channels` before the sum and one classifier reads it: the same functions, as
    long as there are no more classes than channels, and one map for distillation to tap. That the gate sees the global
    mean instead of a large-kernel average is torchvision's choice and ours: it has no size of its own.

    Shapes: encoder maps -> (B, channels, h, w) of the finest map at stride 8 or more. Signed.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.skip_index = finest_index(strides, min(8, strides[-1]))
        self.stride = strides[self.skip_index]
        self.conv = ConvBNReLU(in_channels[-1], channels)
        self.gate = nn.Conv2d(in_channels[-1], channels, 1, bias=False)
        self.skip = nn.Conv2d(in_channels[self.skip_index], channels, 1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        gate = self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()
        skip = self.skip(features[self.skip_index])
        return skip + _resize(self.conv(x) * gate, skip.shape[-2:])


class MapSum(nn.Module):
    """Maps of several strides, each projected by a 1x1 conv and upsampled, summed, then BatchNorm and ReLU.

    The same functions as a 1x1 conv of their concatenation, but every product is taken on the small map.

    Shapes: maps (B, c_i, h_i, w_i) from fine to coarse -> (B, channels, *size).
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=False) for c in in_channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int] | None = None) -> torch.Tensor:
        """`size` is that of the first map by default."""
        x = self.projections[0](maps[0])
        if size is None:
            size = x.shape[-2:]
        else:
            x = _resize(x, size)
        for conv, coarser in zip(self.projections[1:], maps[1:], strict=True):
            x = x + _resize(conv(coarser), size)
        return F.relu(self.norm(x))


class MLPHead(Head):
    """The all-MLP decoder of SegFormer (Xie et al., NeurIPS 2021) on the encoder's pyramid from stride 4 on.

    SegFormer projects each map linearly, upsamples to stride 4, concatenates and fuses linearly, with BatchNorm and
    ReLU. Its two linear layers have nothing between them but the upsampling, which commutes with them, so one per map,
    applied before upsampling and summed, gives the same functions at a fraction of the cost (our choice).

    Shapes: encoder maps -> (B, channels, h, w) of the finest map at stride 4 or more.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.indices = pyramid_indices(strides, 4)
        self.stride = strides[self.indices[0]]
        self.fuse = MapSum([in_channels[i] for i in self.indices], channels)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.fuse([features[i] for i in self.indices])


class FPNHead(Head):
    """Feature pyramid and the semantic branch of Panoptic FPN (Kirillov et al., CVPR 2019).

    1x1 laterals and a top-down sum; then each level goes through 3x3 convs, each followed by upsampling to the next
    finer level, until all lie on the finest (stride 4), where they are summed. Ours: one width `channels` throughout
    (there: 256 and 128), BatchNorm for GroupNorm, so that it folds away, no further 3x3 convs on the pyramid, and
    depthwise separable 3x3 convs with `separable=True`.

    Shapes: encoder maps -> (B, channels, h, w) of the finest map at stride 4 or more.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], channels: int = 256, separable: bool = True
    ) -> None:
        super().__init__()
        self.indices = pyramid_indices(strides, 4)
        self.stride = strides[self.indices[0]]
        self.laterals = nn.ModuleList(nn.Conv2d(in_channels[i], channels, 1) for i in self.indices)
        # The finest level is convolved once, each other one once per level that it climbs.
        steps = sum(max(1, level) for level in range(len(self.indices)))
        self.convs = nn.ModuleList(ConvBNReLU(channels, channels, 3, separable=separable) for _ in range(steps))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        sizes = [features[i].shape[-2:] for i in self.indices]
        pyramid = [lateral(features[i]) for lateral, i in zip(self.laterals, self.indices, strict=True)]
        for level in range(len(pyramid) - 2, -1, -1):
            pyramid[level] = pyramid[level] + _resize(pyramid[level + 1], sizes[level], mode="nearest")
        convs = iter(self.convs)
        total = next(convs)(pyramid[0])
        for level in range(1, len(pyramid)):
            x = pyramid[level]
            for finer in range(level - 1, -1, -1):
                x = _resize(next(convs)(x), sizes[finer])
            total = total + x
        return total


class StrideMerge(nn.Module):
    """One map at `output_stride` from those of an encoder that cannot be dilated to it (our choice).

    The maps from `output_stride` on are projected to `channels`, upsampled and summed ([`MapSum`]). Finer ones stay.

    Attributes:
        channels, strides (`list[int]`): Of the maps that come out.

    Shapes: maps of `in_channels` at `strides`, from fine to coarse, and the image's (H, W) -> the finer maps and (B,
    channels, ceil(H / output_stride), ceil(W / output_stride)).
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], output_stride: int, channels: int) -> None:
        super().__init__()
        self.kept = sum(stride < output_stride for stride in strides)
        self.indices = pyramid_indices(strides, output_stride)
        self.channels = [*in_channels[: self.kept], channels]
        self.strides = [*strides[: self.kept], output_stride]
        self.upsamples_all = strides[self.indices[0]] != output_stride
        self.merge = MapSum([in_channels[i] for i in self.indices], channels)

    def forward(self, features: Sequence[torch.Tensor], image_size: Sequence[int]) -> list[torch.Tensor]:
        size = [-(-side // self.strides[-1]) for side in image_size] if self.upsamples_all else None
        return [*features[: self.kept], self.merge([features[i] for i in self.indices], size)]


def build_head(config: Any, channels: Sequence[int], strides: Sequence[int]) -> tuple[StrideMerge | None, Head]:
    """The head of a [`KASegConfig`] on maps of these channels and strides, and the merge that it needs where the
    encoder cannot dilate to the output stride. Every name in `kaseg.configuration_kaseg.HEADS` has its branch here."""
    width = config.head_channels
    if config.head == "mlp":
        return None, MLPHead(channels, strides, width)
    if config.head == "fpn":
        return None, FPNHead(channels, strides, width, config.separable_head)
    merge: StrideMerge | None = None
    if strides[-1] != config.output_stride:
        merge = StrideMerge(channels, strides, config.output_stride, width)
        channels, strides = merge.channels, merge.strides
    if config.head == "student":
        return merge, StudentHead(channels, strides, width)
    if config.head == "lraspp":
        return merge, LRASPPHead(channels, strides, width)
    if config.head == "deeplabv3plus":
        rates = config.resolved_atrous_rates
        return merge, DeepLabV3PlusHead(channels, strides, rates, width, config.skip_channels, config.separable_head)
    raise ValueError(f"There is no head {config.head!r} in build_head.")
