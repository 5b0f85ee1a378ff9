import json

import datasets
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from toy import (
    ALONE,
    BEST,
    arguments,
    copy_state,
    ka_trainer,
    logged_steps,
    make_autoencoder,
    make_dataset,
    make_model,
    make_steady_model,
    make_teacher,
    seg_trainer,
    split,
    states_equal,
)

from kaseg import KASegModel, KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.data import EvalTransform, SegmentationDataset, TrainTransform, load_segmentation_dataset
from kaseg.distillation import FeatureAutoencoder, TeacherAdapter
from kaseg.distillation.correction import corrected_logits
from kaseg.distillation.losses import AdaptationLoss, AffinityLoss, KnowledgeDistillationLoss
from kaseg.distillation.terms import BASELINE_TERMS
from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer, autoencoder_arguments


class TestBothStages:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory) -> dict:
        """One run of both stages with every loss, with what was there before it."""
        output_dir = tmp_path_factory.mktemp("run")
        losses = {name: 1.0 + index for index, name in enumerate(BASELINE_TERMS)}
        teacher = make_teacher().train()
        trainer = ka_trainer(output_dir, teacher=teacher, distillation_losses=losses)
        run = {"trainer": trainer, "teacher": teacher, "output_dir": output_dir, "losses": losses}
        run["teacher_before"], run["before"] = copy_state(teacher), copy_state(trainer.model)
        trainer.train()
        return run

    def test_teacher_is_bit_equal_and_in_eval_mode(self, run) -> None:
        assert states_equal(run["teacher_before"], run["teacher"].state_dict())
        assert not any(module.training for module in run["teacher"].modules())
        assert all(p.grad is None and not p.requires_grad for p in run["teacher"].parameters())

    def test_autoencoders_encoder_is_bit_equal_after_distillation(self, run) -> None:
        saved = FeatureAutoencoder.from_pretrained(run["output_dir"] / "autoencoder")
        used = run["trainer"].autoencoder
        assert states_equal(saved.encoder.state_dict(), used.encoder.state_dict())
        assert used.decoder is None and not any(p.requires_grad for p in used.parameters())

    def test_every_student_and_adapter_parameter_changed(self, run) -> None:
        unchanged = [n for n, p in run["trainer"].model.named_parameters() if torch.equal(p, run["before"][n])]
        assert unchanged == []

    def test_terms_are_logged_by_stage(self, run) -> None:
        logged = logged_steps(run["trainer"])
        assert len(logged) == 4
        for entry in logged:
            total = entry["distillation/cross_entropy"] + 50.0 * entry["distillation/adaptation"]
            total += entry["distillation/affinity"]
            total += sum(weight * entry[f"distillation/{name}"] for name, weight in run["losses"].items())
            assert entry["loss"] == pytest.approx(total, rel=1e-3)

    def test_saved_folder_and_evaluation_are_the_students_alone(self, run, tmp_path) -> None:
        trainer = run["trainer"]
        trainer.save_model(str(tmp_path))
        assert states_equal(trainer.segmentation_model.state_dict(), KASegModel.from_pretrained(tmp_path).state_dict())
        metrics = trainer.evaluate()
        assert 0 <= metrics["eval_mean_iou"] <= 1 and "eval_iou_LABEL_0" in metrics


class TestUnlabelledImages:
    @staticmethod
    def _trained(output_dir, unlabelled=None) -> KnowledgeAdaptationTrainer:
        trainer = ka_trainer(
            output_dir, autoencoder=make_autoencoder(), unlabelled=unlabelled, max_steps=2, affinity_weight=0.0
        )
        trainer.train()
        return trainer

    def test_their_masks_are_not_looked_at_and_they_teach(self, tmp_path) -> None:
        images = make_dataset(6, seed=5)
        trained = {
            name: copy_state(self._trained(tmp_path / name, unlabelled).segmentation_model)
            for name, unlabelled in {
                "masks": images,
                "no masks": images.remove_columns("label"),
                "other images": make_dataset(6, seed=6),
                "none": None,
            }.items()
        }
        assert states_equal(trained["masks"], trained["no masks"])
        assert not states_equal(trained["masks"], trained["other images"])
        assert not states_equal(trained["masks"], trained["none"])

    def test_the_labels_loss_is_that_of_the_labelled_half(self, tmp_path) -> None:
        trainer = ka_trainer(tmp_path, unlabelled=make_dataset(6, seed=5), autoencoder=make_autoencoder())
        batch = next(iter(trainer.get_train_dataloader()))
        labelled = batch["labels"].ne(255).flatten(1).any(1)
        assert labelled.any() and not labelled.all()
        logits = torch.randn(len(labelled), trainer.segmentation_model.config.num_labels, 8, 8)
        found = trainer.label_loss(logits, batch["labels"], None)
        expected = trainer.label_loss(logits[labelled], batch["labels"][labelled], None)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("others", [{}, {"knowledge_distillation": 1.0}])
    def test_that_they_teach_nothing_is_warned_about(self, tmp_path, caplog, others: dict) -> None:
        losses = {"intra_class": 1.0, **others}
        fields = {"adaptation_weight": 0, "affinity_weight": 0, "distillation_losses": losses}
        ka_trainer(tmp_path, unlabelled=make_dataset(6, seed=5), **fields)
        assert ("will teach nothing, as the terms (intra_class)" in caplog.text) == (not others)

    def test_their_share(self, tmp_path) -> None:
        trainer = ka_trainer(tmp_path, unlabelled=make_dataset(6, seed=5), labelled_share=0.25, **ALONE)
        assert [len(part) for part in trainer.train_dataset.datasets] == [12, 36]

    def test_the_card_states_the_labelled_datas_name_and_license(self, tmp_path) -> None:
        scenes = load_segmentation_dataset("scenes", split="train", num_scenes=4, height=32, width=32)
        model = make_model(num_labels=9)
        images = make_dataset(4)
        trainer = ka_trainer(tmp_path, model, unlabelled=images, train=scenes, **ALONE, max_steps=1)
        trainer.train()
        assert trainer.model_card is not None and trainer.model_card.data.name == "scenes"


class TestTeacherThatSeesWholeImages:
    FIELDS = dict(
        teacher_view="image", distillation_losses={"knowledge_distillation": 1.0}, min_scale=0.5, max_scale=1.5,
        max_steps=1,
    )  # fmt: skip

    def test_the_teacher_sees_each_image_once_and_no_crop(self, tmp_path) -> None:
        trainer = ka_trainer(tmp_path, unlabelled=make_dataset(5, seed=4), **self.FIELDS)
        shapes = []
        trainer.teacher.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
        trainer.train()
        assert shapes == [(1, 3, 32, 32)] * 17
        again = ka_trainer(tmp_path, unlabelled=make_dataset(5, seed=4), **self.FIELDS)
        again.teacher.register_forward_pre_hook(lambda module, args: pytest.fail("seen again"))
        again.train()
        assert states_equal(trainer.model.state_dict(), again.model.state_dict())

    def test_where_the_crop_is_the_image_it_is_the_same(self, tmp_path) -> None:
        """A crop of the whole image at scale 1: cutting out changes nothing but for the rounding to float16."""
        fields = dict(min_scale=1.0, max_scale=1.0, horizontal_flip=0.0)
        logged = {}
        for view in ("crop", "image"):
            trainer = ka_trainer(tmp_path / view, **{**self.FIELDS, **fields, "teacher_view": view})
            trainer.train()
            logged[view] = logged_steps(trainer)[0]
        for term in ("adaptation", "affinity", "knowledge_distillation", "cross_entropy"):
            name = f"distillation/{term}"
            assert logged["image"][name] == pytest.approx(logged["crop"][name], rel=5e-3), term

    def test_logits_are_compared_on_the_grid_that_was_asked_for(self, tmp_path) -> None:
        """On the student's logits resized to it, with the teacher corrected at each of its positions."""
        fields = {**self.FIELDS, **ALONE, "teacher_logits_stride": 2, "correct_teacher": True}
        trainer = ka_trainer(tmp_path, make_model(classifier_dropout_prob=0.0), **fields)
        trainer._compute_teacher_maps()
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["teacher_logits"].shape[-2:] == (16, 16)
        _, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        student = torch.nn.functional.interpolate(outputs.logits, (16, 16), mode="bilinear")
        corrected = corrected_logits(batch["teacher_logits"], batch["labels"])
        assert not torch.equal(corrected, batch["teacher_logits"])
        expected = KnowledgeDistillationLoss()(student, corrected)
        torch.testing.assert_close(outputs.terms["knowledge_distillation"], expected)

    def test_a_grid_that_is_no_finer_is_refused(self, tmp_path) -> None:
        with pytest.raises(ValueError, match="teacher_logits_stride is 4, .* have a stride of 4: give a smaller one"):
            ka_trainer(tmp_path, **self.FIELDS, teacher_logits_stride=4)

    def test_runs_share_a_folder(self, tmp_path) -> None:
        fields = {**self.FIELDS, "teacher_maps_dir": str(tmp_path / "maps"), "adaptation_weight": 0.0}
        ka_trainer(tmp_path / "a", **fields, affinity_weight=0.0).train()
        files = sorted((tmp_path / "maps").rglob("*.safetensors"))
        assert len(files) == 12 and {file.parent.parent.name for file in files} == {"logits"}
        other = ka_trainer(tmp_path / "b", **fields, affinity_weight=0.0, seed=5)
        other.teacher.register_forward_pre_hook(lambda module, args: pytest.fail("seen again"))
        other.train()

    def test_a_dataset_of_ones_own_keeps_to_itself_and_has_the_same_crops(self, tmp_path) -> None:
        own = SegmentationDataset(make_dataset(), TrainTransform((32, 32)))
        trainer = ka_trainer(tmp_path, train=own, teacher_view="image")
        assert trainer.train_dataset.maps is not None and own.maps is None
        for transform in (TrainTransform((16, 16)), EvalTransform()):
            own = SegmentationDataset(make_dataset(), transform)
            with pytest.raises(ValueError, match=rf"crop_size \(32, 32\), but .* {type(transform).__name__}"):
                ka_trainer(tmp_path, train=own, teacher_view="image")

    def test_images_that_cannot_be_taken_are_named(self, tmp_path) -> None:
        images = make_dataset(3).cast_column("image", datasets.Image(decode=False)).to_list()
        images[1]["image"]["bytes"] = images[1]["image"]["bytes"][:60]
        broken = datasets.Dataset.from_list(images).cast_column("image", datasets.Image())
        with pytest.raises(ValueError, match="image number 13 cannot be read"):
            ka_trainer(tmp_path, unlabelled=broken, **self.FIELDS).train()
        prepared = [{"pixel_values": torch.zeros(3, 32, 32), "labels": np.arange(1024).reshape(32, 32) % 2}] * 4
        with pytest.raises(ValueError, match="image number 0 is prepared already .* teacher_view to 'crop'"):
            ka_trainer(tmp_path / "prepared", train=prepared, **self.FIELDS).train()


@pytest.mark.parametrize("bf16", [False, True])
def test_without_terms_it_trains_as_a_plain_student_does(tmp_path, bf16: bool) -> None:
    """A comparison is fair only if nothing but the terms differs: data, dropout, optimizer and precision agree."""
    fields = dict(bf16=bf16, max_steps=3, optim="adamw_torch", backbone_learning_rate_scale=0.25, weight_decay=0.1)
    distilled = ka_trainer(tmp_path / "distilled", make_model(classifier_dropout_prob=0.3), **fields, **ALONE)
    plain = seg_trainer(tmp_path / "plain", make_model(classifier_dropout_prob=0.3), **fields)
    for trainer in (distilled, plain):
        trainer.train()
    assert states_equal(copy_state(distilled.segmentation_model), plain.model.state_dict())
    assert not states_equal(copy_state(make_model(classifier_dropout_prob=0.3)), plain.model.state_dict())


def test_step_equals_the_formula_by_hand(tmp_path) -> None:
    student, teacher, autoencoder = make_model(classifier_dropout_prob=0.0), make_teacher(), make_autoencoder()
    trainer = ka_trainer(tmp_path, student, teacher, autoencoder, adaptation_weight=3.0, affinity_weight=0.5)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    with torch.no_grad():
        features = teacher(batch["pixel_values"], output_hidden_states=True).hidden_states[-1]
        code = autoencoder.encode(features)
    outputs = student(batch["pixel_values"], labels=batch["labels"], output_hidden_states=True)
    assert code.shape[-2:] == outputs.hidden_states[-1].shape[-2:]
    mapped = outputs.hidden_states[-1]
    expected = (
        outputs.loss
        + 3.0 * AdaptationLoss()(trainer.model.terms["adaptation"].adapter(mapped), code)
        + 0.5 * AffinityLoss()(trainer.model.terms["affinity"].adapter(mapped), code)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_best_model_at_the_end_is_the_best_checkpoints_student(tmp_path) -> None:
    trainer = ka_trainer(tmp_path, autoencoder=make_autoencoder(), **BEST)
    trainer.train()
    best = KASegModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert states_equal(trainer.segmentation_model.state_dict(), best.state_dict())
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluated), rel=1e-5)


class TestBaselines:
    @pytest.mark.parametrize("name", BASELINE_TERMS)
    def test_alone_it_needs_no_autoencoder_and_its_gradient_reaches_the_student(self, tmp_path, name: str) -> None:
        trainer = ka_trainer(tmp_path, **ALONE, distillation_losses={name: 1.0})
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        _, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        outputs.terms[name].backward()
        assert list(trainer.model.terms) == [name] and not trainer.needs_code
        reached = {n for n, p in trainer.model.named_parameters() if p.grad is not None and p.grad.any()}
        assert {n for n, _ in trainer.model.named_parameters() if n.startswith("terms.")} <= reached
        assert any(n.startswith("student.encoder.") for n in reached)
        assert all(p.grad is None for p in trainer.teacher.parameters())

    def test_the_papers_terms_without_autoencoder(self, tmp_path) -> None:
        trainer = ka_trainer(tmp_path, use_autoencoder=False, max_steps=1)
        assert trainer.model.terms["adaptation"].adapter[0].out_channels == trainer.teacher_channels == 32
        trainer.train()
        assert trainer.autoencoder is None and not (tmp_path / "autoencoder").exists()
        logged = logged_steps(trainer)[0]
        assert logged["distillation/adaptation"] > 0 and logged["distillation/affinity"] > 0

    def test_without_a_term_on_the_code_there_is_no_first_stage_and_other_adapters_are_refused(self, tmp_path) -> None:
        kwargs = {**ALONE, "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
        trainer = ka_trainer(tmp_path, **kwargs, distillation_losses={"hint": 1.0})
        trainer.train()
        assert trainer.autoencoder is None and not (tmp_path / "autoencoder").exists()
        saved = load_file(tmp_path / "checkpoint-1/adapters.safetensors")
        assert set(saved) == {"terms.hint.adapter.weight", "terms.hint.adapter.bias"}
        other = ka_trainer(tmp_path, **kwargs, distillation_losses={"dist": 1.0})
        with pytest.raises(ValueError, match=r"adapters.safetensors does not fit this run.*terms\.hint"):
            other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))

    def test_projectors_learn_at_the_adapters_rate(self, tmp_path) -> None:
        kwargs = {"adapter_learning_rate_scale": 3.0, "distillation_losses": {"hint": 1.0}}
        trainer = ka_trainer(tmp_path, **ALONE, **kwargs)
        groups = trainer.create_optimizer().param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert rates[id(trainer.model.terms["hint"].adapter.weight)] == pytest.approx(0.03)
        assert rates[id(trainer.segmentation_model.classifier.weight)] == pytest.approx(0.01)

    def test_teachers_of_other_classes_are_refused_where_logits_are_compared(self, tmp_path) -> None:
        teacher = make_model(3, num_labels=5, id2label={index: f"other {index}" for index in range(5)})
        with pytest.raises(ValueError, match="knows 0 of the student's 2.*teacher_label_map"):
            ka_trainer(tmp_path, teacher=teacher, **ALONE, distillation_losses={"channel_wise": 1.0})
        ka_trainer(tmp_path, teacher=teacher, **ALONE, distillation_losses={"hint": 1.0})

    @pytest.mark.parametrize("correct_teacher", [False, True])
    def test_logits_are_compared_over_the_classes_that_the_teacher_knows(self, tmp_path, correct_teacher) -> None:
        student = make_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "car"}, classifier_dropout_prob=0.0)
        teacher = make_teacher(num_labels=3, id2label={0: "car", 1: "tree", 2: "sky"})
        fields = {**ALONE, "distillation_losses": {"knowledge_distillation": 1.0}, "correct_teacher": correct_teacher}
        trainer = ka_trainer(tmp_path, student, teacher, **fields)
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():  # so that the teacher says both, and clearly
            teacher.classifier.weight *= 1000
            car, _, sky = teacher(images).logits.unbind(1)
            teacher.classifier.bias[0] += (sky - car).median()
        labels = torch.tensor([0, 1, 2, 255]).repeat_interleave(8).expand(2, 32, 32)
        trainer.model.eval()
        with torch.no_grad():
            _, outputs = trainer.compute_loss(trainer.model, {"pixel_values": images, "labels": labels}, True)
            own, raw = student(images).logits, teacher(images).logits
        own = torch.nn.functional.interpolate(own[:, [0, 2]], raw.shape[-2:], mode="bilinear")
        theirs = raw[:, [2, 0]]
        if correct_teacher:  # the columns of sky and of car; of two classes, the larger logit is the label's
            at_map = labels[:, 2::4, 2::4]
            sky, car = (at_map == 0)[:, None], (at_map == 2)[:, None]
            ordered = theirs.sort(1, descending=True).values
            assert (theirs[:, :1] < theirs[:, 1:])[sky].any() and (theirs[:, 1:] < theirs[:, :1])[car].any()
            theirs = torch.where(sky, ordered, torch.where(car, ordered.flip(1), theirs))
        torch.testing.assert_close(outputs.terms["knowledge_distillation"], KnowledgeDistillationLoss()(own, theirs))

    def test_unevenly_spread_void_counts_alike_in_micro_batches(self, tmp_path) -> None:
        """One step on the same 4 images; `dist` is left out, which is not a mean over positions."""
        fields = {"use_autoencoder": False, "ignore_void_positions": True, "max_grad_norm": 1e9}
        fields |= {"class_weights": [0.3, 2.0], "distillation_class_weights": True}
        fields["distillation_losses"] = {name: 1.0 for name in BASELINE_TERMS if name != "dist"}
        gradients, logs = [], []
        for batch, accumulation in ((4, 1), (1, 4)):
            trainer = ka_trainer(
                tmp_path / str(batch), make_steady_model(), **fields, **split(batch, accumulation), max_steps=1
            )
            trainer.model.terms["adaptation"].adapter[1] = torch.nn.Identity()
            trainer.train()
            logs.append(logged_steps(trainer)[0])
            gradients.append(trainer.model.state_dict())
        for key in logs[0]:
            if key in ("loss", "grad_norm") or key.startswith("distillation/"):
                assert logs[0][key] == pytest.approx(logs[1][key], rel=1e-3, abs=2e-6), key
        for name, value in gradients[0].items():
            torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-5)


CONTRADICTIONS = {
    "void positions": (
        lambda: {"unlabelled": make_dataset(6), "ignore_void_positions": True}, "set ignore_void_positions to False"
    ),
    "images in a list": (
        lambda: {"unlabelled": [*make_dataset(6)]}, r"unlabelled_dataset must be a datasets\.Dataset"
    ),
    "maps of a stream": (
        lambda: {"train": make_dataset().to_iterable_dataset(), "teacher_view": "image"},
        "needs a train_dataset that is a datasets.Dataset",
    ),
    "autoencoder": (lambda: {"autoencoder": make_autoencoder(in_channels=16)}, r"16 channels.*32"),
    "classes": (
        lambda: {"teacher": TeacherAdapter(make_teacher(), student_labels={0: "road", 1: "sky"})},
        r"matched with the classes road, sky.*has LABEL_0, LABEL_1.*student_labels",
    ),
    "images": (
        lambda: {"teacher": TeacherAdapter(make_teacher(), student_mean=[0.5] * 3, student_std=[0.25] * 3)},
        r"mean \(0\.5, .*0\.25\), but .*mean \(0\.485.*expect_images",
    ),
    "teacher's tap": (
        lambda: {"teacher": TeacherAdapter(make_teacher()), "teacher_tap": "head.conv"},
        r"teacher_tap='head.conv'.*the input of classifier",
    ),
    "scale": (
        lambda: {"teacher": TeacherAdapter(make_teacher()), "teacher_scale": 2.0},
        r"teacher_scale=2.0.*image_scale is 1.0.*image_scale=\.\.\.",
    ),
    "student's tap": (
        lambda: {"student_tap": 9}, r"student_tap=9.*0: 32 channels at stride 2, .*5: 32 channels at stride 16"
    ),
}  # fmt: skip


class TestOptions:
    @pytest.mark.parametrize("what", CONTRADICTIONS)
    def test_what_cannot_be_is_refused(self, tmp_path, what: str) -> None:
        given, message = CONTRADICTIONS[what]
        with pytest.raises(ValueError, match=message):
            ka_trainer(tmp_path, **given())

    @pytest.mark.parametrize("weights, absent", [((1.0, 0.0), "affinity"), ((0.0, 1.0), "adaptation")])
    def test_a_weight_of_zero_leaves_its_term_out(self, tmp_path, weights, absent: str) -> None:
        fields = dict(zip(("adaptation_weight", "affinity_weight"), weights, strict=True))
        trainer = ka_trainer(tmp_path, autoencoder=make_autoencoder(), **fields, max_steps=1)
        trainer.train()
        terms = {key for entry in trainer.state.log_history for key in entry if key.startswith("distillation/")}
        assert f"distillation/{absent}" not in terms and len(terms) == 2

    @pytest.mark.parametrize(
        "schedule, factors", [("linear", (1.0, 0.75, 0.5, 0.25)), ("cosine", (1.0, 0.853553, 0.5, 0.146447))]
    )
    def test_weights_can_fall_to_zero(self, tmp_path, schedule: str, factors) -> None:
        trainer = ka_trainer(tmp_path, autoencoder=make_autoencoder(), distillation_schedule=schedule)
        trainer.train()
        logged = logged_steps(trainer)
        for factor, entry in zip(factors, logged, strict=True):
            distilled = 50.0 * entry["distillation/adaptation"] + entry["distillation/affinity"]
            expected = entry["distillation/cross_entropy"] + factor * distilled
            assert entry["loss"] == pytest.approx(expected, rel=1e-3)

    def test_void_positions_can_be_left_out(self, tmp_path) -> None:
        trainer = ka_trainer(tmp_path, autoencoder=make_autoencoder(), ignore_void_positions=True)
        batch = next(iter(trainer.get_train_dataloader()))
        batch["labels"][:] = 255
        assert trainer.compute_loss(trainer.model, batch).item() == 0.0

    @pytest.mark.parametrize("teacher, stride, strides", [(4, 32, [2, 2, 2]), (32, 8, [1, 1, 1])])
    def test_finer_and_coarser_students_meet_the_teacher(self, tmp_path, teacher: int, stride: int, strides) -> None:
        network = make_teacher() if teacher == 4 else make_model(3, output_stride=teacher)
        trainer = ka_trainer(tmp_path, make_model(output_stride=stride), network, max_steps=1)
        assert (trainer.teacher_channels, trainer.teacher_stride) == (32, teacher)
        trainer.train()
        assert trainer.autoencoder.config.strides == strides

    def test_a_teacher_adapter_is_taken_as_it_is_and_told_the_students_normalization(self, tmp_path) -> None:
        mean, std = [0.5] * 3, [0.25] * 3
        adapter = TeacherAdapter(make_teacher(), image_mean=mean, image_std=std)
        trainer = ka_trainer(tmp_path, teacher=adapter)
        assert trainer.teacher is adapter
        processor = trainer.processing_class
        images = torch.randn(1, 3, 32, 32)
        told = TeacherAdapter(
            make_teacher(), image_mean=mean, image_std=std,
            student_mean=processor.image_mean, student_std=processor.image_std,
        )  # fmt: skip
        assert torch.equal(adapter(images).features, told(images).features)
        assert not torch.equal(adapter(images).features, TeacherAdapter(make_teacher())(images).features)

    def test_the_teacher_sees_images_at_a_scale_of_its_own(self, tmp_path) -> None:
        teacher = make_teacher()
        trainer = ka_trainer(tmp_path, teacher=teacher, teacher_scale=1.5, max_steps=1)
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(trainer.teacher(images).features, TeacherAdapter(teacher, image_scale=1.5)(images).features)
        trainer.train()
        assert trainer.state.global_step == trainer.state.max_steps

    def test_a_student_is_not_its_own_teacher(self, tmp_path) -> None:
        model = make_model()
        for teacher in (model, TeacherAdapter(model)):
            with pytest.raises(ValueError, match="student itself.*copy"):
                ka_trainer(tmp_path, model=model, teacher=teacher)

    @pytest.mark.parametrize("tap, strides", [(1, [1, 1, 1]), (-4, [2, 1, 1])])
    def test_the_codes_stride_is_that_of_the_students_tap(self, tmp_path, tap: int, strides: list[int]) -> None:
        assert ka_trainer(tmp_path, student_tap=tap).fit_autoencoder().config.strides == strides

    def test_several_gpus_in_one_process_are_refused(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(KnowledgeAdaptationConfig, "n_gpu", 2)
        with pytest.raises(ValueError, match="2 GPUs.*torchrun"):
            ka_trainer(tmp_path)

    def test_classes_are_matched_by_name_and_by_map(self, tmp_path) -> None:
        student = make_model(id2label={0: "road", 1: "plant"})
        teacher = make_teacher(num_labels=3, id2label={0: "tree", 1: "Road", 2: "sky"})
        trainer = ka_trainer(tmp_path, student, teacher, make_autoencoder(), teacher_label_map={"plant": "tree"})
        assert trainer.teacher.label_match.groups == {0: (1,), 1: (0,)}
        adapter = TeacherAdapter(teacher)
        assert ka_trainer(tmp_path, student, adapter, make_autoencoder()).teacher.label_match.groups == {0: (1,)}


def test_the_first_stage_neither_evaluates_nor_compiles(tmp_path) -> None:
    fields = arguments(tmp_path, eval_on_start=True, torch_compile=True, torch_compile_backend="eager")
    args = autoencoder_arguments(KnowledgeAdaptationConfig(**fields), steps_per_epoch=1)
    assert (args.eval_on_start, args.torch_compile, args.torch_compile_backend) == (False, False, None)
    trainer = ka_trainer(tmp_path, eval_on_start=True, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_stream_has_no_epochs_to_fit_the_autoencoder_for(tmp_path) -> None:
    stream = make_dataset().to_iterable_dataset()
    trainer = ka_trainer(tmp_path, train=stream, autoencoder_epochs=5, autoencoder_max_steps=0)
    with pytest.raises(ValueError, match="no epochs: set autoencoder_max_steps"):
        trainer.train()


class TestAutoencoderWithTheTeachersClassifier:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_the_divergence_is_that_of_the_formula(self, tmp_path, weighted: bool) -> None:
        teacher, autoencoder = make_teacher(), make_autoencoder()
        torch.nn.init.normal_(teacher.classifier.weight)
        fields = {"class_weights": [0.3, 2.0], "autoencoder_class_weights": True} if weighted else {}
        args = KnowledgeAdaptationConfig(**arguments(tmp_path, autoencoder_classifier_weight=3.0, **fields))
        trainer = AutoencoderTrainer(autoencoder, TeacherAdapter(teacher), autoencoder_arguments(args, 1))
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
        if weighted:
            inputs["labels"] = torch.tensor([0, 1, 255, 1]).repeat_interleave(8).expand(2, 32, 32)
        loss, outputs = trainer.compute_loss(autoencoder, inputs, return_outputs=True)
        images = inputs["pixel_values"]
        with torch.no_grad():
            features = teacher(images, output_hidden_states=True).hidden_states[-1]
        kernel = teacher.classifier.weight[:, :, 0, 0].detach().double().numpy()
        bias = teacher.classifier.bias.detach().double().numpy()

        def probabilities(feature_map: torch.Tensor) -> np.ndarray:
            values = feature_map.detach().double().numpy()
            scores = np.exp(np.einsum("kc,bchw->bkhw", kernel, values) + bias[:, None, None])
            return scores / scores.sum(1, keepdims=True)

        expected, found = probabilities(features), probabilities(outputs.reconstruction)
        at_positions = (expected * np.log(expected / found)).sum(1)
        if weighted:
            columns = at_positions.shape[2]
            at_positions *= np.repeat([0.3, 2.0, 1.0, 2.0], columns // 4)
        divergence = at_positions.mean()
        assert divergence > 0.01
        assert loss.item() - outputs.loss.item() == pytest.approx(3.0 * divergence, rel=1e-4)

    def test_it_teaches_the_autoencoder_in_bfloat16_and_leaves_the_teacher_alone(self, tmp_path) -> None:
        teacher = make_teacher()
        torch.nn.init.normal_(teacher.classifier.weight)
        before = copy_state(teacher)
        fields = {"autoencoder_optim": "adamw_torch", "autoencoder_learning_rate": 0.01, "autoencoder_max_steps": 12}
        ka_trainer(tmp_path, teacher=teacher, autoencoder_classifier_weight=10.0, bf16=True, **fields).fit_autoencoder()
        state = json.loads((tmp_path / "autoencoder/trainer_state.json").read_text())
        logged = [e["autoencoder/classifier"] for e in state["log_history"] if "autoencoder/classifier" in e]
        assert len(logged) == 12 and sum(logged[-3:]) < 0.7 * sum(logged[:3])
        assert states_equal(before, teacher.state_dict())
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())

    def test_a_tap_that_no_classifier_reads_is_refused(self, tmp_path, caplog) -> None:
        fields = {"teacher_tap": "head", "autoencoder_classifier_weight": 1.0}
        with pytest.raises(ValueError, match=r"output of head.*autoencoder_classifier_weight"):
            ka_trainer(tmp_path, **fields)
        ka_trainer(tmp_path, **{**fields, "autoencoder_classifier_weight": 0.0})
        # Whom nobody will ask need not be there.
        ka_trainer(tmp_path, **fields, adaptation_weight=0.0, affinity_weight=0.0)
        assert caplog.text.count("learns from its labels alone") == 1
        ka_trainer(tmp_path, autoencoder=make_autoencoder(), **fields)

    def test_half_a_classifier_is_none(self, tmp_path) -> None:
        teacher = TeacherAdapter(
            torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=2)
        )
        with pytest.raises(ValueError, match=r"high_classifier|low_classifier"):
            teacher.require_classifier()
        with pytest.raises(ValueError, match="two classes or more"):
            TeacherAdapter(
                torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 1, 1))
            ).require_classifier()


@pytest.mark.parametrize("linear", [False, True])
def test_classify_gives_the_logits_of_the_tapped_map(linear: bool) -> None:
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 6, 4, stride=4)
            self.classifier = torch.nn.Linear(6, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.stem(images).movedim(1, -1)).movedim(-1, 1)

    teacher = TeacherAdapter(Tokens() if linear else make_teacher())
    teacher.require_classifier()
    images = torch.randn(2, 3, 32, 32)
    output = teacher(images)
    logits = torch.nn.functional.interpolate(
        teacher.classify(output.features), size=output.logits.shape[-2:], mode="bilinear"
    )
    torch.testing.assert_close(logits, output.logits)
