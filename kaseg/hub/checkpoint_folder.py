"""From a finished run to the folder that a Hub repository holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors.torch import save_file

from kaseg.checkpoints import NAMESPACE
from kaseg.data import SPECS
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.modeling_kaseg import KASegModel

PAPER = "https://arxiv.org/abs/1903.04688"


def write_checkpoint_folder(
    run_dir: str | Path, folder: str | Path, command: str, beside: Mapping[str, str | Path] | None = None
) -> Path:
    """Write config, float16 weights, processor, recipe, results and card of a finished run.

    `config.json` names float32, so the weights load as float32 whatever they are stored in. The licence is that of the
    training data.

    Args:
        run_dir (`str` or `Path`): `output_dir` of a run that is finished (it holds `results.json`).
        folder (`str` or `Path`): Where to; its name becomes the checkpoint's name.
        command (`str`): The command that makes the run again, for the card.
        beside (`Mapping[str, str | Path]`, *optional*): Other finished runs by name, shown in the card's table: a
            distilled score never stands without its teacher and its plain twin.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: a run is not finished.
        ValueError: an adapted model without other runs beside it, or a dataset whose licence is not known.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    results = _results(run_dir)
    compared = {name: _results(Path(path)) for name, path in (beside or {}).items()}
    if "teacher" in results["recipe"] and len(compared) < 2:
        raise ValueError("An adapted model is only shown beside its teacher and its plain twin: name both runs.")
    if results["dataset"] not in SPECS:
        raise ValueError(f"The licence of dataset {results['dataset']!r} is not known; add it to kaseg.data.SPECS.")
    folder.mkdir(parents=True, exist_ok=True)
    model = KASegModel.from_pretrained(run_dir)
    model.config.dtype = torch.float32
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    KASegImageProcessor.from_pretrained(run_dir).save_pretrained(folder)
    # BatchNorm counts batches in integers; everything else is halved.
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    weights_file = folder / "model.safetensors"
    save_file(weights, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors leaves it to its owner alone
    # Not the run's own recipe: where things lay on the machine that trained is nobody's concern.
    (folder / "recipe.yaml").write_text(yaml.safe_dump(results["recipe"], sort_keys=False))
    licensed = {"license": SPECS[results["dataset"]].licence, **results}
    (folder / "results.json").write_text(json.dumps(licensed, indent=2) + "\n")
    _card(folder.name, results, compared, command).save(folder / "README.md")
    return folder


def _results(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {run_dir} is not a finished run.")
    return json.loads(path.read_text())


def _card(name: str, results: dict[str, Any], compared: dict[str, dict[str, Any]], command: str) -> ModelCard:
    spec = SPECS[results["dataset"]]
    data = ModelCardData(
        license=spec.licence.lower(),
        library_name="kaseg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "knowledge-distillation"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                task_name="Semantic Segmentation",
                dataset_type=spec.name,
                dataset_name=spec.name,
                dataset_split=results["split"],
                metric_type="mean_iou",
                metric_name="mean IoU",
                metric_value=round(results["mean_iou"], 4),
            )
        ],
    )
    rows = [f"| **{name}** {_row(results)}"] + [f"| {other} {_row(scores)}" for other, scores in compared.items()]
    classes = [f"| {label} | {100 * value:.1f} |" for label, value in results["per_category_iou"].items()]
    text = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        f"A semantic-segmentation model made with kaseg, after [He et al., CVPR 2019]({PAPER}).",
        "```python\nfrom kaseg import KASegImageProcessor, KASegModel\n\n"
        f'model = KASegModel.from_pretrained("{NAMESPACE}/{name}")\n'
        f'processor = KASegImageProcessor.from_pretrained("{NAMESPACE}/{name}")\n```',
        f"## Scores\n\n{spec.name} {results['split']}, {results['protocol']}; one run each, last step, no selection.",
        "\n".join(
            [
                "| model | mean IoU (%) | parameters (M) | GFLOPs at 513x513 | seed | steps |",
                "|---|---|---|---|---|---|",
                *rows,
            ]
        ),
        "| class | IoU (%) |\n|---|---|\n" + "\n".join(classes),
        f"## Training\n\n```bash\n{command}\n```\n\n{results['steps']} steps ({results['epochs']:.0f} epochs)"
        f"{_time(results)} on {results['hardware']}. The settings are in `recipe.yaml`, "
        "scores and losses in `results.json`.",
        f"## Licence\n\n{spec.licence}, as the training data ([{spec.name}]({spec.homepage})): {spec.citation} "
        "The weights are stored in float16 and load as float32.",
    ]
    return ModelCard("\n\n".join(text) + "\n")


def _time(results: dict[str, Any]) -> str:
    """How long it took; of a run that was resumed only the last part is known."""
    minutes = f"{results['train_seconds'] / 60:.0f} minutes"
    first = results["train_seconds_from_step"]
    return f", the last {results['steps'] - first} of them in {minutes}," if first else f" in {minutes}"


def _row(results: dict[str, Any]) -> str:
    return (
        f"| {100 * results['mean_iou']:.1f} | {results['parameters'] / 1e6:.2f} | {results['gflops_513x513']:.2f} | "
        f"{results['seed']} | {results['steps']} |"
    )
