from __future__ import annotations

import pytest
from toy import arguments, ka_trainer

from kaseg import KnowledgeAdaptationConfig
from kaseg.distillation.losses import AdaptationLoss, PearsonLoss, WhitenedLoss


@pytest.mark.parametrize(
    ("form", "loss"), [("position", AdaptationLoss), ("channel", PearsonLoss), ("whitened", WhitenedLoss)]
)
@pytest.mark.parametrize("use_autoencoder", [True, False])
def test_the_form_is_that_of_the_arguments(tmp_path, form: str, loss: type, use_autoencoder: bool) -> None:
    trainer = ka_trainer(tmp_path, use_autoencoder=use_autoencoder, adaptation_form=form)
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
