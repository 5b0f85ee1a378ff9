import copy

import pytest
import torch
from toy import ALONE, ka_trainer, make_dataset, make_model, make_steady_model, make_teacher, seg_trainer, split

from kaseg import KnowledgeAdaptationTrainer, SegmentationTrainer
from kaseg.data import BatchMixer


def _plain(output_dir, **fields) -> SegmentationTrainer:
    return seg_trainer(output_dir, make_steady_model(), **fields)


def _taught(output_dir, unlabelled=True, teacher=None, model=None, **fields) -> KnowledgeAdaptationTrainer:
    fields = {**ALONE, "distillation_losses": {"hint": 1.0}, **fields}
    images = make_dataset(10, seed=5) if unlabelled else None
    return ka_trainer(output_dir, model, teacher, unlabelled=images, **fields)


def _divided_teacher(output_dir):
    """A teacher that sees two classes in every image, as one with random weights does not."""
    teacher = make_teacher().eval()
    images = _plain(output_dir).train_dataset
    with torch.no_grad():
        logits = teacher(torch.stack([images[index]["pixel_values"] for index in range(4)])).logits
        teacher.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).median()
    return teacher


def _watched(trainer: SegmentationTrainer) -> list[dict[str, torch.Tensor]]:
    """The batches that reach the loss, in order, once the trainer has run."""
    seen, compute = [], trainer.compute_loss

    def keep(model, inputs, **kwargs):
        seen.append({name: value.clone() for name, value in inputs.items()})
        return compute(model, inputs, **kwargs)

    trainer.compute_loss = keep
    trainer.train()
    return seen


class TestBatches:
    @pytest.mark.parametrize("mix", ["cutmix", "classmix"])
    def test_they_are_mixed_by_step_and_micro_batch_before_labels_are_counted(self, tmp_path, mix: str) -> None:
        fields = {**split(2, 2), "max_steps": 3, "data_seed": 9}
        unmixed = _watched(_plain(tmp_path, **fields))
        trainer = _plain(tmp_path, mix=mix, mix_probability=0.8, **fields)
        mixed = _watched(trainer)
        mixer = BatchMixer(mix, 0.8, seed=9)
        for index, (before, after) in enumerate(zip(unmixed, mixed, strict=True)):
            expected = mixer(before, index // 2, index % 2, 0)
            assert all(torch.equal(expected[name], after[name]) for name in before)
        assert any(
            not torch.equal(before["labels"], after["labels"]) for before, after in zip(unmixed, mixed, strict=True)
        )
        model = make_steady_model()
        with torch.no_grad():
            losses = [model(**batch).loss.item() for batch in mixed[:2]]
        pixels = [batch["labels"].ne(255).sum().item() for batch in mixed[:2]]
        expected = sum(loss * count for loss, count in zip(losses, pixels, strict=True)) / sum(pixels)
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)

    def test_the_teacher_sees_what_the_student_sees(self, tmp_path) -> None:
        trainer = _taught(tmp_path, mix="cutmix", mix_probability=1.0)
        taught: list[torch.Tensor] = []
        trainer.teacher.register_forward_pre_hook(lambda module, args: taught.append(args[0].clone()))
        seen = _watched(trainer)
        assert len(seen) == 4
        assert all(torch.equal(batch["pixel_values"], pixels) for batch, pixels in zip(seen, taught, strict=True))

    def test_of_unlabelled_images_the_classes_are_the_teachers(self, tmp_path) -> None:
        fields = dict(mix="classmix", mix_of="unlabelled", mix_probability=1.0, per_device_train_batch_size=8)
        teacher = _divided_teacher(tmp_path)
        trainer = _taught(tmp_path, teacher=teacher, **fields)
        plain = _taught(tmp_path, teacher=copy.deepcopy(teacher), per_device_train_batch_size=8)

        @torch.no_grad()
        def classes(images: torch.Tensor) -> torch.Tensor:
            logits = teacher(pixel_values=images).logits
            return torch.nn.functional.interpolate(logits, images.shape[-2:], mode="bilinear").argmax(1)

        mixer = BatchMixer("classmix", 1.0, "unlabelled", seed=42)
        changed = 0
        for step, (before, after) in enumerate(zip(_watched(plain), _watched(trainer), strict=True)):
            expected = mixer(before, step, 0, 0, classify=classes)
            assert torch.equal(expected["pixel_values"], after["pixel_values"])
            labelled = before["labels"].ne(255).flatten(1).any(1)
            assert torch.equal(before["pixel_values"][labelled], after["pixel_values"][labelled])
            assert torch.equal(before["labels"], after["labels"])
            changed += (before["pixel_values"] != after["pixel_values"]).any().item()
        assert changed


class TestRefusals:
    def test_unlabelled_images_that_are_not_there(self, tmp_path) -> None:
        fields = dict(mix="cutmix", mix_of="unlabelled")
        with pytest.raises(ValueError, match="mixes images without masks, but there are none"):
            _plain(tmp_path, **fields)
        with pytest.raises(ValueError, match="mixes images without masks, but there are none"):
            _taught(tmp_path, unlabelled=False, **fields)

    def test_a_teacher_that_cannot_say_what_it_sees(self, tmp_path) -> None:
        named = [{"id2label": dict(enumerate(names))} for names in (("cat", "dog"), ("road", "car"))]
        model, teacher = make_model(**named[0]), make_teacher(**named[1])
        with pytest.raises(ValueError, match="at least two classes that student and teacher share"):
            _taught(tmp_path, True, teacher, model, mix="classmix")
        for mix, unlabelled in (("cutmix", True), ("classmix", False)):
            _taught(tmp_path, unlabelled, teacher, model, mix=mix)
