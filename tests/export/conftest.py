"""One tiny model and its exports, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SCENES
from kaseg.data.scenes import render_scene
from kaseg.export import ExportOptions, export_model

SIZES = ((64, 96), (65, 97))


@pytest.fixture(scope="session")
def model() -> KASegModel:
    torch.manual_seed(0)
    labels = {"id2label": SCENES.id2label, "label2id": SCENES.label2id}
    model = KASegModel(KASegConfig("test_resnet.r160_in1k", output_stride=32, head_channels=32, **labels)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that forgetting or misfolding statistics would show
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(model.classifier.weight)
    picture = KASegImageProcessor()(render_scene(0, 0)[0], return_tensors="pt")
    with torch.no_grad():  # so that no class has it all
        model.classifier.bias -= model(**picture).logits.mean(dim=(0, 2, 3))
    return model


@pytest.fixture(scope="session")
def processor() -> KASegImageProcessor:
    return KASegImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])


@pytest.fixture(scope="session")
def exported(
    model: KASegModel, processor: KASegImageProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of an export with the options given."""
    made: dict[ExportOptions, Path] = {}

    def export(**options) -> Path:
        chosen = ExportOptions(**options)
        if chosen not in made:
            folder = tmp_path_factory.mktemp("exported") / "export"
            export_model(model, processor, folder, chosen, parity_sizes=SIZES)
            made[chosen] = folder
        return made[chosen]

    return export
