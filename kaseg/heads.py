"""Segmentation heads: feature maps of an encoder -> the map that the 1x1 classifier reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, BatchNorm and ReLU; `separable` splits it into depthwise and pointwise ones."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1, separable: bool = False
    ) -> None:
        padding = dilation * (kernel_size // 2)
        if separable and kernel_size > 1:
            layers: list[nn.Module] = [
                nn.Conv2d(
                    in_channels,
                    in_channels,
                    kernel_size,
                    padding=padding,
                    dilation=dilation,
                    groups=in_channels,
                    bias=False,
                ),
                nn.BatchNorm2d(in_channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
            ]
        else:
            layers = [nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)]
        super().__init__(*layers, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


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


class StudentHead(nn.Module):
    """The DeepLab MobileNetV2 head of the paper's student: no ASPP, no decoder.

    {global pooling + 1x1 conv, 1x1 conv} -> concat -> 1x1 conv, all with BatchNorm and ReLU. Its cost at 513x513 is
    what pins it to the paper: 3.23 / 5.50 / 17.70 / 67.03 GFLOPs at stride 32 / 16 / 8 / 4 (He et al. 2019, Fig. 1).

    Shapes: last encoder map (B, c, h, w) -> (B, channels, h, w).
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.pool = ImagePooling(in_channels[-1], channels)
        self.conv = ConvBNReLU(in_channels[-1], channels)
        self.project = ConvBNReLU(2 * channels, channels)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        return self.project(torch.cat([self.pool(x), self.conv(x)], dim=1))


class DeepLabV3PlusHead(nn.Module):
    """ASPP and decoder of DeepLabV3+ (Chen et al., ECCV 2018), the head of the paper's teachers.

    ASPP (1x1, three atrous 3x3, image pooling) -> 1x1 -> upsampled to the stride-4 map, whose channels are reduced to
    `skip_channels` -> concat -> two 3x3 convs. `separable=True` uses atrous separable convolutions as DeepLabV3+ does.

    Shapes: encoder maps -> (B, channels, ceil(H/4), ceil(W/4)).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        skip_index: int,
        atrous_rates: Sequence[int],
        channels: int = 256,
        skip_channels: int = 48,
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.skip_index = skip_index
        deep = in_channels[-1]
        self.aspp = nn.ModuleList(
            [ConvBNReLU(deep, channels)]
            + [ConvBNReLU(deep, channels, 3, dilation=rate, separable=separable) for rate in atrous_rates]
            + [ImagePooling(deep, channels)]
        )
        self.aspp_project = ConvBNReLU(len(self.aspp) * channels, channels)
        self.skip = ConvBNReLU(in_channels[skip_index], skip_channels)
        self.decoder = nn.Sequential(
            ConvBNReLU(channels + skip_channels, channels, 3, separable=separable),
            ConvBNReLU(channels, channels, 3, separable=separable),
        )

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        x = self.aspp_project(torch.cat([branch(x) for branch in self.aspp], dim=1))
        skip = self.skip(features[self.skip_index])
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat([x, skip], dim=1))
