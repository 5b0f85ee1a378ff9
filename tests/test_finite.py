import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.export import export_model
from kaseg.finite import NotFiniteError, require_finite
from kaseg.hub.push import files_to_push
from kaseg.inference import Predictor


def _model() -> KASegModel:
    torch.manual_seed(0)
    return KASegModel(KASegConfig(backbone="test_resnet", head_channels=8)).eval()


def test_one_number_is_enough() -> None:
    model = _model()
    for where in ("classifier.bias", "encoder.body.bn1.running_var"):
        tensor = model.state_dict()[where]
        for number in (math.nan, math.inf, -math.inf):
            tensor.view(-1)[0] = number
            with pytest.raises(NotFiniteError, match=f"The model is not finite: 1 of its.*{where}"):
                require_finite(model, "The model")
        tensor.view(-1)[0] = 1.0
        require_finite(model, "The model")


@pytest.mark.parametrize(
    "use", ["evaluate", "evaluate_model", "save_model", "push_to_hub", "Predictor", "export", "push"]
)
def test_such_a_model_is_neither_scored_nor_saved_nor_published(use: str, tmp_path: Path) -> None:
    model, processor = _model(), KASegImageProcessor()
    torch.nn.init.constant_(model.classifier.weight, math.nan)
    data = [{"image": Image.new("RGB", (32, 32)), "label": Image.new("L", (32, 32)), "id": "a"}]
    args = SegmentationConfig(str(tmp_path / "run"), use_cpu=True, report_to="none")
    with pytest.raises(NotFiniteError, match="is not finite"):
        if use == "evaluate_model":
            evaluate_model(model, data, processor)
        elif use == "Predictor":
            Predictor(model, processor)
        elif use == "export":
            export_model(model, processor, tmp_path / "export")
        elif use == "push":
            model.save_pretrained(tmp_path / "saved")
            files_to_push(tmp_path / "saved")
        else:
            trainer = SegmentationTrainer(model, args, eval_dataset=data, processing_class=processor)
            getattr(trainer, use)()
    assert not list(tmp_path.glob("run/*.safetensors")) and not (tmp_path / "export").exists()
