import pytest
from toy import ka_trainer

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
