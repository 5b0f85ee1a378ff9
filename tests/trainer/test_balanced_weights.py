"""Weights of `auto` in KnowledgeAdaptationTrainer."""

import pytest
import torch
from torch.nn import functional as F
from toy import ka_trainer, logged_steps, make_autoencoder, make_model, make_steady_model, split

from kaseg import KnowledgeAdaptationTrainer
from kaseg.distillation.losses import AffinityLoss, KnowledgeDistillationLoss

# No BatchNorm in their adapters, which would see other statistics in smaller batches.
TERMS = {"adaptation_weight": 0.0, "affinity_weight": "auto", "distillation_losses": {"knowledge_distillation": "auto"}}


def _trainer(output_dir, model=None, **fields) -> KnowledgeAdaptationTrainer:
    return ka_trainer(output_dir, model or make_steady_model(), autoencoder=make_autoencoder(), **{**TERMS, **fields})


def _step(trainer: KnowledgeAdaptationTrainer, batch: dict) -> torch.Tensor:
    trainer.model.train()
    return trainer.compute_loss(trainer.model, batch)


def test_the_norms_are_those_at_the_tapped_map(tmp_path) -> None:
    """Against backward passes from a map that is cut off the encoder; a share of its own goes before the default."""
    own = {"knowledge_distillation": {"weight": "auto", "share": 0.1}}
    trainer = _trainer(tmp_path, distillation_losses=own, balanced_share=0.3)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = _step(trainer, batch)
    student, images, labels = trainer.student, batch["pixel_values"], batch["labels"]
    with torch.no_grad():
        tapped = student(images, output_hidden_states=True).hidden_states[-1]
        teacher = trainer.teacher(images)
        code = trainer.autoencoder.encode(teacher.features)
    norms = []
    for which in ("labels", "affinity", "knowledge_distillation"):
        leaf = tapped.clone().requires_grad_()
        logits = student.classifier(leaf)
        if which == "labels":
            scores = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
            value = F.cross_entropy(scores, labels, ignore_index=255)
            assert loss.item() == pytest.approx(value.item(), rel=1e-5)  # the first step measures
        elif which == "affinity":
            value = AffinityLoss()(trainer.model.terms["affinity"].adapter(leaf), code)
        else:
            value = KnowledgeDistillationLoss()(
                F.interpolate(logits, teacher.logits.shape[-2:], mode="bilinear", align_corners=False), teacher.logits
            )
        value.backward()
        norms.append(leaf.grad.double().norm().item())
    weights = trainer.model.balance.weights()
    assert weights["affinity"].item() == pytest.approx(0.3 * norms[0] / norms[1], rel=1e-4)
    assert weights["knowledge_distillation"].item() == pytest.approx(0.1 * norms[0] / norms[2], rel=1e-4)


def test_the_same_for_any_split_of_the_batch_and_any_optimizer(tmp_path) -> None:
    norms = []
    for batch, accumulation, optim in ((4, 1, "sgd"), (2, 2, "adamw_torch")):
        trainer = _trainer(tmp_path / str(batch), optim=optim, max_steps=1, **split(batch, accumulation))
        trainer.train()
        norms.append(trainer.model.balance.norms)
    assert (norms[0] > 0).all()
    torch.testing.assert_close(norms[0], norms[1], rtol=2e-3, atol=0)


def test_the_weights_are_used_and_logged_and_follow_the_schedule(tmp_path) -> None:
    trainer = _trainer(tmp_path, balanced_every=2, distillation_schedule="linear")
    trainer.train()
    logged = logged_steps(trainer)
    assert len(logged) == 4
    for entry in logged:
        names = ("affinity", "knowledge_distillation")
        distilled = sum(entry[f"weight/{name}"] * entry[f"distillation/{name}"] for name in names)
        # Terms are logged to six places.
        assert entry["loss"] == pytest.approx(entry["distillation/cross_entropy"] + distilled, rel=1e-3)
    weights = [entry["weight/affinity"] for entry in logged]
    assert weights[0] == 0 < weights[2] and weights[2] == pytest.approx(weights[1] * 0.5 / 0.75)
    assert weights[3] != pytest.approx(weights[2] * 0.25 / 0.5, rel=1e-6)  # measured again in the third step


def test_batches_that_say_nothing_leave_the_weights_as_they_are(tmp_path) -> None:
    trainer = _trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    without = {**batch, "labels": torch.full_like(batch["labels"], 255)}
    assert _step(trainer, without).item() == 0 and not trainer.model.balance.norms.any()
    _step(trainer, batch)
    before = trainer.model.balance.norms.clone()
    loss = _step(trainer, without)
    assert torch.equal(trainer.model.balance.norms, before) and before.all()
    assert loss.isfinite() and loss > 0  # the terms teach without labels


@pytest.mark.parametrize("tap, bf16", [(-1, True), (1, False)])
def test_images_that_are_padded_maps_of_the_encoder_and_bfloat16(tmp_path, tap: int, bf16: bool) -> None:
    model = make_model(pad_to_stride=True, classifier_dropout_prob=0.0)
    trainer = _trainer(tmp_path, model, student_tap=tap, crop_size=[33, 41], bf16=bf16, max_steps=1)
    trainer.train()
    norms = trainer.model.balance.norms
    assert norms.isfinite().all() and (norms > 0).all()


@pytest.mark.slow
def test_a_compiled_student_is_measured_too(tmp_path) -> None:
    fields = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 1}
    compiled, plain = _trainer(tmp_path / "compiled", **fields), _trainer(tmp_path / "plain", max_steps=1)
    for trainer in (compiled, plain):
        trainer.train()
    torch.testing.assert_close(compiled.model.balance.norms, plain.model.balance.norms, rtol=1e-3, atol=0)
