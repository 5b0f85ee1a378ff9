import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from toy import FIRST_STAGE, arguments

from kaseg import (
    KASegConfig,
    KASegModel,
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)
from kaseg.data import SCENES, load_segmentation_dataset
from kaseg.experiments.recipe import DataArguments, ModelArguments
from kaseg.experiments.run import train

TINY = {"backbone": "test_resnet", "output_stride": 32}
SMALL = {"max_steps": 1, "per_device_train_batch_size": 2, "crop_size": [64, 64]}


@pytest.fixture(scope="module")
def scenes() -> datasets.Dataset:
    drawn = load_segmentation_dataset("scenes", split="validation", num_scenes=2)
    rows = [{name: drawn[index][name] for name in ("image", "label")} for index in range(2)]
    return datasets.Dataset.from_list(rows, split="validation")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "big"
    model = ModelArguments(**TINY, head="deeplabv3plus", pretrained_backbone=False)
    data = DataArguments(dataset="scenes", max_train_samples=2, max_eval_samples=1, measure_latency=True)
    train(model, data, SegmentationConfig(**arguments(folder, **SMALL)))
    return folder


def adapt(output_dir: Path, teacher, data, **fields) -> KnowledgeAdaptationTrainer:
    model = KASegModel(KASegConfig(**TINY, head_channels=32, id2label=SCENES.id2label, label2id=SCENES.label2id))
    args = KnowledgeAdaptationConfig(**arguments(output_dir, **{**SMALL, **FIRST_STAGE, **fields}))
    return KnowledgeAdaptationTrainer(model=model, teacher=teacher, args=args, train_dataset=data, eval_dataset=data)


class TestRun:
    def test_the_card_has_it_all(self, teacher: Path) -> None:
        card = ModelCard.load(teacher / "README.md")
        assert card.data.license == "apache-2.0" and card.data.eval_results[0].dataset_split == "validation"
        for said in ("kaseg train --config recipe.yaml", " ms for one image of 513x513", "![An image", "## Citation"):
            assert said in card.text
        assert str(teacher.parent) not in card.text
        with Image.open(teacher / "example.png") as picture:
            image = load_segmentation_dataset("scenes", split="validation", num_scenes=1)[0]["image"]
            assert picture.size == (2 * image.width, image.height)
            assert np.array_equal(np.asarray(picture)[:, : image.width], np.asarray(image))

    def test_its_snippet_runs(self, teacher: Path, scenes, monkeypatch, capsys) -> None:
        (snippet,) = re.findall(r"```python\n(.*?)```", (teacher / "README.md").read_text(), re.DOTALL)
        monkeypatch.chdir(teacher.parent)
        scenes[0]["image"].save("image.jpg")
        names: dict[str, Any] = {}
        exec(snippet, names)
        assert names["mask"].shape == (names["image"].height, names["image"].width)
        printed = capsys.readouterr().out
        assert any(name in printed for name in SCENES.names)


class TestTrainer:
    def test_the_card_grows_as_training_runs(self, teacher, scenes, tmp_path) -> None:
        scenes = scenes.select(range(2))
        scenes.info.dataset_name = "scenes"
        trainer = adapt(tmp_path / "net", teacher, scenes, learning_rate=0.25)
        trainer.train()
        before = (tmp_path / "net" / "README.md").read_text()
        assert "None are known yet." in before and "`big`" in before and "| `learning_rate` | `0.25` |" in before
        trainer.evaluate()
        card = ModelCard.load(tmp_path / "net" / "README.md")
        assert card.data.eval_results[0].metric_value == pytest.approx(
            trainer.state.log_history[-1]["eval_mean_iou"], abs=1e-4
        )
        assert "| big |" in card.text, "the teacher's score on the same split stands beside the student's"
        assert "The table lacks" in card.text and "Teacher: `big`. License: apache-2.0." in card.text
        assert not (tmp_path / "net" / "autoencoder" / "README.md").exists()

        trainer.create_model_card(beside={"plain twin": teacher}, tags="street", model_name="My net", picture=False)
        card = ModelCard.load(tmp_path / "net" / "README.md")
        assert "| plain twin |" in card.text and "The table lacks" not in card.text and "![" not in card.text
        assert "street" in card.data.tags and card.data.model_name == "My net"
        trainer.save_model(str(tmp_path / "copy"))
        assert ModelCard.load(tmp_path / "copy" / "README.md").data.model_name == "copy"
        with pytest.raises(TypeError, match="finetuned_from"):
            trainer.create_model_card(finetuned_from="x")

    def test_pictures_of_other_data_only_when_asked(self, teacher, scenes, tmp_path) -> None:
        model = KASegModel(KASegConfig(**TINY, num_labels=9))
        args = SegmentationConfig(**arguments(tmp_path, **SMALL))
        trainer = SegmentationTrainer(model=model, args=args, train_dataset=scenes, eval_dataset=scenes)
        trainer.evaluate()
        assert not (tmp_path / "README.md").exists(), "an evaluation alone makes no card"
        trainer.create_model_card(dataset="me/street", license="cc-by-4.0")
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.license == "cc-by-4.0" and "me/street" in card.text and "![" not in card.text
        assert not (tmp_path / "example.png").exists()
        trainer.create_model_card(picture=True)
        assert (tmp_path / "example.png").is_file() and "example.png" in (tmp_path / "README.md").read_text()
