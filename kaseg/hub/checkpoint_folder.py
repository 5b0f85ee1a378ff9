"""From a finished run to the folder that a Hub repository holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from kaseg.checkpoints import NAMESPACE
from kaseg.data import SPECS
from kaseg.finite import require_finite_tensors
from kaseg.image_processing_kaseg import KASegImageProcessor
from kaseg.model_card import CardFacts, DataSource, TeacherSource, render_card
from kaseg.model_card.published_files import RECIPE_NAME
from kaseg.model_card.results import RESULTS_NAME, read_results
from kaseg.model_card.settings import loss_weights, public_settings
from kaseg.model_card.sources import CARD_NAME
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer import KnowledgeAdaptationConfig, SegmentationConfig
from kaseg.writing import write_json


def write_checkpoint_folder(
    run_dir: str | Path,
    folder: str | Path,
    command: str,
    beside: Mapping[str, str | Path] | None = None,
    remarks: Sequence[str] = (),
) -> Path:
    """Writes config, float16 weights, processor, recipe, results and card of a finished run; returns the folder.

    `config.json` names float32, so the weights load as float32 whatever they are stored in. The license is that of the
    training data.

    Args:
        run_dir (`str` or `Path`): `output_dir` of a run that is finished (it holds `results.json`).
        folder (`str` or `Path`): Where to; its name becomes the checkpoint's name.
        command (`str`): The command that makes the run again, for the card.
        beside (`Mapping[str, str | Path]`, *optional*): Other finished runs by name, shown in the card's table: a
            distilled score never stands without its teacher and its plain twin.
        remarks (`Sequence[str]`, *optional*): Further paragraphs of the card.

    Raises:
        FileNotFoundError: a run is not finished.
        ValueError: an adapted model without other runs beside it, runs that were scored on other data, or a dataset
            whose license is not known; weights that are not finite, or too large for float16.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    results = read_results(run_dir)
    results["recipe"] = public_settings(results["recipe"])
    compared = {name: read_results(path) for name, path in (beside or {}).items()}
    if "teacher" in results["recipe"] and len(compared) < 2:
        raise ValueError("An adapted model is only shown beside its teacher and its plain twin: name both runs.")
    if results["dataset"] not in SPECS:
        raise ValueError(f"The license of dataset {results['dataset']!r} is not known; add it to kaseg.data.SPECS.")
    model = KASegModel.from_pretrained(run_dir)
    # BatchNorm counts batches in integers; everything else is halved.
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    require_finite_tensors(weights, f"The model of {run_dir.name} in float16")
    card = render_card(_facts(folder.name, model, results, compared, command, remarks))
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = torch.float32
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    KASegImageProcessor.from_pretrained(run_dir).save_pretrained(folder)
    weights_file = folder / "model.safetensors"
    save_file(weights, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / RECIPE_NAME).write_text(yaml.safe_dump(results["recipe"], sort_keys=False))
    licensed = {"license": SPECS[results["dataset"]].license, **results}
    write_json(folder / RESULTS_NAME, licensed)
    card.save(folder / CARD_NAME)
    return folder


def _facts(
    name: str,
    model: KASegModel,
    results: dict[str, Any],
    compared: dict[str, dict[str, Any]],
    command: str,
    remarks: Sequence[str],
) -> CardFacts:
    recipe = results["recipe"]
    kind = KnowledgeAdaptationConfig if "teacher" in recipe else SegmentationConfig
    # Fields without a default value (those that are made anew, such as mappings) are empty unless the recipe has them.
    defaults = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    return CardFacts(
        name=name,
        model_id=f"{NAMESPACE}/{name}",
        config=model.config,
        results=results,
        data=DataSource.named(results["dataset"]),
        loss=loss_weights({**defaults, **recipe}),
        settings=recipe,
        teacher=TeacherSource.of(recipe["teacher"]) if "teacher" in recipe else None,
        compared=compared,
        command=command,
        remarks=("The weights are stored in float16 and load as float32.", *remarks),
    )
