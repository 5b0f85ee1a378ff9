import pytest
import timm
import torch
from torch.nn import functional as F
from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

from kaseg.distillation.teachers.input_sizes import InputSize


class TestMultiple:
    def test_pads_at_the_right_and_bottom(self) -> None:
        images = torch.randn(1, 3, 33, 64)
        fitted = InputSize(multiple=16).fit(images)
        assert fitted.shape == (1, 3, 48, 64)
        assert torch.equal(fitted[..., :33, :], images) and not fitted[..., 33:, :].any()

    def test_maps_are_cut_to_the_positions_that_see_the_image(self) -> None:
        fitted_map = torch.randn(1, 2, 12, 16)
        restored = InputSize(multiple=16).restore(fitted_map, (33, 64), (48, 64))
        assert torch.equal(restored, fitted_map[..., :9, :])


class TestShift:
    """Networks that pad like TensorFlow."""

    @staticmethod
    def _mobilenet(**kwargs) -> MobileNetV2ForSemanticSegmentation:
        return MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.35, num_labels=3, **kwargs))

    def test_of_transformers(self) -> None:
        assert InputSize.of(self._mobilenet(output_stride=16)) == InputSize(multiple=16, shift=7.5)
        assert InputSize.of(self._mobilenet(output_stride=8)) == InputSize(multiple=8, shift=3.5)
        assert InputSize.of(self._mobilenet(output_stride=16, tf_padding=False)) == InputSize()

    @pytest.mark.parametrize("height, width", [(64, 64), (65, 61), (48, 50)])
    def test_maps_are_brought_to_where_they_lie(self, height: int, width: int) -> None:
        """Strided averages that are padded at the end, as TensorFlow does it, on a slope, against averages of cells."""
        rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
        slope = (rows + 2 * columns)[None, None]
        size = InputSize(multiple=4, shift=1.5)
        feature_map = size.fit(slope[..., :height, :width])
        fitted = tuple(feature_map.shape[-2:])
        feature_map = slope[..., : fitted[0], : fitted[1]]
        for _ in range(2):
            feature_map = F.avg_pool2d(F.pad(feature_map, (0, 1, 0, 1), mode="replicate"), 3, 2)
        restored = size.restore(feature_map, (height, width), fitted)
        cells = (-(-height // 4), -(-width // 4))
        expected = F.interpolate(slope[..., :height, :width], cells, mode="bilinear", antialias=True)
        # Not at the edges, beyond whose positions nothing is known. A map left where it was is 4.5 off.
        torch.testing.assert_close(restored[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=0.2, rtol=0)


class TestFixed:
    def test_a_position_in_the_image_is_the_same_in_the_map(self) -> None:
        """A ramp over the image, pooled by a "network" of stride 4 that takes 64x64 alone, is the ramp of the image."""
        size = InputSize(fixed=(64, 64))
        ramp = torch.linspace(0, 1, 97)[None, None, :, None].expand(1, 3, 97, 65)
        fitted = size.fit(ramp)
        assert fitted.shape == (1, 3, 64, 64)
        restored = size.restore(F.avg_pool2d(fitted, 4), (97, 65), (64, 64))
        assert restored.shape == (1, 3, 24, 16)
        torch.testing.assert_close(restored, F.adaptive_avg_pool2d(ramp, (24, 16)), atol=0.03, rtol=0)

    def test_nothing_to_do(self) -> None:
        images, fitted_map = torch.randn(1, 3, 64, 64), torch.randn(1, 2, 12, 16)
        assert InputSize(fixed=(64, 64)).fit(images) is images
        assert InputSize(multiple=16).restore(fitted_map, (48, 64), (48, 64)) is fitted_map


class TestKnownNetworks:
    def test_of_timm_transformers(self) -> None:
        options = {"pretrained": False, "img_size": 64, "embed_dim": 16, "depth": 1, "num_heads": 2}
        strict = timm.create_model("vit_tiny_patch16_224", **options)
        assert InputSize.of(strict) == InputSize(fixed=(64, 64))
        dynamic = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **options)
        assert InputSize.of(dynamic) == InputSize(multiple=16)

    def test_others_take_any(self) -> None:
        assert InputSize.of(torch.nn.Conv2d(3, 3, 1)) == InputSize()

    def test_in_words(self) -> None:
        assert str(InputSize(fixed=(64, 96))) == "images are resized to 64x96, its maps back"
        assert str(InputSize(multiple=16)) == "images are padded to multiples of 16, its maps cut back"
