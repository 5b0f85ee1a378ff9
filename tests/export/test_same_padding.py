import pytest
import torch
from timm.layers import AvgPool2dSame, Conv2dSame
from torch import nn

from kaseg.export.same_padding import pad_in_whole_numbers


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_it_is_timms_padding(kernel: int, stride: int, dilation: int) -> None:
    conv = Conv2dSame(2, 3, kernel, stride=(stride, max(1, stride - 1)), dilation=dilation)
    images = [torch.randn(1, 2, height, 20 - height) for height in range(7, 13)]
    with torch.no_grad():
        expected = [conv(image) for image in images]
        pad_in_whole_numbers(nn.Sequential(conv))
        for image, output in zip(images, expected, strict=True):
            torch.testing.assert_close(conv(image), output, rtol=0, atol=0)


@pytest.mark.parametrize("kernel, stride", [(2, 1), (2, 2), (3, 2)])
def test_average_pools_too(kernel: int, stride: int) -> None:
    pool = AvgPool2dSame(kernel, stride, ceil_mode=True, count_include_pad=False)
    images = [torch.randn(1, 2, height, 20 - height) for height in range(7, 13)]
    expected = [pool(image) for image in images]
    pad_in_whole_numbers(nn.Sequential(pool))
    assert type(pool) is not AvgPool2dSame
    for image, output in zip(images, expected, strict=True):
        torch.testing.assert_close(pool(image), output, rtol=0, atol=0)
