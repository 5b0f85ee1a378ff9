import pytest
import torch

from kaseg.encoders import Encoder, EncoderArgumentsError

SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
# (name, further arguments of timm, multiple of the sides that it takes, strides of its maps when 8 is asked for)
TRUNKS = [
    ("mobilenetv2_035", {}, 1, [2, 4, 8, 8, 8]),
    ("test_resnet", {}, 1, [2, 4, 8, 8, 8]),
    ("resnetblur18", {"layers": (1, 1, 1, 1)}, 1, [2, 4, 8, 8, 8]),
    ("test_convnext", {}, 8, [4, 8, 8, 8]),
    ("edgenext_xx_small", {}, 32, [4, 8, 16, 32]),  # cannot dilate
    ("starnet_s050", {}, 1, [4, 8, 16, 32]),  # cannot either, and says so by an assertion without a message
    ("test_mambaout", {}, 1, [4, 8, 16, 32]),  # channels last
    ("swin_tiny_patch4_window7_224", SWIN, 32, [4, 8, 16, 32]),  # made for one size; channels last
    ("test_vit", {}, 16, [16, 16, 16]),  # all maps at one stride
    ("deit_tiny_patch16_224", {"depth": 3}, 16, [16, 16, 16]),  # made for one size
    ("test_maxvit", {}, 160, [2, 4, 8, 16, 32]),  # its windows must fit
    ("pvt_v2_b0", {}, 1, [4, 8, 16, 32]),  # fails on small images
]


@pytest.mark.parametrize(("name", "kwargs", "multiple", "reductions"), TRUNKS, ids=lambda value: str(value)[:30])
def test_maps_of_every_trunk_at_any_size(name: str, kwargs: dict, multiple: int, reductions: list[int]) -> None:
    encoder = Encoder(name, 8, 2, kwargs).eval()
    assert encoder.reductions == reductions
    assert encoder.size_multiple == multiple
    for height, width in ((65, 97), (5, 7)):
        with torch.no_grad():
            features = encoder(torch.randn(1, 2, height, width))
        expected = [(1, c, -(-height // r), -(-width // r)) for c, r in zip(encoder.channels, reductions, strict=True)]
        assert [tuple(f.shape) for f in features] == expected
        assert all(torch.isfinite(f).all() for f in features)


def test_channels_last_maps_as_wide_as_they_have_channels_are_turned() -> None:
    encoder = Encoder("test_mambaout", 32).eval()
    assert encoder.channels[0] == 16
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        features = encoder(image)
        raw = encoder.body(image)
    # (B, 16, 16, 16): the shape does not tell where the channels are.
    assert torch.equal(features[0], raw[0].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "name, stride, message",
    [
        ("efficientformer_l1", 32, "built for one size"),
        ("test_vit", 32, "ends at stride 16, finer than the requested output_stride=32. Set output_stride=16."),
        ("convmixer_768_32", 16, "ends at stride 7, finer than the requested output_stride=16. Set output_stride=4."),
        ("mobilenetv2_999", 16, "no encoder named 'mobilenetv2_999'.*mobilenetv2_100"),
    ],
)
def test_what_no_head_can_use_is_refused(name: str, stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(name, stride)


def test_weights_that_cannot_be_fetched_are_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder("test_resnet", 32)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(OSError, match=r"'test_resnet' from timm's download: no connection.*backbone_weights"):
        encoder.load_pretrained()


@pytest.mark.parametrize(
    ("name", "kwargs", "refused"),
    [
        ("resnet18", {"pad_type": "same"}, "pad_type='same' "),
        ("test_vit", {"bn_eps": 1e-3}, "bn_eps=0.001 "),
        ("test_convnext", {"pad_type": "same", "bn_eps": 1e-3}, "pad_type='same', bn_eps=0.001 "),
        ("mobilenetv2_035", {"pad_type": "same", "foo": 1}, "foo=1 "),
    ],
)
def test_arguments_that_an_encoder_does_not_take_are_named(name: str, kwargs: dict, refused: str) -> None:
    """It was said to offer no feature maps."""
    with pytest.raises(EncoderArgumentsError, match=f"timm encoder '{name}' does not take {refused}"):
        Encoder(name, model_kwargs=kwargs)
