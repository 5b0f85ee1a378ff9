from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy import make_model

from kaseg.trainer.base import encoder_of, synchronize_batch_norm


def _arguments(world_size: int, device: str) -> SimpleNamespace:
    return SimpleNamespace(world_size=world_size, device=torch.device(device))


def test_every_batch_norm_is_converted_with_its_weights_and_a_fixed_one_stays_fixed() -> None:
    model = make_model(freeze_batch_norm=True)
    names = list(model.state_dict())
    converted = synchronize_batch_norm(model, _arguments(2, "cuda")).train()
    norms = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, nn.SyncBatchNorm) and not m.training for m in norms)
    assert list(converted.state_dict()) == names


def test_one_process_needs_none_and_several_on_the_cpu_are_refused() -> None:
    model = synchronize_batch_norm(make_model(), _arguments(1, "cpu"))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    with pytest.raises(ValueError, match="sync_batch_norm needs GPUs.*freeze_batch_norm"):
        synchronize_batch_norm(model, _arguments(2, "cpu"))


class _Named(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, torch.nn.Linear(1, 1))
        self.head = torch.nn.Linear(1, 1)


def test_encoders_are_found_by_their_usual_names() -> None:
    """Those of segmentation_models.pytorch, of torchvision and UperNet, and the base models of transformers."""
    for name in ("encoder", "backbone", "resnet"):
        model = _Named(name)
        model.base_model_prefix = "resnet"
        assert encoder_of(model) is getattr(model, name)
    with pytest.raises(ValueError, match="_Named has no encoder"):
        encoder_of(_Named("stem"))
