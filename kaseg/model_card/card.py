"""The wording of a card: metadata for the Hub and the text, from facts alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kaseg.configuration_kaseg import KASegConfig
from kaseg.markdown import code, plain, table
from kaseg.model_card.cost import billions, in_words, millions
from kaseg.model_card.facts import CardFacts
from kaseg.model_card.sources import DataSource

PAPER = "https://arxiv.org/abs/1903.04688"
CITATION = """@inproceedings{he2019knowledge,
  title     = {Knowledge Adaptation for Efficient Semantic Segmentation},
  author    = {He, Tong and Shen, Chunhua and Tian, Zhi and Gong, Dong and Sun, Changming and Yan, Youliang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2019}
}"""
_HEADS = {
    "student": "the paper's student head (no ASPP, no decoder)",
    "deeplabv3plus": "a DeepLabV3+ head (ASPP and decoder)",
    "lraspp": "an LR-ASPP head (MobileNetV3)",
    "mlp": "an all-MLP head (SegFormer)",
    "fpn": "a Panoptic FPN head",
}
_METRICS = {"mean_iou": "mean IoU", "mean_accuracy": "mean accuracy", "overall_accuracy": "pixel accuracy"}
_MOST_CLASSES_LISTED = 25
_USAGE = """```python
import torch
from PIL import Image

from kaseg import KASegImageProcessor, KASegModel

image = Image.open("image.jpg")
processor = KASegImageProcessor.from_pretrained({model_id})
model = KASegModel.from_pretrained({model_id})
with torch.no_grad():
    outputs = model(**processor(image, return_tensors="pt"))
mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]  # (height, width)
print({{model.config.id2label[index]: (mask == index).float().mean().item() for index in mask.unique().tolist()}})
```"""


def render_card(facts: CardFacts) -> ModelCard:
    """The card: YAML metadata with a `model-index` where there are scores, and the text in Markdown."""
    sections = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {plain(facts.name)}",
        *_introduction(facts),
        *_scores(facts),
        *_cost(facts.results),
        *_training(facts),
        *facts.remarks,
        *_sources(facts),
        "## Citation\n\nThe method is that of the paper; the code and this model are not its authors'.\n\n"
        f"```bibtex\n{CITATION}\n```",
    ]
    return ModelCard("\n\n".join(sections) + "\n")


def _metadata(facts: CardFacts) -> ModelCardData:
    method = ("knowledge-distillation", "knowledge-adaptation") if facts.adapted else ()
    scored = {"metrics": ["mean_iou"], "eval_results": _eval_results(facts)} if facts.has_scores else {}
    return ModelCardData(
        **facts.data.hub_licence,
        library_name="kaseg",
        pipeline_tag="image-segmentation",
        tags=list(dict.fromkeys(["semantic-segmentation", *method, *facts.tags])),
        model_name=facts.name,
        **scored,
    )


def _eval_results(facts: CardFacts) -> list[EvalResult]:
    results = facts.results
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic Segmentation",
            dataset_type=_dataset(facts),
            dataset_name=_dataset(facts),
            dataset_split=results.get("split"),
            metric_type=key,
            metric_name=name,
            metric_value=round(results[key], 4),
            metric_args={key: results[key] for key in ("protocol", "caution") if key in results},
        )
        for key, name in _METRICS.items()
        if key in results
    ]


def _introduction(facts: CardFacts) -> Iterator[str]:
    config = facts.config
    names = [config.id2label[index] for index in sorted(config.id2label)]
    shown = [plain(name) for name in names[:_MOST_CLASSES_LISTED]]
    listed = ", ".join([*shown, *(["..."] if len(names) > len(shown) else [])])
    yield (
        f"A semantic-segmentation model for {len(names)} classes ({listed}): {architecture(config)}. "
        f"Made with kaseg, after *Knowledge Adaptation for Efficient Semantic Segmentation* ([He et al., CVPR 2019]"
        f"({PAPER})). {_how_taught(facts)}"
    )
    if facts.picture:
        yield f"![An image and the mask that the model gives]({facts.picture})"
    yield f"## Use\n\n{_USAGE.format(model_id=json.dumps(facts.model_id, ensure_ascii=False))}"


def architecture(config: KASegConfig) -> str:
    """Encoder, output stride and head in words."""
    head = _HEADS.get(config.head, f"the head `{config.head}`")
    return f"encoder `{config.backbone}` (timm) at output stride {config.output_stride} with {head}"


def _how_taught(facts: CardFacts) -> str:
    if not facts.adapted:
        return "It learns from the labels alone." if facts.loss else ""
    teacher = code(facts.teacher.name) if facts.teacher else "its teacher"
    return (
        f"It learns from the labels and from the features of {teacher}. Teacher and adapters are not part of it: it "
        "costs what its plain twin costs."
    )


def _scores(facts: CardFacts) -> Iterator[str]:
    if not facts.has_scores:
        yield "## Scores\n\nNone are known yet."
        return
    results = facts.results
    step = "step that scored best on this split" if facts.settings.get("load_best_model_at_end") else "last step"
    yield (
        f"## Scores\n\n{plain(_dataset(facts))}, split {plain(results.get('split') or 'not stated')}: "
        f"{results['protocol']}. One run each, scored at its {step}."
    )
    header = ("model", "mean IoU (%)", "parameters (M)", "GFLOPs at 513x513", "seed", "steps")
    compared = [_row(plain(name), other) for name, other in facts.compared.items()]
    yield table(header, [_row(f"**{plain(facts.name)}**", results), *compared])
    if results.get("caution"):
        yield f"**Mind:** {results['caution']}"
    if facts.adapted and len(facts.compared) < 2:
        yield (
            "The table lacks the teacher or the plain twin (same student, recipe, seed and steps, no teacher), so the "
            "score does not say whether adaptation helped."
        )
    if results.get("per_category_iou"):
        classes = [(plain(label), _percent(value)) for label, value in results["per_category_iou"].items()]
        yield table(("class", "IoU (%)"), classes)


def _row(name: str, results: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        name,
        _percent(results["mean_iou"]),
        millions(results["parameters"]),
        billions(results["gflops_513x513"]),
        results["seed"],
        results["steps"],
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _cost(results: Mapping[str, Any]) -> Iterator[str]:
    text = f"## Cost\n\n{in_words(results)} for one image of 513x513 pixels (2 x multiply-adds)."
    if latency := results.get("latency"):
        text += (
            f" {latency['milliseconds']:.1f} ms for one image of {latency['height']}x{latency['width']} pixels in "
            f"{latency['dtype']} (median of {latency['repeats']} passes) on {latency['hardware']}."
        )
    yield text


def _training(facts: CardFacts) -> Iterator[str]:
    results = facts.results
    yield "## Training"
    if facts.command:
        yield f"```bash\n{facts.command}\n```"
    yield _duration(results)
    if decay := facts.settings.get("ema_decay"):
        yield f"The model is the exponential moving average of the weights, with a decay of {decay:g}."
    if facts.loss:
        weights = {name: w if isinstance(w, str) else f"{w:g}" for name, w in facts.loss.items()}
        terms = " + ".join(f"{weight} x {name}".removeprefix("1 x ") for name, weight in weights.items())
        yield f"Loss: {terms.replace('_', '-')}."
    # Data and teacher are named below; in a recipe they may be paths on the machine that trained.
    settings = {name: value for name, value in facts.settings.items() if name not in ("dataset", "teacher")}
    if settings:
        rows = [(code(name), code(value)) for name, value in settings.items()]
        yield "Settings that differ from kaseg's defaults:\n\n" + table(("setting", "value"), rows)
    if versions := results.get("versions"):
        yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."


def _duration(results: Mapping[str, Any]) -> str:
    """Steps, epochs, time and machine; of a run that was resumed only the last part's time is known."""
    text = f"{results['steps']} {'step' if results['steps'] == 1 else 'steps'}"
    if results.get("epochs"):
        text += f" ({results['epochs']:.3g} epochs)"
    if "train_seconds" in results:
        minutes = f"{results['train_seconds'] / 60:.0f} minutes"
        first = results.get("train_seconds_from_step")
        text += f", the last {results['steps'] - first} of them in {minutes}," if first else f" in {minutes}"
    return f"{text} on {results['hardware']}, seed {results['seed']}."


def _sources(facts: CardFacts) -> Iterator[str]:
    data, teacher = facts.data, facts.teacher
    name = f"[{plain(data.name)}]({data.homepage})" if data.homepage else plain(data.name) or "not stated"
    lines = [f"- Training data: {name}. Licence: {data.licence or 'not stated'}. {data.citation}".rstrip()]
    if teacher:
        lines.append(f"- Teacher: {code(teacher.name)}. Licence: {teacher.licence or 'not stated'}.")
    for field, part in (("model", "Weights"), ("encoder_from", "Encoder")):
        if start := facts.settings.get(field):
            lines.append(f"- {part} before training: those of {code(start)}, which has a licence of its own.")
    lines.append("- The weights are under the licence of the training data; the code of kaseg is Apache-2.0.")
    yield "## Data and licences\n\n" + "\n".join(lines)


def _dataset(facts: CardFacts) -> str:
    """What the scores were taken on."""
    return DataSource.named(facts.results.get("dataset") or "").name or "a data set that is not named"
