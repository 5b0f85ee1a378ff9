from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from toy import arguments, make_dataset, make_model, make_teacher, states_equal

from kaseg import KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.distillation import FeatureAutoencoder, FeatureAutoencoderConfig
from kaseg.distillation.losses import AdaptationLoss, PearsonLoss, WhitenedLoss


def _trainer(output_dir, **fields) -> KnowledgeAdaptationTrainer:
    torch.manual_seed(0)  # one and the same autoencoder
    fields = {"adaptation_weight": 5.0, "affinity_weight": 0.0, **fields}
    return KnowledgeAdaptationTrainer(
        make_model(),
        make_teacher(),
        KnowledgeAdaptationConfig(**arguments(output_dir, **fields)),
        autoencoder=FeatureAutoencoder(FeatureAutoencoderConfig(in_channels=32, latent_channels=8)),
        train_dataset=make_dataset(),
    )


@pytest.mark.parametrize("form", ["channel", "whitened"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, form: str) -> None:
    fields = dict(adaptation_form=form, max_steps=4, save_strategy="steps", save_steps=2)
    whole = _trainer(tmp_path, **fields)
    whole.train()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    resumed = _trainer(tmp_path, **fields)
    torch.manual_seed(99)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4 and states_equal(before, resumed.model.state_dict())
    saved = load_file(tmp_path / "checkpoint-2" / "adapters.safetensors")
    assert (form == "whitened") == ("terms.adaptation.loss.whitener" in saved)
    if form == "whitened":
        assert saved["terms.adaptation.loss.batches"] == 2 and before["terms.adaptation.loss.batches"] == 4


@pytest.mark.parametrize(
    ("form", "loss"), [("position", AdaptationLoss), ("channel", PearsonLoss), ("whitened", WhitenedLoss)]
)
@pytest.mark.parametrize("use_autoencoder", [True, False])
def test_the_form_is_that_of_the_arguments(tmp_path, form: str, loss: type, use_autoencoder: bool) -> None:
    trainer = _trainer(tmp_path, use_autoencoder=use_autoencoder, adaptation_form=form)
    term = trainer.model.terms["adaptation"]
    assert type(term.loss) is loss
    if loss is WhitenedLoss:
        assert len(term.loss.mean) == (8 if use_autoencoder else 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adaptation_form": "chanel"}, "adaptation_form must be one of .*channel.*, got 'chanel'"),
        ({"adaptation_form": "channel", "adaptation_weight": 0.0}, "changes nothing with an adaptation_weight of 0"),
        ({"adaptation_form": "channel", "adaptation_p": 2.0}, "adaptation_p and adaptation_q are norms of"),
        ({"adaptation_form": "whitened", "adaptation_q": 1.0}, "'whitened' has none"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeAdaptationConfig(**arguments(tmp_path, **fields))
