"""The scores, cost and circumstances of a run: the common part of a card and of `results.json`."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaseg.evaluation.caution import caution
from kaseg.evaluation.cost import describe_cost, hardware
from kaseg.evaluation.evaluator import protocol_of
from kaseg.modeling_kaseg import KASegModel
from kaseg.version import __version__

RESULTS_NAME = "results.json"
_CLASS_PREFIX = "eval_iou_"
_SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "loss", "num_reference_classes", "num_predicted_classes")


def describe_run(
    model: KASegModel, processor: Any, args: Any, state: Any, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Collects scores, cost, seed, steps, hardware and versions of a training with a
    [`~kaseg.trainer.SegmentationConfig`], as far as there are any yet; `processor` is the trainer's image processor,
    `metrics` what `evaluate()` gave last."""
    description: dict[str, Any] = {}
    if "eval_mean_iou" in metrics:
        padding = f", padded to multiples of {args.eval_size_divisor}" if args.eval_size_divisor else ""
        description["protocol"] = protocol_of(processor) + padding
        description |= {name: metrics[f"eval_{name}"] for name in _SCORES if f"eval_{name}" in metrics}
        classes = {k.removeprefix(_CLASS_PREFIX): v for k, v in metrics.items() if k.startswith(_CLASS_PREFIX)}
        description["per_category_iou"] = classes
        description |= {"caution": words} if (words := caution(description)) else {}
    if getattr(args, "ema_decay", None) is not None:
        description["ema_decay"] = args.ema_decay  # the weights that were scored are an average
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "transformers", "datasets")}
    return description | {
        "seed": args.seed,
        "steps": state.global_step,
        "epochs": state.epoch,
        "hardware": hardware(),
        "compiled": bool(getattr(args, "torch_compile", False)),
        **describe_cost(model),
        "versions": {"kaseg": __version__, **versions},
    }


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """Reads `results.json` of a finished run; a FileNotFoundError says that there is none."""
    path = Path(run_dir) / RESULTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {run_dir} is not a finished run.")
    return json.loads(path.read_text(encoding="utf-8"))
