import csv
import errno
import io
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from forked import Jobs
from PIL import Image
from toy import write_folder
from transformers import (
    MobileNetV2ForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from kaseg import __version__
from kaseg.cli import main
from kaseg.data import SPECS, load_segmentation_dataset
from kaseg.loading_errors import explained_loading


def test_scores_as_training_did(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.json"
    output = kaseg.succeed(
        "evaluate", trained[0], "--dataset", "scenes", "--max-samples", 2, "--device", "cpu", "--json", file
    ).output
    scores = json.loads(file.read_text())
    results = json.loads((trained[0] / "results.json").read_text())
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert scores[key] == pytest.approx(results[key], abs=2e-3)
    for key in ("dataset", "split", "protocol", "parameters", "gflops_513x513"):
        assert scores[key] == results[key]
    present = {name: iou for name, iou in scores["per_category_iou"].items() if iou is not None}
    assert present == pytest.approx(results["per_category_iou"], abs=2e-3)
    assert (scores["num_images"], scores["kaseg_version"]) == (2, __version__)
    assert f"{100 * scores['mean_iou']:.2f}" in output
    assert all(name in output for name in scores["per_category_accuracy"])


@pytest.fixture
def one_image(tmp_path: Path) -> Path:
    """A folder of one image whose only class of nine is sky."""
    pair = Image.new("RGB", (64, 48), "blue"), Image.new("L", (64, 48))
    return write_folder(tmp_path / "data", [pair], SPECS["scenes"].label_space.names)


def test_absent_classes_are_null(kaseg: Any, trained: tuple[Path, str], one_image: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    kaseg.succeed("evaluate", trained[0], "--dataset", one_image, "--split", "train", "--json", file)
    scores = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["per_category_accuracy"]["sky"] is not None
    assert scores["per_category_accuracy"]["car"] is None


def test_other_classes(kaseg: Any, trained: tuple[Path, str], one_image: Path) -> None:
    (one_image / "classes.txt").write_text("cat\ndog\n")
    output = kaseg.fail("evaluate", trained[0], "--dataset", one_image, "--split", "train")
    assert "Model (9): sky, road, pavement" in output and "Dataset (2): cat, dog" in output


def test_as_a_teacher_of_some_of_its_classes(kaseg, trained, one_image, tmp_path):
    (one_image / "classes.txt").write_text("sky\nroad\n")
    where = ("--dataset", one_image, "--split", "train")
    arguments = ("evaluate", trained[0], *where, "--device", "cpu", "--json", tmp_path / "scores.json")
    assert "The model's classes are not those" in kaseg(*arguments).output
    kaseg.succeed(*arguments, "--as-teacher")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["per_category_iou"].keys() == {"sky", "road"} and sum(map(sum, scores["confusion_matrix"])) == 64 * 48
    assert scores["gflops_513x513"] > 0 and scores["parameters"] > 0
    (one_image / "classes.txt").write_text("sky\nboat\n")
    assert "scored on classes that it knows" in kaseg(*arguments, "--as-teacher").output


def test_without_an_image_processor(kaseg: Any, trained: tuple[Path, str], one_image: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(trained[0] / name, tmp_path / "bare")
    result = kaseg.succeed("evaluate", tmp_path / "bare", "--dataset", one_image, "--split", "train")
    assert "has no image processor; the default one is used" in result.output


def test_protocols_tables_and_pictures(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    files = {name: tmp_path / "new" / name for name in ("scores.json", "images.csv", "matrix.png", "page.html")}
    windows = ("--protocol", "slide", "--crop-size", "64,96", "--overlap", "21", "--scales", "0.5,1", "--flip")
    where = ("--dataset", "scenes", "--max-samples", 2, "--batch-size", 4, "--num-workers", 1)
    outputs = zip(("--json", "--per-image", "--confusion-matrix", "--page"), files.values(), strict=True)
    output = kaseg.succeed("evaluate", trained[0], *where, *windows, *itertools.chain(*outputs)).output
    scores = json.loads(files["scores.json"].read_text())
    assert scores["protocol"] == (
        "sliding window 64x96 with overlap 21x21, scales 0.5, 1, with flips, dataset level, void ignored"
    )
    whole = tmp_path / "whole.json"
    kaseg.succeed("evaluate", trained[0], "--dataset", "scenes", "--max-samples", 2, "--json", whole)
    other = json.loads(whole.read_text())
    assert other["confusion_matrix"] != scores["confusion_matrix"]
    assert np.sum(other["confusion_matrix"]) == np.sum(scores["confusion_matrix"]) > 0
    assert set(scores["per_category_boundary_iou"]) == set(scores["per_category_iou"])
    assert f"{100 * scores['mean_boundary_iou']:.2f}" in output and "per_image" not in scores
    with files["images.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == ["validation-000000", "validation-000001"]
    assert float(rows[0]["mean_iou"]) <= float(rows[1]["mean_iou"])
    assert Image.open(files["matrix.png"]).format == "PNG"
    page = files["page.html"].read_text()
    # The confusion matrix, and image, label, prediction and errors of both images, the worst first.
    assert page.count("data:image/png;base64,") == 1 + 2 * 4 and 'src="http' not in page
    assert page.index(f"{rows[0]['id']}: mean IoU") < page.index(f"{rows[1]['id']}: mean IoU")
    assert f"{100 * scores['mean_boundary_iou']:.1f}" in page
    assert all(str(file) in output for file in files.values())


@pytest.mark.parametrize(
    "options, message",
    [
        (("--protocol", "slide"), "needs crop_size"),
        (("--crop-size", "513"), "crop_size and overlap are for the mode 'slide'"),
        (("--protocol", "slide", "--crop-size", "5x5"), "--crop-size takes one number of pixels or two"),
        (
            ("--protocol", "slide", "--crop-size", "8", "--overlap", "1,2,3"),
            "--overlap takes one number of pixels or two",
        ),
        (("--scales", "1;2"), "--scales takes numbers with commas between them"),
        (("--scales", "-1"), "scales must be one or more positive factors"),
    ],
)
def test_mistaken_protocols(kaseg: Any, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert message in kaseg.fail("evaluate", tmp_path, "--dataset", "scenes", *options)


def run_command(*words: str) -> None:
    """`kaseg` as the command line starts it."""
    sys.argv = ["kaseg", *words]
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


@pytest.mark.slow
def test_two_processes_write_once_what_one_does(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    command = ["evaluate", str(trained[0]), "--dataset", "scenes", "--max-samples", "3", "--device", "cpu", "--json"]
    kaseg.succeed(*command, one)
    codes, printed = Jobs(__file__).run("run_command", *command, str(two), processes=2)
    assert codes == [0, 0], printed
    assert printed.count("Scores:") == printed.count("Pixel accuracy") == 1
    scores = json.loads(two.read_text())
    assert scores == json.loads(one.read_text()) and scores["num_images"] == 3


@pytest.mark.slow
def test_a_real_network_on_real_pictures_against_numpy(kaseg, voc_deeplab, voc, tmp_path):
    """mIoU counted with numpy from masks that transformers itself predicts, image by image."""
    theirs = MobileNetV2ForSemanticSegmentation.from_pretrained(voc_deeplab).eval()
    file = tmp_path / "scores.json"
    where = ("--dataset", "voc2012", "--data-dir", voc, "--max-samples", 6, "--json", file, "--device", "cpu")
    kaseg.succeed("evaluate", voc_deeplab, *where)
    scores = json.loads(file.read_text())

    counts = np.zeros((21, 21), dtype=np.int64)
    folder = voc / "VOC2012"
    for name in (folder / "ImageSets/Segmentation/val.txt").read_text().split()[:6]:
        reference = np.array(Image.open(folder / f"SegmentationClass/{name}.png"))
        picture = np.array(Image.open(folder / f"JPEGImages/{name}.jpg")).astype(np.float32) / 127.5 - 1
        with torch.no_grad():
            logits = theirs(torch.from_numpy(picture).permute(2, 0, 1)[None]).logits
            logits = torch.nn.functional.interpolate(logits, reference.shape, mode="bilinear", align_corners=False)
        prediction = logits[0].numpy().argmax(axis=0)
        labelled = reference != 255
        np.add.at(counts, (reference[labelled], prediction[labelled]), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    expected = (counts.diagonal()[union > 0] / union[union > 0]).mean()
    assert scores["num_images"] == 6
    assert scores["mean_iou"] == pytest.approx(expected, abs=1e-5)
    assert 0.3 < expected < 0.95
    # Not a single pixel, but for ties that rounding decides.
    assert np.abs(np.array(scores["confusion_matrix"]) - counts).sum() <= 20
    assert np.sum(scores["confusion_matrix"]) == counts.sum()


def test_another_model_of_transformers(kaseg: Any, tmp_path: Path) -> None:
    names = SPECS["scenes"].label_space
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    config = SegformerConfig(**sizes, id2label=names.id2label, label2id=names.label2id)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    file = tmp_path / "scores.json"
    kaseg.succeed("evaluate", tmp_path, "--dataset", "scenes", "--max-samples", 2, "--device", "cpu", "--json", file)
    scores = json.loads(file.read_text())
    assert scores["num_images"] == 2 and scores["gflops_513x513"] > 0
    scenes = load_segmentation_dataset("scenes", split="validation").select(range(2))
    assert np.sum(scores["confusion_matrix"]) == sum((np.array(scene["label"]) != 255).sum() for scene in scenes)
    assert "images resized to" in scores["protocol"]


def test_columns_of_its_own_and_bad_samples(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    """A folder as Parquet, whose columns have other names and one of whose pictures is cut off."""
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=3, height=64, width=64)
    rows = []
    for scene in scenes:
        files = {}
        for column, picture in (("photo", scene["image"]), ("truth", scene["label"])):
            stream = io.BytesIO()
            picture.save(stream, format="PNG")
            files[column] = {"bytes": stream.getvalue(), "path": None}
        rows.append(files)
    rows[1]["photo"]["bytes"] = rows[1]["photo"]["bytes"][:100]
    features = datasets.Features(photo=datasets.Image(), truth=datasets.Image())
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "validation.parquet")
    file = tmp_path / "scores.json"
    common = ("evaluate", trained[0], "--dataset", tmp_path / "data", "--label-space", "scenes", "--json", file)
    columns = ("--image-column", "photo", "--label-column", "truth")
    assert "cannot be read" in kaseg.fail(*common, *columns)
    with pytest.warns(UserWarning, match="1 of 3 samples were skipped"):
        kaseg.succeed(*common, *columns, "--on-error", "skip")
    assert json.loads(file.read_text())["num_images"] == 2


def test_strips_that_cannot_be_prepared_are_skipped_too(kaseg: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    """As by kaseg predict."""
    model = Path(shutil.copytree(trained[0], tmp_path / "model"))
    settings = json.loads((model / "preprocessor_config.json").read_text())
    settings |= {"do_resize": True, "size": {"shortest_edge": 32, "longest_edge": 64}}
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    pairs = [(Image.new("RGB", size), Image.new("L", size)) for size in ((64, 48), (5000, 1), (64, 48))]
    data = write_folder(tmp_path / "data", pairs, SPECS["scenes"].label_space.names)
    file = tmp_path / "scores.json"
    command = ("evaluate", model, "--dataset", data, "--split", "train", "--json", file)
    assert "Sample 1 failed: an image of (height, width) (1, 5000) cannot be resized" in kaseg.fail(*command)
    with pytest.warns(UserWarning, match=r"1 of 3 samples were skipped:\n  1: .*cannot be resized"):
        kaseg.succeed(*command, "--on-error", "skip")
    assert json.loads(file.read_text())["num_images"] == 2


def test_mistakes(kaseg, trained, one_image, tmp_path, monkeypatch):
    scenes = ("--dataset", "scenes", "--max-samples", 1)
    assert "nowhere: no such folder" in kaseg.fail("evaluate", tmp_path / "nowhere", *scenes)
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    assert "holds no weights as safetensors" in kaseg.fail("evaluate", tmp_path, *scenes)
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "model.safetensors"))
    with pytest.raises(PermissionError), explained_loading(str(tmp_path)):
        raise denied
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[0], "mobilenetv2-os16-camvid-ka")  # its classes are those of the scenes, not CamVid's
    kaseg.succeed("evaluate", "mobilenetv2-os16-camvid-ka", *scenes)
    for device in ("abacus", "meta", "cuda:99", "mkldnn"):
        for how in ((), ("--as-teacher",)):
            output = kaseg.fail("evaluate", trained[0], *scenes, *how, "--device", device)
            assert f"The device '{device}' cannot be used" in output
    assert "has no split 'test'; it has train" in kaseg.fail(
        "evaluate", trained[0], "--dataset", one_image, "--split", "test"
    )
    assert kaseg("evaluate", trained[0]).exit_code == 2
