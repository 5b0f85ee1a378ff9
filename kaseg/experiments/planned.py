"""The models that a family of runs is a recipe for, before they are trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from kaseg.configuration_kaseg import KASegConfig
from kaseg.data import SPECS, get_label_space
from kaseg.evaluation.cost import describe_cost
from kaseg.experiments.comparison import Comparison
from kaseg.experiments.recipe import ModelArguments, build_arguments
from kaseg.modeling_kaseg import KASegModel
from kaseg.trainer.options import fields_for


def planned_models(file: str | Path) -> dict[str, tuple[KASegConfig, dict[str, Any]]]:
    """The teacher, if one is trained, and the students of a family on a named dataset, such as `hub_configs/voc.yaml`:
    name -> config, and dataset, license and cost as in `results.json`. The cost is left out where the encoder is that
    of another checkpoint (`encoder_from`). A ValueError if the file is no family of runs."""
    file = Path(file)
    fields = {run.student: run.fields for run in Comparison(**yaml.safe_load(file.read_text())).runs("")}
    return {name: _planned(model_fields, file) for name, model_fields in fields.items()}


def _planned(fields: Mapping[str, Any], file: Path) -> tuple[KASegConfig, dict[str, Any]]:
    (model_args,) = build_arguments((ModelArguments,), fields)
    spec = SPECS[fields["dataset"]]
    names = fields.get("label_space")
    # A recipe names a file of class names from the folder that hub_configs/ lies in.
    beside = file.parent.parent / str(names)
    classes = get_label_space(spec.name, label_space=beside if names and beside.is_file() else names)
    config = KASegConfig(**fields_for(KASegConfig, model_args), id2label=classes.id2label, label2id=classes.label2id)
    facts = {"dataset": spec.name, "license": spec.license}
    if model_args.encoder_from is None:
        # Shapes are enough: no memory for weights, no download.
        with torch.device("meta"):
            facts |= describe_cost(KASegModel(config))
    return config, facts
