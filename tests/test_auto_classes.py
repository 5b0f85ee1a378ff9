import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.models.auto import configuration_auto, image_processing_auto, modeling_auto

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.auto_classes import _RegisterAfterImport, register_auto_classes

AUTO_CLASSES_AFTER_KASEG = """
import sys
import kaseg
heavy = {"torch", "transformers", "timm", "numpy"} & set(sys.modules)
assert not heavy, heavy
from transformers import AutoConfig
folder = sys.argv[1]
assert type(AutoConfig.from_pretrained(folder)).__name__ == "KASegConfig"
assert "timm" not in sys.modules  # a configuration needs no network
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
assert type(AutoModelForSemanticSegmentation.from_pretrained(folder)) is kaseg.KASegModel
assert type(AutoImageProcessor.from_pretrained(folder)) is kaseg.KASegImageProcessor
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    KASegModel(KASegConfig(backbone="test_resnet", output_stride=32)).save_pretrained(path)
    KASegImageProcessor().save_pretrained(path)
    return path


def test_auto_classes_that_are_imported_after_kaseg(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", AUTO_CLASSES_AFTER_KASEG, str(folder)], check=True, timeout=240)


def test_auto_classes_that_were_imported_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(configuration_auto.CONFIG_MAPPING._extra_content, "kaseg")
    for mapping in (
        modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        image_processing_auto.IMAGE_PROCESSOR_MAPPING,
    ):
        monkeypatch.delitem(mapping._extra_content, KASegConfig)
    monkeypatch.delitem(modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, "kaseg")
    with pytest.raises(ValueError, match="model type `kaseg`"):
        AutoConfig.from_pretrained(folder)
    register_auto_classes()
    assert type(AutoModelForSemanticSegmentation.from_pretrained(folder)) is KASegModel
    assert type(AutoImageProcessor.from_pretrained(folder)) is KASegImageProcessor
    assert modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["kaseg"] == "KASegModel"


def test_registering_twice_adds_one_finder() -> None:
    register_auto_classes()
    assert sum(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path) == 1
