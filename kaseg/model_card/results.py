"""The scores, cost and circumstances of a run: the common part of a card and of `results.json`."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaseg.evaluation.caution import caution
from kaseg.evaluation.cost import describe_cost, hardware
from kaseg.evaluation.evaluator import PROTOCOL
from kaseg.modeling_kaseg import KASegModel
from kaseg.version import __version__

RESULTS_NAME = "results.json"
_CLASS_PREFIX = "eval_iou_"
_SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "loss", "num_reference_classes", "num_predicted_classes")


def describe_run(model: KASegModel, args: Any, state: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Collects scores, cost, seed, steps, hardware and versions of a training with a
    [`~kaseg.trainer.SegmentationConfig`], as far as there are any yet; `metrics` is what `evaluate()` gave last."""
    description: dict[str, Any] = {}
    if "eval_mean_iou" in metrics:
        description["protocol"] = _protocol(args)
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


def _protocol(args: Any) -> str:
    """How `evaluate()` of a trainer with these arguments scores, in words."""
    words = [PROTOCOL]
    if args.eval_size:
        words.append(f"short edge resized to {args.eval_size}")
    if args.eval_max_long_edge:
        words.append(f"long edge resized to at most {args.eval_max_long_edge}")
    if args.eval_size_divisor:
        words.append(f"padded to multiples of {args.eval_size_divisor}")
    return ", ".join(words)


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """Reads `results.json` of a finished run; a FileNotFoundError says that there is none."""
    path = Path(run_dir) / RESULTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {run_dir} is not a finished run.")
    return json.loads(path.read_text(encoding="utf-8"))
