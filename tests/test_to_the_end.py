"""Whole commands on data and folders with awkward names, and with whatever comes after the long part made to fail."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from toy import FIRST_STAGE

from kaseg import KASegConfig, KASegModel, KnowledgeAdaptationConfig, SegmentationConfig, SegmentationTrainer
from kaseg.experiments.comparison import Comparison, run_comparison
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments
from kaseg.experiments.report import write_report
from kaseg.experiments.run import distill, train
from kaseg.export import ExportOptions, export_model
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.inference import Predictor
from kaseg.uploading import UploadError

NAMES = ["[road]", "[/x]", "a|b", "<b>{0} %s</b>", "$x_1", "_naïve 道路", "-flag --json", ":smile: `c`"]
NETWORK = {"backbone": "test_resnet", "output_stride": 32, "pretrained_backbone": False}
MODEL = ModelArguments(**NETWORK)
TINY = {
    "per_device_train_batch_size": 2,
    "crop_size": [32, 32],
    "max_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("a") / "b [v2] [/x]"


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    folder = root / "my [data]|{0}"
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(2):
            name = f"[{index}] %s {{x}}.png"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / split / "images" / name)
            labels = np.tile(np.arange(8, dtype=np.uint8).repeat(4), (32, 1))
            Image.fromarray(labels).save(folder / split / "masks" / name)
    (folder / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return folder


def arguments(output_dir: Path, kind: type = SegmentationConfig, **fields: Any) -> Any:
    return kind(**TINY, output_dir=str(output_dir), **fields)


@pytest.fixture(scope="module")
def trained(kaseg, root: Path, data: Path) -> tuple[Path, str]:
    """A run by the command, and what it printed."""
    recipe = root / "recipe [1].yaml"
    recipe.write_text(yaml.safe_dump({**TINY, **NETWORK, "dataset": str(data)}))
    result = kaseg.succeed("train", "--config", recipe, "--output-dir", root / "out [a|b]")
    return root / "out [a|b]", result.output


class TestText:
    def test_what_is_printed_is_what_was_given_and_the_card_is_a_card(self, kaseg, trained, root) -> None:
        folder, printed = trained
        assert all(name in printed for name in (*NAMES, str(folder)))
        assert "[/gone].png: no such file" in kaseg.fail("predict", root / "[/gone].png", "--output", root)
        card = ModelCard.load(folder / "README.md")
        assert card.data.model_name == "out [a|b]"
        results = json.loads((folder / "results.json").read_text())
        assert list(results["per_category_iou"]) == NAMES
        rows = [line for line in card.text.splitlines() if line.startswith("| ")]
        widths = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
        assert len(rows) > len(NAMES) and set(widths) <= {8, 4}, "a name has broken a table"
        code = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
        assert code is not None
        compile(code[1], "card", "exec")

    def test_evaluate_writes_before_it_prints(self, kaseg, trained, data, root) -> None:
        files = {flag: root / "new [b]" / name for flag, name in FILES.items()}
        options = [item for pair in files.items() for item in pair]
        output = kaseg.succeed("evaluate", trained[0], "--dataset", data, *options).output
        assert all(name in output for name in (*NAMES, *map(str, files.values())))
        assert list(json.loads(files["--json"].read_text())["per_category_iou"]) == NAMES
        assert Image.open(files["--confusion-matrix"]).size[0] > 100
        assert "[0] %s {x}" in files["--per-image"].read_text()

    def test_predict_ends_well(self, kaseg, trained, data, root) -> None:
        command = ("predict", data / "validation/images", "--model", trained[0], "--output", root / "masks [/b]")
        assert str(root / "masks [/b]") in kaseg.succeed(*command).output
        assert len(list((root / "masks [/b]").iterdir())) == 4


FILES = {"--json": "scores.json", "--per-image": "images.csv", "--confusion-matrix": "matrix.png"}


def fails(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("made to fail")


class TestLostWork:
    @pytest.mark.parametrize("stage", ["train", "distill"])
    def test_what_describes_a_run_cannot_end_it(self, stage, trained, data, tmp_path, monkeypatch, caplog) -> None:
        monkeypatch.setattr("kaseg.model_card.callback.render_card", fails)
        monkeypatch.setattr("kaseg.evaluation.cost.gflops", fails)
        monkeypatch.setattr("kaseg.experiments.run.milliseconds_per_image", fails)
        monkeypatch.setattr("kaseg.model_card.callback.DataSource.of", fails)
        source = DataArguments(dataset=str(data), measure_latency=True)
        if stage == "train":
            results = train(MODEL, source, arguments(tmp_path))
        else:
            args = arguments(tmp_path, KnowledgeAdaptationConfig, **FIRST_STAGE)
            results = distill(MODEL, source, TeacherArguments(teacher=str(trained[0])), args)
        assert KASegModel.from_pretrained(tmp_path).config.num_labels == len(NAMES)
        assert json.loads((tmp_path / "results.json").read_text()) == results
        assert results["mean_iou"] >= 0 and results["gflops_513x513"] is None and "latency" not in results
        for failed in ("the model card", "counting the model's operations", "time per image", "the data's name"):
            assert re.search(f"Failed: .*{failed}.*made to fail", caplog.text), failed

    @pytest.mark.parametrize("part, note", [("evaluate", "not scored yet"), ("push_to_hub", "The run is finished")])
    def test_after_the_training_the_message_says_where_the_model_is(self, part, note, data, tmp_path, monkeypatch):
        monkeypatch.setattr(SegmentationTrainer, part, fails)
        monkeypatch.setattr(SegmentationTrainer, "init_hf_repo", lambda self: None)
        with pytest.raises(RuntimeError) as error:
            train(MODEL, DataArguments(dataset=str(data)), arguments(tmp_path, push_to_hub=True))
        (said,) = error.value.__notes__
        assert note in said and str(tmp_path) in said
        assert KASegModel.from_pretrained(tmp_path).config.num_labels == len(NAMES)
        assert (tmp_path / "results.json").is_file() == (part == "push_to_hub")

    def test_a_push_that_fails_within_a_trainer(self, data, tmp_path, monkeypatch) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise UploadError("made to fail")

        monkeypatch.setattr("kaseg.trainer.publishing.create_repository", refuse)
        args = arguments(tmp_path)
        trainer = SegmentationTrainer(KASegModel(KASegConfig("test_resnet", 32, num_labels=8)), args)
        with pytest.raises(UploadError, match="The model is saved in"):
            trainer.push_to_hub()
        assert (tmp_path / "model.safetensors").is_file()

    @pytest.mark.parametrize(
        "broken, missing",
        [
            ("kaseg.evaluation.plots.plot_confusion_matrix", {"--confusion-matrix"}),
            ("kaseg.evaluation.per_image.write_table", {"--per-image"}),
            ("kaseg.writing.write_json", {"--json"}),
            ("kaseg.cli.output.print_scores", set()),
            ("kaseg.evaluation.cost.gflops", None),
        ],
    )
    def test_evaluate(self, kaseg, broken, missing, trained, data, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(broken, fails)
        files = {flag: tmp_path / name for flag, name in FILES.items()}
        options = [item for pair in files.items() for item in pair]
        result = kaseg("evaluate", trained[0], "--dataset", data, *options)
        assert {flag for flag, file in files.items() if not file.is_file()} == (missing or set())
        assert (result.exit_code == 0) == (missing is None)
        for flag in missing or ():
            assert "The model is scored, but" in result.output and str(files[flag]) in result.output
            assert "made to fail" in result.output and "Mean" in result.output

    def test_compare(self, data, tmp_path, monkeypatch, caplog) -> None:
        names = {"plain": None}
        comparison = Comparison(recipe={**TINY, **NETWORK, "dataset": str(data)}, objectives=names)
        run_comparison(comparison, tmp_path)
        rows = write_report(comparison, tmp_path)
        assert [row["objective"] for row in rows] == list(names) and (tmp_path / "summary.html").is_file()
        page = (tmp_path / "summary.html").read_text(encoding="utf-8")
        assert "&lt;b&gt;{0} %s&lt;/b&gt;" in page and "<b>{0}" not in page and "Failed" not in caplog.text
        for name in ("accuracy_against_cost.png", "summary.html", "summary.json"):
            (tmp_path / name).unlink()
        for part in ("accuracy_against_cost", "learning_curves", "class_bars", "write_page", "example_masks"):
            monkeypatch.setattr(f"kaseg.experiments.report.{part}", fails)
        assert write_report(comparison, tmp_path) == rows
        assert json.loads((tmp_path / "summary.json").read_text())["rows"] == rows
        for failed in ("accuracy_against_cost.png", "Learning curves", "IoU per class", "example masks", "html"):
            assert re.search(f"Failed: .*{failed}.*made to fail", caplog.text), failed

    def test_export(self, trained, tmp_path, monkeypatch, caplog) -> None:
        monkeypatch.setattr("kaseg.export.exporter.write_card", fails)
        model = KASegModel.from_pretrained(trained[0])
        options = ExportOptions(format="torch-export", size=(32, 32))
        export_model(model, KASegImageProcessor(), tmp_path / "out", options)
        assert {"model.pt2", "export.json", "config.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
        assert "Failed: the card of the export" in caplog.text

    @pytest.mark.parametrize("part", ["add_legend", "overlay"])
    def test_predict(self, part, trained, data, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(f"kaseg.inference.predictor.{part}", fails)
        predictor = Predictor(KASegModel.from_pretrained(trained[0]), KASegImageProcessor())
        with pytest.raises(RuntimeError, match="made to fail") as error:
            list(predictor.predict_files([data / "validation/images"], tmp_path))
        masks = sorted(tmp_path.glob("*_mask.png"))
        assert masks and "The mask is written: " in error.value.__notes__[0]


def test_names_with_newlines_in_cards_and_legends(tmp_path) -> None:
    labels = {0: "two\nlines", 1: "tab\tand\r\nmore"}
    config = KASegConfig("test_resnet", 32, id2label=labels)
    model = KASegModel(config)
    image = Image.new("RGB", (40, 40))
    image.save(tmp_path / "a.png")
    (prediction,) = Predictor(model, KASegImageProcessor()).predict_files([tmp_path / "a.png"], tmp_path / "out")
    assert prediction.overlay_path is not None and Image.open(prediction.overlay_path).height > 40
    SegmentationTrainer(model, arguments(tmp_path / "run")).create_model_card()
    assert "2 classes (two lines, tab\tand more)" in (tmp_path / "run/README.md").read_text()
