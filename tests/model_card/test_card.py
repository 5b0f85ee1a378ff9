from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from toy import RESULTS

from kaseg import KASegConfig
from kaseg.model_card import CardFacts, DataSource, TeacherSource, render_card


def make_facts(**fields) -> CardFacts:
    defaults: dict[str, Any] = {
        "name": "net-ka",
        "model_id": "me/net-ka",
        "config": KASegConfig(num_labels=2),
        "results": RESULTS,
        "data": DataSource.named("camvid"),
        "loss": {"cross_entropy": 1.0, "adaptation": 50.0, "affinity": 1.0},
        "settings": {"learning_rate": 0.5, "teacher": "/home/me/teacher"},
        "teacher": TeacherSource("me/teacher", "mit"),
        "command": "kaseg distill --seed 3",
    }
    return CardFacts(**{**defaults, **fields})


def parse(facts: CardFacts) -> ModelCard:
    """The card as the Hub reads it: from its text."""
    return ModelCard(str(render_card(facts)))


def test_the_model_index_is_valid_and_complete() -> None:
    card = parse(make_facts())
    assert card.data.model_name == "net-ka" and card.data.library_name == "kaseg"
    assert card.data.license == "cc-by-nc-4.0" and card.data.pipeline_tag == "image-segmentation"
    result = card.data.eval_results[0]
    assert (result.task_type, result.dataset_type, result.dataset_split) == (
        "image-segmentation",
        "camvid",
        "validation",
    )
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.6125)
    assert result.metric_args == {"protocol": "whole image"}
    assert [r.metric_type for r in card.data.eval_results] == ["mean_iou", "mean_accuracy", "overall_accuracy"]
    # What the Hub checks of a model-index: https://github.com/huggingface/hub-docs, modelcard.md.
    index = yaml.safe_load(card.content.split("---")[1])["model-index"]
    assert {"task", "dataset", "metrics"} == set(index[0]["results"][0]) and index[0]["name"] == "net-ka"


def test_everything_that_is_known_is_said() -> None:
    text = parse(make_facts()).text
    for said in (
        "at output stride 16",
        "the labels and from the teacher `me/teacher`",
        "| **net-ka** | 61.3 | 2.11 | 5.48 | 3 | 10 |",
        "| sky | 90.0 |",
        "12.3 ms for one image of 513x513 pixels in float32 (median of 5 passes) on a slow CPU",
        "kaseg distill --seed 3",
        "10 steps (2 epochs) in 1 minutes on CPU, 1 threads, seed 3.",
        "Loss: cross-entropy + 50 x adaptation + affinity.",
        "| `learning_rate` | `0.5` |",
        "Versions: torch 2.15.",
        "License: CC-BY-NC-4.0. Brostow",
        "Teacher: `me/teacher`. License: mit.",
        "@inproceedings{he2019knowledge",
    ):
        assert said in text
    assert "/home/me" not in text


@pytest.mark.parametrize(("field", "said"), [("model", "Weights"), ("encoder_from", "Encoder")])
def test_whose_weights_training_began_with_is_said(field: str, said: str) -> None:
    text = parse(make_facts(settings={field: "org/net"})).text
    assert f"- {said} before training: those of `org/net`, which has a license of its own." in text
    assert "before training" not in parse(make_facts()).text


def test_compared_models_stand_in_one_table() -> None:
    twin, teacher = {**RESULTS, "mean_iou": 0.4}, {**RESULTS, "mean_iou": 0.7}
    text = parse(make_facts(compared={"plain": twin, "teacher": teacher})).text
    assert "| plain | 40.0 |" in text and "| teacher | 70.0 |" in text and "The table lacks" not in text
    assert "The table lacks the teacher or the plain twin" in parse(make_facts(compared={"plain": twin})).text


def test_of_a_downloaded_teacher_seed_and_steps_are_not_known() -> None:
    teacher = {key: value for key, value in RESULTS.items() if key not in ("seed", "steps")}
    text = parse(make_facts(compared={"plain": RESULTS, "a/teacher": teacher})).text
    assert "| a/teacher | 61.3 | 2.11 | 5.48 | not known | not known |" in text


@pytest.mark.parametrize("dataset", ["camvid", "nateraw/pascal-voc-2012"])
def test_other_classes_than_the_datasets_are_another_benchmark(dataset: str) -> None:
    results = {**RESULTS, "dataset": dataset}
    card = parse(make_facts(results=results, settings={"label_space": "somewhere/few.classes.json"}))
    assert {(r.dataset_name, r.dataset_type) for r in card.data.eval_results} == {("few (2 classes)",) * 2}
    assert "few (2 classes), split validation: whole image." in card.text


@pytest.mark.parametrize(
    "dataset, label_space, said",
    [
        ("me/photos", "photos/classes.json", "me/photos"),
        ("me/photos", "camvid", "me/photos"),
        ("camvid", "camvid:color", "camvid"),
    ],
)
def test_a_datasets_own_classes_keep_its_name(dataset: str, label_space: str, said: str) -> None:
    card = parse(make_facts(results={**RESULTS, "dataset": dataset}, settings={"label_space": label_space}))
    assert {(r.dataset_name, r.dataset_type) for r in card.data.eval_results} == {(said,) * 2}


def test_what_was_scored_otherwise_is_said() -> None:
    others = {"big_net": {**RESULTS, "protocol": "at half size"}, "plain": RESULTS}
    text = parse(make_facts(compared=others)).text
    assert "big_net was scored otherwise: at half size." in text and text.count("scored otherwise") == 1


@pytest.mark.parametrize("key", ["dataset", "split"])
def test_scores_on_other_data_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"plain was scored on another {key}"):
        make_facts(compared={"plain": {**RESULTS, key: "other"}})


def test_what_is_not_known_is_left_out() -> None:
    facts = make_facts(
        results={"parameters": 2_110_000, "gflops_513x513": 5.48, "steps": 4, "hardware": "CPU", "seed": 1},
        data=DataSource(),
        teacher=None,
    )
    card = parse(facts)
    assert card.data.get("license") is None and card.data.eval_results is None
    assert "None are known yet." in card.text and "Training data: not stated. License: not stated." in card.text
    assert " ms " not in card.text and "mean IoU" not in card.text


def test_a_resumed_run_tells_the_time_of_its_last_part() -> None:
    text = parse(make_facts(results={**RESULTS, "train_seconds_from_step": 4})).text
    assert "10 steps (2 epochs), the last 6 of them in 1 minutes, on CPU" in text


def test_a_selected_step_is_said_to_be_one() -> None:
    assert "scored at its last step" in parse(make_facts()).text
    assert "scored best on this split" in parse(make_facts(settings={"load_best_model_at_end": True})).text
