import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from kaseg.distillation import TeacherAdapter, list_taps
from kaseg.distillation.teachers.taps import as_map

IMAGE = (64, 96)


class TestAsMap:
    def test_a_map_stays(self) -> None:
        value = torch.randn(2, 5, 16, 24)
        assert as_map(value, IMAGE) is value

    def test_channels_last_are_turned(self) -> None:
        value = torch.randn(2, 16, 24, 5)
        assert torch.equal(as_map(value, IMAGE), value.permute(0, 3, 1, 2))

    @pytest.mark.parametrize("prefix, patch_size", [(0, None), (1, None), (5, None), (0, 16), (5, 16), (106, 16)])
    def test_tokens_become_the_grid_of_patches(self, prefix: int, patch_size: int | None) -> None:
        wanted = torch.randn(2, 5, 4, 6)
        tokens = torch.cat([torch.randn(2, prefix, 5), wanted.flatten(2).transpose(1, 2)], dim=1)
        assert torch.equal(as_map(tokens, IMAGE, patch_size), wanted)

    def test_tokens_of_a_later_stage(self) -> None:
        """Hierarchical transformers have fewer tokens than patches, and pad odd sides."""
        tokens = torch.randn(2, 9 * 13, 5)
        assert as_map(tokens, (65, 97), 4).shape == (2, 5, 9, 13)

    def test_the_last_map_of_a_structure(self) -> None:
        fine, coarse = torch.randn(2, 5, 16, 24), torch.randn(2, 7, 4, 6)
        assert as_map((fine, coarse, torch.randn(2, 7)), IMAGE) is coarse
        assert as_map({"fine": fine, "coarse": [fine, coarse]}, IMAGE) is coarse
        assert as_map(BaseModelOutput(last_hidden_state=coarse), IMAGE) is coarse

    @pytest.mark.parametrize("value", [torch.randn(2, 5), torch.randn(2, 50, 5), None, (), "text"])
    def test_what_is_no_map(self, value) -> None:
        assert as_map(value, IMAGE) is None


class Network(nn.Module):
    """Two classifiers of three classes, of which `kind` says what becomes of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.main, self.auxiliary = nn.Conv2d(8, 3, 1), nn.Conv2d(6, 3, 1)

    def forward(self, images: torch.Tensor):
        low = self.trunk(images)
        high = self.deep(low)
        main, auxiliary = self.main(high), self.auxiliary(low)
        if self.kind == "sum":
            return nn.functional.interpolate(main, size=low.shape[-2:]) + auxiliary
        if self.kind == "resized":
            main = nn.functional.interpolate(main, size=images.shape[-2:], mode="bilinear", align_corners=True)
        return {"out": main, "aux": auxiliary} if self.kind == "dict" else (main, auxiliary)


def test_an_output_is_kept_as_it_was_before_it_is_changed_in_place() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    images = torch.randn(1, 3, 8, 8)
    features = TeacherAdapter(network, tap="0")(images).features
    assert features.min() < 0 and torch.equal(features, network[0](images))


class TestDefaultTap:
    @pytest.mark.parametrize("kind", ["tuple", "dict", "resized"])
    def test_is_the_input_of_the_classifier_that_makes_the_logits(self, kind: str) -> None:
        teacher = TeacherAdapter(Network(kind))
        assert str(teacher.tap) == "the input of main" and teacher.describe() == (8, 4)

    def test_of_a_sum_the_classifier_that_is_called_last(self) -> None:
        assert str(TeacherAdapter(Network("sum")).tap) == "the input of auxiliary"

    def test_the_random_state_is_left_alone(self) -> None:
        network, before = Network("tuple"), torch.get_rng_state()
        TeacherAdapter(network)
        assert torch.equal(torch.get_rng_state(), before)


def test_list_taps_gives_shapes_in_the_order_of_the_forward_pass() -> None:
    network = Network("dict").train()
    assert list_taps(network, image_size=64) == {
        "trunk": (6, 32, 32), "deep": (8, 16, 16), "main": (3, 16, 16), "auxiliary": (3, 32, 32)
    }  # fmt: skip
    assert network.training


def test_a_tap_that_gives_no_map_is_refused() -> None:
    class Pooled(Network):
        def __init__(self) -> None:
            super().__init__("tuple")
            self.pool = nn.Flatten()

        def forward(self, images: torch.Tensor):
            main, auxiliary = super().forward(images)
            self.pool(auxiliary)
            return main

    with pytest.raises(ValueError, match=r"the output of pool, gives a tensor of shape \(1, 12288\).*list_taps"):
        TeacherAdapter(Pooled(), tap="pool").describe()
