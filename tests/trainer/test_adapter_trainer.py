import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from toy import ALONE, copy_state, ka_trainer, make_autoencoder, states_equal

from kaseg import KnowledgeAdaptationTrainer
from kaseg.distillation.losses import AffinityLoss
from kaseg.trainer.adapter_trainer import AdapterTrainer


def _trainer(output_dir, **fields) -> KnowledgeAdaptationTrainer:
    return ka_trainer(output_dir, autoencoder=make_autoencoder(), **{"adapter_warmup_steps": 3, **fields})


@pytest.mark.parametrize("bf16", [False, True])
def test_the_adapters_alone_are_fitted(tmp_path, bf16: bool) -> None:
    losses = {"hint": 1.0, "knowledge_distillation": 1.0}
    trainer = _trainer(tmp_path, distillation_losses=losses, bf16=bf16)
    student, teacher = copy_state(trainer.student), copy_state(trainer.teacher)
    adapters = copy_state(trainer.model.terms)
    trainer.fit_adapters()
    assert states_equal(student, trainer.student.state_dict())  # BatchNorm statistics, too
    assert all(p.requires_grad and p.grad is None for p in trainer.student.parameters())
    assert states_equal(teacher, trainer.teacher.state_dict())
    assert [n for n, p in trainer.model.terms.named_parameters() if torch.equal(p, adapters[n])] == []
    assert states_equal(load_file(tmp_path / "adapters/adapters.safetensors"), trainer.model.adapter_state_dict())
    log = json.loads((tmp_path / "adapters/trainer_state.json").read_text())["log_history"]
    logged = [entry for entry in log if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        parts = [value for key, value in entry.items() if key.startswith("adapters/")]
        assert len(parts) == 3 and entry["loss"] == pytest.approx(sum(parts), rel=1e-3)


def test_a_step_is_that_of_the_formula(tmp_path, monkeypatch) -> None:
    """One step of SGD by hand, from maps with the statistics of the batch."""
    fields = {"adapter_warmup_steps": 1, "adapter_warmup_optim": "sgd", "adapter_warmup_learning_rate": 0.2}
    trainer = _trainer(tmp_path, adaptation_weight=0.0, affinity_weight=7.0, weight_decay=0.1, **fields)
    adapter = copy.deepcopy(trainer.model.terms["affinity"].adapter)
    batches, compute_loss = [], AdapterTrainer.compute_loss

    def recorded(self: AdapterTrainer, model: torch.nn.Module, inputs: dict, **kwargs) -> torch.Tensor:
        batches.append(inputs["pixel_values"])
        return compute_loss(self, model, inputs, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "compute_loss", recorded)
    trainer.fit_adapters()
    (images,) = batches
    with torch.no_grad():
        student = copy.deepcopy(trainer.student).train()
        tapped = student(images, output_hidden_states=True).hidden_states[-1]
        code = trainer.autoencoder.encode(trainer.teacher(images).features)
    AffinityLoss()(adapter(tapped), code).backward()
    found, before = trainer.model.terms["affinity"].adapter.conv, adapter.conv
    decayed = before.weight.grad + 0.1 * before.weight
    torch.testing.assert_close(found.weight, before.weight - 0.2 * decayed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias, before.bias - 0.2 * before.bias.grad, rtol=1e-4, atol=1e-5)


def test_the_student_starts_from_the_fitted_adapters_and_a_finished_stage_is_read(tmp_path) -> None:
    first = _trainer(tmp_path, max_steps=1, adapter_learning_rate_scale=0.0)
    first.train()
    fitted = load_file(tmp_path / "adapters/adapters.safetensors")
    assert torch.equal(fitted["terms.affinity.adapter.conv.weight"], first.model.terms["affinity"].adapter.conv.weight)
    modified = (tmp_path / "adapters/adapters.safetensors").stat().st_mtime_ns
    second = _trainer(tmp_path, max_steps=1, adapter_learning_rate_scale=0.0)
    second.train(resume_from_checkpoint=True)
    assert (tmp_path / "adapters/adapters.safetensors").stat().st_mtime_ns == modified
    assert states_equal(first.model.state_dict(), second.model.state_dict())


def test_without_an_adapter_there_is_nothing_to_warm_up(tmp_path) -> None:
    """Student's and teacher's maps have 32 channels each."""
    losses = {"channel_wise": {"weight": 1.0, "source": "features"}}
    with pytest.raises(ValueError, match=r"none of the terms \(channel_wise\) has one here"):
        _trainer(tmp_path, **ALONE, distillation_losses=losses)
