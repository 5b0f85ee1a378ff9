import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy import FIRST_STAGE, arguments, write_folder

from kaseg import (
    KASegConfig,
    KASegModel,
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)
from kaseg.data import SCENES
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.experiments.run import _DECIDED_BY, build_model, check_model, distill, train
from kaseg.model_card.published_files import published_files

MODEL = ModelArguments(backbone="test_resnet", output_stride=32, pretrained_backbone=False)
DATA = DataArguments(dataset="scenes", max_train_samples=8, max_eval_samples=2)


def _args(output_dir, kind=SegmentationConfig, **kwargs) -> SegmentationConfig:
    fields = {"per_device_train_batch_size": 2, "crop_size": [64, 64], "max_steps": 2, "learning_rate": 0.007, **kwargs}
    return kind(**arguments(output_dir, **fields))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("plain") / "run"
    return output_dir, train(MODEL, DATA, _args(output_dir))


class TestRun:
    def test_results_describe_the_run(self, plain) -> None:
        output_dir, results = plain
        assert json.loads((output_dir / "results.json").read_text()) == results
        assert results["steps"] == 2 and results["seed"] == 42 and results["split"] == "validation"
        assert set(results["per_category_iou"]) <= set(SCENES.names)
        assert results["mean_iou"] == pytest.approx(
            sum(results["per_category_iou"].values()) / len(results["per_category_iou"])
        )
        model = KASegModel.from_pretrained(output_dir)
        assert model.config.id2label == SCENES.id2label
        assert results["parameters"] == sum(p.numel() for p in model.parameters())

    def test_recipe_holds_what_differs_from_the_defaults(self, plain) -> None:
        recipe = yaml.safe_load((plain[0] / "recipe.yaml").read_text())
        assert recipe["backbone"] == "test_resnet" and recipe["max_steps"] == 2 and recipe["crop_size"] == [64, 64]
        assert "learning_rate" not in recipe and "optim_args" not in recipe


class TestFewLabels:
    @staticmethod
    def _datasets(monkeypatch: pytest.MonkeyPatch, data: DataArguments, teacher: TeacherArguments | None, args) -> dict:
        """What a run gives its trainer to train on."""
        given = {}

        def stop(*_, **kwargs) -> None:
            given.update(kwargs)
            raise InterruptedError

        trainer = SegmentationTrainer if teacher is None else KnowledgeAdaptationTrainer
        monkeypatch.setattr(trainer, "__init__", stop)
        with pytest.raises(InterruptedError):
            train(MODEL, data, args) if teacher is None else distill(MODEL, data, teacher, args)
        return given

    def test_masks_are_spread_evenly_and_others_go_to_distillation(self, plain, tmp_path, monkeypatch) -> None:
        data = replace(DATA, max_labelled_samples=3)
        teacher = TeacherArguments(teacher=str(plain[0]))
        given = self._datasets(monkeypatch, data, teacher, _args(tmp_path / "ka", KnowledgeAdaptationConfig))
        everything = [f"train-{index:06d}" for index in range(8)]
        assert [sample["id"] for sample in given["train_dataset"]] == [everything[index] for index in (0, 2, 5)]
        assert [s["id"] for s in given["unlabelled_dataset"]] == [everything[index] for index in (1, 3, 4, 6, 7)]
        given = self._datasets(monkeypatch, data, None, _args(tmp_path / "plain"))
        assert [sample["id"] for sample in given["train_dataset"]] == [everything[index] for index in (0, 2, 5)]
        assert "unlabelled_dataset" not in given

    @pytest.mark.parametrize("count", [0, 8, 9])
    def test_some_are_labelled_and_some_are_not(self, tmp_path, count: int) -> None:
        with pytest.raises(ValueError, match=f"max_labelled_samples is {count}: it must be from 1 to 7"):
            train(MODEL, replace(DATA, max_labelled_samples=count), _args(tmp_path))

    def test_a_folder_of_images_is_distilled_on(self, plain, tmp_path, monkeypatch) -> None:
        rng = np.random.default_rng(0)
        photos = ["0.png", "1.png", "2.png"]
        (tmp_path / "photos").mkdir()
        for name in photos:
            Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(tmp_path / "photos" / name)
        teacher = TeacherArguments(teacher=str(plain[0]), unlabelled_dir=str(tmp_path / "photos"))
        args = _args(tmp_path / "run", KnowledgeAdaptationConfig, **FIRST_STAGE)
        with monkeypatch.context() as patch:
            both = _args(tmp_path / "both", KnowledgeAdaptationConfig)
            given = self._datasets(patch, replace(DATA, max_labelled_samples=6), teacher, both)
        assert [sample["id"] for sample in given["unlabelled_dataset"]] == ["train-000003", "train-000007", *photos]
        with monkeypatch.context() as patch:
            given = self._datasets(patch, DATA, teacher, args)
        assert [sample["id"] for sample in given["unlabelled_dataset"]] == photos
        assert len(given["train_dataset"]) == 8
        results = distill(MODEL, DATA, teacher, args)
        assert results["recipe"]["teacher"] == plain[0].name
        assert results["recipe"]["unlabelled_dir"] == "photos" and results["steps"] == 2
        assert results["parameters"] == plain[1]["parameters"]
        assert (tmp_path / "run/autoencoder/model.safetensors").is_file()
        shutil.rmtree(tmp_path / "photos")
        assert distill(MODEL, DATA, teacher, args) == results  # a finished run is only read


class TestBuildModel:
    def test_same_seed_same_model_and_how_images_are_padded_is_part_of_it(self) -> None:
        padded = replace(MODEL, pad_to_stride=True)
        first, second, other = (
            build_model(*given) for given in ((MODEL, SCENES, 1), (MODEL, SCENES, 1), (padded, SCENES, 2))
        )
        weight = "head.conv.0.weight"
        assert torch.equal(first.state_dict()[weight], second.state_dict()[weight])
        assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
        assert other.config.pad_to_stride and not first.config.pad_to_stride

    def test_a_checkpoint_of_other_classes_gets_a_new_classifier(self, tmp_path) -> None:
        source = KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, num_labels=4))
        source.save_pretrained(tmp_path)
        model = build_model(ModelArguments(model=str(tmp_path)), SCENES, seed=0)
        assert model.config.id2label == SCENES.id2label and model.classifier.out_channels == 9
        assert torch.equal(model.head.conv[0].weight, source.head.conv[0].weight)

    @pytest.mark.parametrize("head", ["student", "lraspp", "mlp"])
    def test_separable_convolutions_of_a_head_that_has_none_are_refused(self, head: str) -> None:
        with pytest.raises(ValueError, match=f"separable_head would change nothing, as the head is '{head}'"):
            check_model(ModelArguments(head=head, separable_head=False))
        check_model(ModelArguments(head="fpn", separable_head=False))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("backbone", "resnet18"),
            ("output_stride", 8),
            ("head", "fpn"),
            ("separable_head", False),
            ("classifier_dropout_prob", 0.5),
            ("freeze_batch_norm", True),
            ("pad_to_stride", True),
            ("encoder_from", "elsewhere"),
        ],
    )
    def test_fields_that_a_checkpoint_decides_are_refused(self, field, value, tmp_path) -> None:
        message = f"{field} would change nothing beside model=there"
        model_args = ModelArguments(model="there", **{field: value})
        with pytest.raises(ValueError, match=message):
            check_model(model_args)
        with pytest.raises(ValueError, match=message):
            train(model_args, DATA, _args(tmp_path))
        if field == "backbone":
            with pytest.raises(ValueError, match="backbone would change nothing beside encoder_from=there"):
                check_model(ModelArguments(encoder_from="there", **{field: value}))

    def test_every_field_of_a_network_is_refused_beside_a_checkpoint_or_says_where_weights_lie(self) -> None:
        others = {"model", "pretrained_backbone", "backbone_weights"}
        assert {item.name for item in fields(ModelArguments)} == {*_DECIDED_BY["model"]} | others


@pytest.mark.parametrize(
    "mistake",
    [
        {"dataset": "camvid", "data_dir": "nowhere"},
        {"max_labelled_samples": 8},
        {"eval_split": "nothing"},
        {"max_train_samples": 0},
        {"max_eval_samples": 0},
        {"max_eval_samples": -1},
    ],
)
def test_a_run_that_cannot_begin_leaves_the_folder_as_it_is(plain, mistake, tmp_path) -> None:
    finished, empty = tmp_path / "finished", tmp_path / "empty"
    shutil.copytree(plain[0], finished)
    (finished / "checkpoint-2").mkdir()
    before = {file: file.stat().st_mtime_ns for file in sorted(finished.rglob("*"))}
    for folder, resume in ((empty, False), (empty, True), (finished, False)):
        with pytest.raises((OSError, ValueError)):
            train(MODEL, replace(DATA, **mistake), _args(folder), resume)
    assert {file: file.stat().st_mtime_ns for file in sorted(finished.rglob("*"))} == before
    assert not list(empty.rglob("*.yaml"))


class TestForget:
    def test_starting_anew_leaves_nothing_for_a_later_resume(self, tmp_path) -> None:
        for name in ("checkpoint-900", "autoencoder/checkpoint-700"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "autoencoder/trainer_state.json").write_text("{}")
        train(MODEL, DATA, _args(tmp_path, save_strategy="steps", save_steps=1), resume=False)
        assert sorted(path.name for path in tmp_path.glob("**/checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
        assert not (tmp_path / "autoencoder").exists()

    def test_label_space_resize_and_latency_show_in_the_results(self, plain, tmp_path) -> None:
        names = tmp_path / "classes.txt"
        names.write_text("\n".join(f"class {index}" for index in range(9)) + "\n")
        data = replace(DATA, measure_latency=True, label_space=str(names))
        results = train(MODEL, data, _args(tmp_path / "run", max_steps=1, eval_size=64))
        assert results["dataset"] == "scenes"
        assert all(name.startswith("class ") for name in results["per_category_iou"])
        assert results["protocol"].endswith("short edge resized to 64")
        assert results["latency"]["milliseconds"] > 0 and results["latency"]["height"] == 513
        assert " ms for one image of 513x513" in (tmp_path / "run/README.md").read_text()
        assert "latency" not in plain[1]


def test_published_files_do_not_tell_where_a_folder_of_data_lay(tmp_path) -> None:
    """Nor is a folder that is called like a known dataset taken for it, with its license."""
    data, output_dir = tmp_path / "somebody/camvid", tmp_path / "run"
    mask = Image.new("L", (64, 64))
    mask.paste(1, (0, 0, 32, 32))
    for part in ("train", "validation"):
        write_folder(data / part, [(mask.convert("RGB"), mask)] * 2)
    (data / "classes.txt").write_text("a\nb\n")
    results = train(MODEL, DataArguments(dataset=str(data)), _args(output_dir, max_steps=1))
    assert results["dataset"] == "folder camvid"
    for file, content in published_files(output_dir).items():
        text = content if isinstance(content, bytes) else content.read_bytes()
        assert b"somebody" not in text and b"CC BY-NC" not in text, file


@pytest.mark.parametrize("kind", [SegmentationConfig, KnowledgeAdaptationConfig])
def test_a_new_model_is_told_which_normalization_its_encoder_was_trained_with(
    plain, kind, tmp_path, caplog, monkeypatch
) -> None:
    class Built(Exception):
        pass

    def train_nothing(trainer: SegmentationTrainer, **kwargs) -> None:
        raise Built

    for trainer in (SegmentationTrainer, KnowledgeAdaptationTrainer):
        monkeypatch.setattr(trainer, "train", train_nothing)
    teacher = TeacherArguments(teacher=str(plain[0]))
    for backbone, warnings in (("mobilenetv2_035", 0), ("test_resnet", 1)):
        caplog.clear()
        model = ModelArguments(backbone=backbone, output_stride=32, pretrained_backbone=False)
        args = _args(tmp_path / backbone, kind)
        with pytest.raises(Built):
            train(model, DATA, args) if kind is SegmentationConfig else distill(model, DATA, teacher, args)
        assert caplog.text.count("were trained with mean (0.5, 0.5, 0.5)") == warnings
