import math

import pytest

from kaseg import KnowledgeAdaptationConfig
from kaseg.model_card.settings import loss_weights
from kaseg.trainer.adapter_trainer import adapter_arguments
from kaseg.trainer.autoencoder_trainer import autoencoder_arguments


def _config(tmp_path, **fields) -> KnowledgeAdaptationConfig:
    return KnowledgeAdaptationConfig(output_dir=str(tmp_path), use_cpu=True, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adaptation_weight": "automatic"}, "adaptation_weight must be a float, got 'automatic'"),
        ({"affinity_weight": math.nan}, "affinity_weight must be a number of at least 0 or auto"),
        ({"adaptation_weight": -1.0}, "adaptation_weight must be a number of at least 0"),
        ({"distillation_losses": {"hint": {"weight": 1.0, "share": 0.5}}}, "share belongs to a weight of auto"),
        ({"distillation_losses": {"hint": {"weight": "auto", "share": 0}}}, "hint: share must be a positive number"),
        ({"balanced_share": 0.2}, "balanced_share would change nothing, as no term has a weight of auto"),
        ({"balanced_every": 5, "balanced_decay": 0.5}, "balanced_every, balanced_decay would change nothing"),
        ({"adaptation_weight": "auto", "balanced_share": -1.0}, "balanced_share must be a positive number"),
        ({"adaptation_weight": "auto", "balanced_every": 0}, "balanced_every must be at least 1"),
        ({"adaptation_weight": "auto", "balanced_decay": 1.0}, "balanced_decay must be at least 0 and below 1"),
        ({"adapter_warmup_steps": -1}, "adapter_warmup_steps must not be negative"),
        ({"autoencoder_learning_rate": float("inf")}, "autoencoder_learning_rate must not be negative, infinite"),
        ({"adapter_warmup_optim": "sgd"}, "adapter_warmup_optim would change nothing, as adapter_warmup_steps is 0"),
        ({"adapter_warmup_learning_rate": 0.1}, "adapter_warmup_learning_rate would change nothing"),
        ({"adapter_warmup_steps": 5, "adapter_warmup_learning_rate": 0.0}, "adapter_warmup_learning_rate must be"),
        (
            {
                "adapter_warmup_steps": 5,
                "adaptation_weight": 0.0,
                "affinity_weight": 0.0,
                "distillation_losses": {"dist": 1.0},
            },
            "adapter_warmup_steps fits adapters, but no term has one",
        ),
        ({"teacher_output_stride": 12}, r"teacher_output_stride must be one of \(4, 8, 16, 32\), got 12"),
        ({"adaptation_form": "chanel"}, "adaptation_form must be one of .*channel.*, got 'chanel'"),
        ({"adaptation_form": "channel", "adaptation_weight": 0.0}, "changes nothing with an adaptation_weight of 0"),
        ({"adaptation_form": "channel", "adaptation_p": 2.0}, "adaptation_p and adaptation_q are norms of"),
        ({"adaptation_form": "whitened", "adaptation_q": 1.0}, "'whitened' has none"),
        *(({"labelled_share": s}, "labelled_share must be from 0.01 to 0.99") for s in (0.0, 1e-9, 1.0, math.nan)),
        ({"correct_teacher": True}, "correct_teacher would change nothing, as no term reads"),
        (
            {"correct_teacher": True, "distillation_losses": {"dist": {"weight": 1.0, "images": "unlabelled"}}},
            "no term reads the teacher.s logits of images with masks",
        ),
        ({"latent_channels": 0}, "latent_channels must be at least 1"),
        ({"distillation_schedule": "step"}, "distillation_schedule must be one of .*linear"),
        ({"distillation_class_weights": True}, "distillation_class_weights .*there are none"),
        ({"autoencoder_class_weights": True}, "autoencoder_class_weights .*there are none"),
        ({"teacher_view": "whole"}, "teacher_view must be one of"),
        ({"teacher_maps_dir": "maps"}, "teacher_maps_dir would change nothing"),
        ({"teacher_logits_stride": 4}, "teacher_logits_stride would change nothing, as teacher_view is 'crop'"),
        ({"teacher_logits_stride": 4, "teacher_view": "image"}, "teacher_logits_stride .*no term reads the teacher's"),
        ({"teacher_logits_stride": 3, "teacher_view": "image"}, "teacher_logits_stride must be one of .*1, 2, 4, 8"),
        ({"teacher_view": "image", "mix": "cutmix"}, "leave mix out, or teacher_view"),
        ({"mix": "mosaic"}, "mix must be one of"),
        ({"mix": "cutmix", "mix_probability": 2.0}, "mix_probability must be over 0"),
        ({"mix": "cutmix", "mix_of": "some"}, "mix_of must be one of"),
        ({"mix": "cutmix", "per_device_train_batch_size": 1}, "per_device_train_batch_size must be at least 2"),
        ({"mix_probability": 1.0}, "mix_probability would change nothing, as mix is not set"),
        ({"mix_of": "unlabelled"}, "mix_of would change nothing, as mix is not set"),
        ({"crop_size": [0, 5]}, "crop_size"),
        ({"min_scale": 2.0, "max_scale": 1.0}, "min_scale"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"backbone_learning_rate_scale": -1.0}, "backbone_learning_rate_scale"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate must not be negative, infinite or NaN"),
        *(({"class_weights": weights}, "need two positive numbers") for weights in ([0.0, 0.0], [0.0, 2.0], [])),
        *(({"class_weights": [1.0, w]}, "class_weights must be numbers from 0") for w in (-1.0, math.nan, math.inf)),
        *(({"ema_decay": decay}, "ema_decay must be above 0 and below 1") for decay in (0.0, 1.0, -0.5, 2.0, math.nan)),
    ],
)
def test_bad_values_are_refused(tmp_path, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(tmp_path, **fields)


def test_the_stages_take_what_belongs_to_the_students_adam(tmp_path) -> None:
    """The autoencoder is fitted by SGD, which refuses options of Adam where a user sets both."""
    config = _config(tmp_path, optim="adamw_torch", adam_beta2=0.99, adam_epsilon=1e-6, adapter_warmup_steps=2)
    stage = autoencoder_arguments(config, steps_per_epoch=5)
    assert (stage.optim, stage.optim_args, stage.adam_beta2) == ("sgd", "momentum=0.9", 0.999)
    assert adapter_arguments(config).adam_beta2 == 0.99  # it is fitted by AdamW as well
    config = _config(tmp_path, optim_args="momentum=0.5", adapter_warmup_steps=2)
    stages = autoencoder_arguments(config, steps_per_epoch=5), adapter_arguments(config)
    # What the student's SGD is given stays with it.
    assert [stage.optim_args for stage in stages] == ["momentum=0.9", None]


def test_weights_of_auto_in_every_form(tmp_path) -> None:
    losses = {"knowledge_distillation": "auto", "hint": {"weight": "AUTO", "share": "0.2"}, "dist": 1.0}
    config = _config(tmp_path, adaptation_weight=" Auto", affinity_weight="2", distillation_losses=losses)
    assert (config.adaptation_weight, config.affinity_weight) == ("auto", 2.0)
    assert config.balanced_shares == {"adaptation": 0.5, "knowledge_distillation": 0.5, "hint": 0.2}
    auto = dict.fromkeys(("adaptation", "knowledge_distillation", "hint"), "auto")
    assert loss_weights(vars(config)) == {"cross_entropy": 1.0, "affinity": 2.0, "dist": 1.0, **auto}
