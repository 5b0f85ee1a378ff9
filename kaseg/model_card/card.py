"""Renders a card: metadata for the Hub, and the text of `card_template.md`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kaseg.configuration_kaseg import KASegConfig
from kaseg.data.sources import SPECS, hub_source
from kaseg.evaluation.cost import billions, in_words, millions
from kaseg.markdown import code, escaped, table
from kaseg.model_card.facts import CardFacts
from kaseg.model_card.sources import DataSource

_TEMPLATE = Path(__file__).with_name("card_template.md")
_HEADS = {
    "student": "the paper's student head (no ASPP, no decoder)",
    "deeplabv3plus": "a DeepLabV3+ head (ASPP and decoder)",
    "lraspp": "an LR-ASPP head (MobileNetV3)",
    "mlp": "an all-MLP head (SegFormer)",
    "fpn": "a Panoptic FPN head",
}
_METRICS = {"mean_iou": "mean IoU", "mean_accuracy": "mean accuracy", "overall_accuracy": "pixel accuracy"}
_SCORES_HEADER = ("model", "mean IoU (%)", "parameters (M)", "GFLOPs at 513x513", "seed", "steps")
_MAX_CLASSES_LISTED = 25


def render_card(facts: CardFacts) -> ModelCard:
    """Renders YAML metadata, with a `model-index` where there are scores, and the text in Markdown."""
    config, results = facts.config, facts.results
    classes = [escaped(config.id2label[index]) for index in range(config.num_labels)]
    # Data and teacher have a section of their own; in a recipe they may be paths on the machine that trained.
    settings = {name: value for name, value in facts.settings.items() if name not in ("dataset", "teacher")}
    per_class = results.get("per_category_iou") or {}
    protocol = results.get("protocol")
    others = [(escaped(name), other) for name, other in facts.compared.items()]
    scored = [(f"**{escaped(facts.name)}**", results), *others]
    class_rows = [(escaped(name), _percent(iou)) for name, iou in per_class.items()]
    return ModelCard.from_template(
        _metadata(facts),
        template_path=str(_TEMPLATE),
        facts=facts,
        results=results,
        settings=facts.settings,
        data=facts.data,
        teacher=facts.teacher,
        latency=results.get("latency"),
        escaped=escaped,
        code=code,
        model_id=json.dumps(facts.model_id, ensure_ascii=False),
        classes=classes[:_MAX_CLASSES_LISTED] + ["..."] * (len(classes) > _MAX_CLASSES_LISTED),
        architecture=architecture(config),
        scored_on=_scored_on(facts),
        scores=table(_SCORES_HEADER, [_row(*row) for row in scored]) if facts.has_scores else "",
        other_protocols=[
            (name, other["protocol"]) for name, other in others if other.get("protocol", protocol) != protocol
        ],
        class_scores=class_rows and table(("class", "IoU (%)"), class_rows),
        cost=in_words(results),
        loss=_loss_in_words(facts.loss),
        settings_table=settings and table(("setting", "value"), [(code(k), code(v)) for k, v in settings.items()]),
    )


def _metadata(facts: CardFacts) -> ModelCardData:
    method = ("knowledge-distillation", "knowledge-adaptation") if facts.adapted else ()
    results, name = facts.results, _scored_on(facts)
    scored: dict[str, Any] = {}
    if facts.has_scores:
        scored["metrics"] = ["mean_iou"]
        scored["eval_results"] = [
            EvalResult(
                task_type="image-segmentation",
                task_name="Semantic Segmentation",
                dataset_type=name,
                dataset_name=name,
                dataset_split=results.get("split"),
                metric_type=metric,
                metric_name=words,
                metric_value=round(results[metric], 4),
                metric_args={key: results[key] for key in ("protocol", "caution") if key in results},
            )
            for metric, words in _METRICS.items()
            if metric in results
        ]
    return ModelCardData(
        **facts.data.hub_license,
        library_name="kaseg",
        pipeline_tag="image-segmentation",
        tags=list(dict.fromkeys(["semantic-segmentation", *method, *facts.tags])),
        model_name=facts.name,
        **scored,
    )


def architecture(config: KASegConfig) -> str:
    """Names encoder, output stride and head."""
    head = _HEADS.get(config.head, f"the head `{config.head}`")
    return f"encoder `{config.backbone}` (timm) at output stride {config.output_stride} with {head}"


def _scored_on(facts: CardFacts) -> str:
    name = DataSource.named(facts.results.get("dataset") or "").name
    label_space = str(facts.settings.get("label_space") or "")
    # Other classes than a known dataset's are another benchmark. Elsewhere they are the dataset's own.
    copy = hub_source(name)
    known = copy[0].name if copy else name
    if known in SPECS and label_space.partition(":")[0] not in ("", known):
        return f"{Path(label_space).name.partition('.')[0]} ({facts.config.num_labels} classes)"
    return name or "a dataset that is not named"


def _row(name: str, results: Mapping[str, Any]) -> tuple[Any, ...]:
    cost = millions(results["parameters"]), billions(results["gflops_513x513"])
    # Of a model that somebody else trained neither is known.
    training = results.get("seed", "not known"), results.get("steps", "not known")
    return (name, _percent(results["mean_iou"]), *cost, *training)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _loss_in_words(loss: Mapping[str, float | str]) -> str:
    weights = {name: weight if isinstance(weight, str) else f"{weight:g}" for name, weight in loss.items()}
    terms = (f"{weight} x {name}".removeprefix("1 x ") for name, weight in weights.items())
    return " + ".join(terms).replace("_", "-")
