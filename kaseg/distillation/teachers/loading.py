"""Teachers from a Hub id, a folder or a shipped name: network, normalization and what else its forward pass needs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES

from kaseg.checkpoints import resolve
from kaseg.distillation.teachers.normalization import normalization_of_smp
from kaseg.loading_errors import CheckpointError, explained_loading, require_all_weights
from kaseg.pixels import Normalization

_SMP_CLASS = "_model_class"
_SMP_FILES = ["config.json", "model.safetensors"]


@dataclass
class LoadedTeacher:
    """A network with its own normalization, `None` if that is not known, and further arguments of its forward pass."""

    model: nn.Module
    normalization: Normalization | None = None
    model_inputs: dict[str, torch.Tensor] = field(default_factory=dict)


def load_teacher(name_or_path: str) -> LoadedTeacher:
    """Load any semantic or universal segmentation model of transformers, or one that segmentation_models.pytorch has
    saved. Safetensors alone are read, as float32, and no code of a repository is run.

    Raises:
        OSError: no such model, no right to read it, no network, damaged or no safetensors weights or not all of them,
            or no processor that says how the model's images are normalized.
        ValueError: a model of another kind.
        ImportError: segmentation_models.pytorch is needed and not installed.
    """
    name = resolve(name_or_path)
    with explained_loading(name):
        config, _ = PreTrainedConfig.get_config_dict(name)
        if _SMP_CLASS in config:
            return _load_smp(name, config)
        return _load_transformers(name, config)


def check_usable(model: nn.Module, model_inputs: Mapping[str, torch.Tensor] | None) -> None:
    """Raises a ValueError if a network cannot teach; the message says what to do."""
    if getattr(getattr(model, "config", None), "model_type", None) == "oneformer" and not model_inputs:
        raise ValueError(
            "OneFormer is told its task with every image: pass model_inputs={'task_inputs': tokens}, the tokens that "
            "its OneFormerProcessor makes of task_inputs=['semantic'], or give its Hub id or folder."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "The teacher is a TorchScript module, whose inner maps cannot be read: pass the Python network that it was "
            "made of."
        )
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "The teacher's weights were made under torch.inference_mode(), where tensors cannot take part in training: "
            "build or load it outside of it (torch.no_grad() is fine)."
        )


def _load_transformers(name: str, config: dict[str, Any]) -> LoadedTeacher:
    kind = config.get("model_type")
    if kind is None:
        raise ValueError(
            f"{name}/config.json has no model_type, so it is no model of transformers, nor one saved by "
            "segmentation_models.pytorch. Build the network yourself, load its weights, and pass it as teacher."
        )
    universal = kind in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES
    auto_class = AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation
    # OneFormer's text branch only serves its training.
    options: dict[str, Any] = {"is_training": False} if kind == "oneformer" else {}
    options |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    model = require_all_weights(auto_class.from_pretrained(name, dtype=torch.float32, **options), name)
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} has no image processor (preprocessor_config.json), so the mean and standard deviation that it "
            "expects are not known. Load the model yourself and wrap it: TeacherAdapter(model, image_mean=..., "
            f"image_std=..., student_mean=..., student_std=...). ({str(error).strip().partition(chr(10))[0]})"
        ) from error
    inputs = {"task_inputs": _task_tokens(name, model.config.task_seq_len)} if kind == "oneformer" else {}
    return LoadedTeacher(model, Normalization.of_processor(processor), inputs)


def _task_tokens(name: str, length: int) -> torch.Tensor:
    """OneFormer is told its task in words; padding counts as 0 (Jain et al. 2023, as in `OneFormerProcessor`)."""
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    tokens = tokenizer(
        "the task is semantic", padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return tokens["input_ids"] * tokens["attention_mask"]


def _load_smp(name: str, config: dict[str, Any]) -> LoadedTeacher:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError(
            f"{name} is a model of segmentation_models.pytorch: pip install segmentation-models-pytorch."
        ) from error
    # Only these files: where weights are not safetensors, its own loader would go on to a pickle.
    folder = Path(name) if os.path.isdir(name) else Path(snapshot_download(name, allow_patterns=_SMP_FILES))
    if not (folder / "model.safetensors").is_file():
        raise OSError(f"{name} holds no model.safetensors")
    # The encoder's ImageNet weights would be fetched only to be overwritten.
    model = smp.from_pretrained(folder, encoder_weights=None)
    return LoadedTeacher(model, normalization_of_smp(config["encoder_name"], config.get("encoder_weights")))
