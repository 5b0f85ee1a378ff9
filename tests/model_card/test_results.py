from types import SimpleNamespace

import pytest

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, SegmentationConfig
from kaseg.evaluation.evaluator import PROTOCOL
from kaseg.model_card.results import describe_run, read_results

METRICS = {"eval_mean_iou": 0.5, "eval_mean_accuracy": 0.6, "eval_overall_accuracy": 0.7, "eval_iou_sky": 0.8}


@pytest.mark.parametrize(
    "fields, words",
    [
        # As a checkpoint's own processor does, whatever the arguments say.
        ({}, ", short edge resized to 64"),
        ({"eval_size_divisor": 8}, ", short edge resized to 64, padded to multiples of 8"),
    ],
)
def test_protocol_and_scores(tmp_path, fields, words) -> None:
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", num_labels=2))
    args = SegmentationConfig(output_dir=str(tmp_path), use_cpu=True, **fields)
    state = SimpleNamespace(global_step=3, epoch=1.5)
    processor = KASegImageProcessor(do_resize=True, size={"shortest_edge": 64})
    description = describe_run(model, processor, args, state, METRICS)
    assert description["protocol"] == PROTOCOL + words
    assert description["mean_iou"] == 0.5 and description["per_category_iou"] == {"sky": 0.8}
    assert description["steps"] == 3 and description["parameters"] == model.num_parameters()
    assert not {"mean_iou", "protocol"} & describe_run(model, processor, args, state, {}).keys()


def test_a_run_that_is_not_finished(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json is missing"):
        read_results(tmp_path)
