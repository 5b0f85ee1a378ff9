from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from toy import arguments, make_dataset, make_model

from kaseg import SegmentationConfig, SegmentationTrainer
from kaseg.trainer import dilated_convolutions, segmentation_trainer
from kaseg.trainer.dilated_convolutions import gradient_is_wrong, keep_out_of_autocast


def _layer(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    torch.manual_seed(0)
    return kind(32, 32, 3, padding=2, dilation=2, groups=32, bias=False)


def _gradient(layer: nn.Module, weight: nn.Parameter, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    images = torch.randn(2, 32, 12, 40, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        maps = layer(images)
    weight.grad = None
    maps.backward(images.to(maps.dtype))
    return weight.grad


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_gradients_are_those_of_float32(kind: type[nn.Conv2d]) -> None:
    layer = _layer(kind)
    expected = _gradient(layer, layer.weight, torch.float32)
    before = _gradient(layer, layer.weight)
    # Where the fault is, the layer has it; where it is not, there is none.
    assert (_error(before, expected) < 0.1) is not gradient_is_wrong()
    keep_out_of_autocast(layer)
    assert isinstance(layer, kind) and _error(_gradient(layer, layer.weight), expected) < 0.02
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert _error(_gradient(compiled, layer.weight), expected) < 0.02


def test_nothing_else_changes() -> None:
    model = make_model(output_stride=8).eval()
    kept = copy.deepcopy(model)
    keep_out_of_autocast(kept)
    keep_out_of_autocast(kept)
    assert list(kept.state_dict()) == list(model.state_dict())
    changed = [m for m in kept.modules() if isinstance(m, dilated_convolutions._InFloat32)]
    assert changed and all(m.groups > 1 and max(m.dilation) > 1 for m in changed)
    image = torch.randn(1, 3, 64, 64)
    again = copy.deepcopy(kept)
    with torch.no_grad():
        for parameter in kept.parameters():
            parameter.zero_()  # a copy has weights of its own
        assert torch.equal(again(image).logits, model(image).logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(again(image).logits, model(image).logits)
        assert again.bfloat16()(image.bfloat16()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("wrong, bf16, kept", [(True, True, True), (True, False, False), (False, True, False)])
def test_trainers_keep_them_out_where_it_matters(tmp_path, monkeypatch, wrong: bool, bf16: bool, kept: bool) -> None:
    monkeypatch.setattr(segmentation_trainer, "gradient_is_wrong", lambda: wrong)
    model = make_model(output_stride=8)
    args = SegmentationConfig(**arguments(tmp_path, bf16=bf16, max_steps=1))
    trainer = SegmentationTrainer(model, args, train_dataset=make_dataset())
    assert any(isinstance(m, dilated_convolutions._InFloat32) for m in model.modules()) is kept
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
