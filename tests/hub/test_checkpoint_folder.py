import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from toy import RESULTS

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import CAMVID
from kaseg.hub import write_checkpoint_folder


def _run(folder, mean_iou: float = 0.5, split: str = "validation", **recipe):
    """What a finished run leaves behind."""
    folder.mkdir()
    model = KASegModel(KASegConfig(backbone="test_resnet", output_stride=32, id2label=CAMVID.id2label))
    model.save_pretrained(folder)
    KASegImageProcessor().save_pretrained(folder)
    results = {**RESULTS, "split": split, "mean_iou": mean_iou, "recipe": {"crop_size": [8, 8], **recipe}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder, model


def test_folder_loads_as_float32_and_keeps_half_precision(tmp_path) -> None:
    run, model = _run(tmp_path / "run")
    folder = write_checkpoint_folder(run, tmp_path / "net-plain", command="kaseg train")
    stored = load_file(folder / "model.safetensors")
    assert stored["classifier.weight"].dtype == torch.float16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    loaded = KASegModel.from_pretrained(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.classifier.weight, model.classifier.weight.half().float())
    assert KASegImageProcessor.from_pretrained(folder).do_normalize
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
        "results.json",
    ]


@pytest.mark.parametrize("number", [float("nan"), 1e6])
def test_weights_that_are_no_numbers_in_float16_are_refused(number, tmp_path) -> None:
    run, model = _run(tmp_path / "run")
    torch.nn.init.constant_(model.classifier.weight, number)
    model.save_pretrained(run)
    with pytest.raises(ValueError, match="float16 is not finite.*classifier.weight"):
        write_checkpoint_folder(run, tmp_path / "net-plain", command="kaseg train")
    assert not (tmp_path / "net-plain").exists()


def test_card_is_valid_and_comes_from_the_data(tmp_path) -> None:
    run, _ = _run(tmp_path / "run", mean_iou=0.6125)
    folder = write_checkpoint_folder(run, tmp_path / "net-plain", "kaseg train --seed 3", remarks=["Mind the gap."])
    card = ModelCard.load(folder / "README.md")
    assert "load as float32.\n\nMind the gap.\n" in card.text
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "kaseg"
    assert card.data.eval_results[0].metric_value == 0.6125
    assert "kaseg train --seed 3" in card.text and "| sky | 90.0 |" in card.text
    # Defaults that the recipe does not repeat count too.
    assert "Loss: cross-entropy." in card.text and "| `crop_size` | `[8, 8]` |" in card.text


def test_an_adapted_model_never_stands_alone(tmp_path) -> None:
    adapted, _ = _run(tmp_path / "adapted", teacher="kaseg/t")
    plain, _ = _run(tmp_path / "plain", mean_iou=0.4)
    teacher, _ = _run(tmp_path / "teacher", mean_iou=0.7)
    with pytest.raises(ValueError, match="teacher and its plain twin"):
        write_checkpoint_folder(adapted, tmp_path / "net-ka", command="c", beside={"plain": plain})
    folder = write_checkpoint_folder(
        adapted, tmp_path / "net-ka", command="c", beside={"plain student": plain, "teacher": teacher}
    )
    text = (folder / "README.md").read_text()
    assert "| plain student | 40.0 |" in text and "| teacher | 70.0 |" in text
    assert "Loss: cross-entropy + 50 x adaptation + affinity." in text and "Teacher: `kaseg/t`" in text


def test_scores_on_other_data_do_not_stand_beside_it(tmp_path) -> None:
    run, _ = _run(tmp_path / "run")
    other, _ = _run(tmp_path / "other", split="test")
    with pytest.raises(ValueError, match="another split"):
        write_checkpoint_folder(run, tmp_path / "net-plain", command="c", beside={"other": other})
    assert not (tmp_path / "net-plain").exists(), "nothing is written by halves"


def test_unfinished_run(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        write_checkpoint_folder(tmp_path, tmp_path / "out", command="c")
