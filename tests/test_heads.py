import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kaseg.configuration_kaseg import HEADS, KASegConfig
from kaseg.heads import (
    DeepLabV3PlusHead,
    FPNHead,
    LRASPPHead,
    MapSum,
    MLPHead,
    StrideMerge,
    StudentHead,
    build_head,
    finest_index,
    pyramid_indices,
)


def _maps(channels: list[int], strides: list[int], size: tuple[int, int] = (65, 97)) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, -(-size[0] // s), -(-size[1] // s), dtype=torch.float64)
        for c, s in zip(channels, strides, strict=True)
    ]


def _upsample(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    "strides, stride, finest, pyramid",
    [
        ([2, 4, 8, 16, 32], 4, 1, [1, 2, 3, 4]),
        ([2, 4, 8, 16, 16], 4, 1, [1, 2, 4]),
        ([2, 4, 4, 4, 4], 8, 4, [4]),
        ([16, 16, 16], 4, 0, [2]),
        ([1, 2, 4, 8, 16, 32], 16, 4, [4, 5]),
        ([7, 14, 14], 8, 1, [2]),
    ],
)
def test_which_maps_are_read(strides: list[int], stride: int, finest: int, pyramid: list[int]) -> None:
    assert finest_index(strides, stride) == finest
    assert pyramid_indices(strides, stride) == pyramid


def test_map_sum_is_a_convolution_of_the_concatenated_maps() -> None:
    channels, strides = [3, 5, 7], [4, 8, 32]
    maps = _maps(channels, strides)
    head = MapSum(channels, 6).double().eval()
    nn.init.normal_(head.norm.running_mean)
    weight = torch.cat([conv.weight for conv in head.projections], dim=1)
    joined = torch.cat([_upsample(x, maps[0].shape[-2:]) for x in maps], dim=1)
    expected = F.relu(head.norm(F.conv2d(joined, weight)))
    torch.testing.assert_close(head(maps), expected)


def test_mlp_reads_the_deepest_map_of_each_stride_from_4_on() -> None:
    channels, strides = [3, 4, 5, 6, 7], [2, 4, 8, 16, 16]
    maps = _maps(channels, strides)
    head = MLPHead(channels, strides, 6).double().eval()
    assert head.stride == 4
    out = head(maps)
    assert out.shape == (2, 6, 17, 25)
    for index, read in enumerate([False, True, True, False, True]):
        changed = [x + 1 if i == index else x for i, x in enumerate(maps)]
        assert torch.equal(head(changed), out) is not read


def test_lraspp_has_the_logits_of_two_classifiers() -> None:
    # Howard et al. 2019: one classifier on the gated deep map, one on the stride-8 map, and the logits are added.
    channels, strides = [3, 4, 5, 6, 7], [2, 4, 8, 16, 32]
    maps = _maps(channels, strides)
    head = LRASPPHead(channels, strides, 9).double().eval()
    assert head.stride == 8
    classifier = nn.Conv2d(9, 4, 1).double()
    deep = head.conv(maps[-1]) * torch.sigmoid(head.gate(maps[-1].mean(dim=(2, 3), keepdim=True)))
    low_weight = torch.einsum("kc,cl->kl", classifier.weight[:, :, 0, 0], head.skip.weight[:, :, 0, 0])
    low_bias = classifier.weight[:, :, 0, 0] @ head.skip.bias
    low = F.conv2d(maps[2], low_weight[..., None, None], low_bias)
    expected = _upsample(classifier(deep), low.shape[-2:]) + low
    torch.testing.assert_close(classifier(head(maps)), expected)


def test_fpn_against_the_branch_written_out() -> None:
    channels, strides = [3, 4, 5, 6], [4, 8, 16, 32]
    maps = _maps(channels, strides)
    head = FPNHead(channels, strides, 8, separable=False).double().eval()
    assert head.stride == 4
    p32 = head.laterals[3](maps[3])
    p16 = head.laterals[2](maps[2]) + F.interpolate(p32, size=maps[2].shape[-2:])
    p8 = head.laterals[1](maps[1]) + F.interpolate(p16, size=maps[1].shape[-2:])
    p4 = head.laterals[0](maps[0]) + F.interpolate(p8, size=maps[0].shape[-2:])
    s4, s8, s16 = (x.shape[-2:] for x in maps[:3])
    c = head.convs
    assert len(c) == 7  # 1 + 1 + 2 + 3
    expected = c[0](p4) + _upsample(c[1](p8), s4) + _upsample(c[3](_upsample(c[2](p16), s8)), s4)
    expected = expected + _upsample(c[6](_upsample(c[5](_upsample(c[4](p32), s16)), s8)), s4)
    torch.testing.assert_close(head(maps), expected)


@pytest.mark.parametrize("stride, kept, size", [(16, 2, (5, 7)), (8, 1, (9, 13)), (4, 0, (17, 25))])
def test_merge_ends_at_the_output_stride(stride: int, kept: int, size: tuple[int, int]) -> None:
    channels, strides = [4, 5, 6, 7], [4, 8, 16, 32]
    maps = _maps(channels, strides)
    merge = StrideMerge(channels, strides, stride, 9).double()
    out = merge(maps, (65, 97))
    assert merge.strides == [*strides[:kept], stride] and merge.channels == [*channels[:kept], 9]
    assert all(a is b for a, b in zip(out[:-1], maps, strict=False)) and len(out) == kept + 1
    assert out[-1].shape == (2, 9, *size)


def test_merge_upsamples_where_the_trunk_has_no_map_at_the_output_stride() -> None:
    maps = _maps([4, 5], [14, 14])
    out = StrideMerge([4, 5], [14, 14], 8, 6).double()(maps, (65, 97))
    assert [tuple(x.shape) for x in out] == [(2, 6, 9, 13)]


def test_every_head_has_its_name_and_no_other() -> None:
    classes = {
        "student": StudentHead,
        "deeplabv3plus": DeepLabV3PlusHead,
        "lraspp": LRASPPHead,
        "mlp": MLPHead,
        "fpn": FPNHead,
    }
    assert set(classes) == set(HEADS)
    channels, strides = [3, 4, 5, 6], [4, 8, 16, 16]
    for name, head in classes.items():
        assert type(build_head(KASegConfig(head=name, head_channels=8), channels, strides)[1]) is head
    config = KASegConfig()
    config.head = "unet"
    with pytest.raises(ValueError, match="no head 'unet'"):
        build_head(config, channels, strides)
