import copy
import logging

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.metrics import jaccard_score
from toy import (
    arguments,
    copy_state,
    logged_steps,
    make_dataset,
    make_model,
    make_steady_model,
    mask_of,
    seg_trainer,
    split,
    states_equal,
)

from kaseg import KASegImageProcessor, KASegModel, SegmentationConfig, SegmentationTrainer
from kaseg.evaluation.evaluator import evaluate_model


class TestTraining:
    def test_every_parameter_changes_the_loss_falls_and_the_folder_is_a_model_with_its_processor(
        self, tmp_path
    ) -> None:
        trainer = seg_trainer(tmp_path, max_steps=12, learning_rate=0.05)
        before = copy_state(trainer.model)
        trainer.train()
        unchanged = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
        assert unchanged == []
        losses = [entry["loss"] for entry in logged_steps(trainer)]
        assert len(losses) == 12 and np.mean(losses[-3:]) < np.mean(losses[:3])
        trainer.save_model()
        assert states_equal(trainer.model.state_dict(), KASegModel.from_pretrained(tmp_path).state_dict())
        processor = KASegImageProcessor.from_pretrained(tmp_path)
        assert list(processor.image_mean) == list(trainer.processing_class.image_mean)

    @pytest.mark.parametrize("seeds, same", [({"seed": 7, "data_seed": 42}, True), ({"seed": 7}, False)])
    def test_augmentation_follows_data_seed_before_seed(self, tmp_path, seeds: dict, same: bool) -> None:
        samples = [seg_trainer(tmp_path, **fields).train_dataset[0]["pixel_values"] for fields in (seeds, {"seed": 42})]
        assert torch.equal(*samples) is same

    def test_masks_of_which_nothing_can_be_learned_are_refused_before_any_step(self, tmp_path) -> None:
        def binary(sample: dict) -> dict:  # the commonest binary masks there are
            values = np.asarray(sample["label"])
            return {"label": Image.fromarray(np.where(values == 1, 255, 0).astype(np.uint8))}

        trainer = seg_trainer(tmp_path, train=make_dataset().map(binary))
        with pytest.raises(ValueError, match="nothing to learn.*'LABEL_1'.*masks of 0 and 255"):
            trainer.train()
        assert trainer.state.global_step == 0 and not list(tmp_path.iterdir())

    @pytest.mark.parametrize("drop_last", [True, False])
    def test_no_images_are_refused_as_such(self, tmp_path, drop_last: bool) -> None:
        trainer = seg_trainer(tmp_path, dataloader_drop_last=drop_last)
        trainer.train_dataset = trainer._prepare_dataset(make_dataset().select([]), trainer.args, True)
        with pytest.raises(ValueError, match="There are no training samples"):
            trainer.train()

    def test_fewer_images_than_a_batch_are_refused(self, tmp_path) -> None:
        with pytest.raises(ValueError, match="3 training samples make no batch of 4.*per_device_train_batch_size"):
            seg_trainer(tmp_path, train=make_dataset(3)).train()
        seg_trainer(tmp_path, train=make_dataset(3), dataloader_drop_last=False, max_steps=1).train()

    @pytest.mark.parametrize("use", ["train", "train on a stream", "evaluate"])
    def test_labels_outside_the_models_classes_name_the_sample(self, tmp_path, use: str) -> None:
        data = make_dataset().map(_set_label_7)
        given = data.to_iterable_dataset() if "stream" in use else data
        trainer = seg_trainer(tmp_path, **{"evaluation" if use == "evaluate" else "train": given})
        with pytest.raises(ValueError, match=r"Sample .*id \w+.*label 7 is neither one of the model's 2 classes"):
            getattr(trainer, use.split()[0])()

    def test_terms_are_not_gathered_for_ever_without_logs(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path)
        trainer.model.train()
        for value in (1.0, 2.0, 6.0):
            trainer.add_term("term", torch.tensor(value))
        assert trainer._terms["term"] == (9.0, 3)
        logs = {"loss": 0.0}
        trainer.log(logs)
        assert logs["train/term"] == 3.0 and not trainer._terms

    def test_accumulation_equals_one_large_batch(self, tmp_path) -> None:
        """Void is spread unevenly, so this holds only if pixels are counted over the whole step."""
        states, losses = [], []
        for batch, accumulation in ((4, 1), (1, 4)):
            model = make_steady_model().double().float()
            trainer = seg_trainer(tmp_path / str(batch), model, **split(batch, accumulation), max_steps=3)
            trainer.train()
            states.append(copy_state(model))
            losses.append([entry["loss"] for entry in logged_steps(trainer)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        start = make_model().state_dict()
        for name, tensor in states[0].items():
            if tensor.is_floating_point() and not torch.equal(tensor, start[name]):
                step = (tensor - start[name]).abs().max()
                assert (tensor - states[1][name]).abs().max() < 1e-3 * step + 1e-6, name

    def test_logged_loss_is_the_mean_over_the_steps_labelled_pixels(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path, make_steady_model(), max_steps=1, **split(2, 2))
        seen, compute = [], trainer.compute_loss

        def keep(model, inputs, **kwargs):
            with torch.no_grad():
                seen.append((model(**inputs).loss.item(), inputs["labels"].ne(255).sum().item()))
            return compute(model, inputs, **kwargs)

        trainer.compute_loss = keep
        trainer.train()
        assert len(seen) == 2
        expected = sum(loss * pixels for loss, pixels in seen) / sum(pixels for _, pixels in seen)
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("loss, schedule", [("ohem", "cosine"), ("dice", "constant_with_warmup")])
    def test_other_losses_and_schedules(self, tmp_path, loss: str, schedule: str) -> None:
        trainer = seg_trainer(tmp_path, loss=loss, lr_scheduler_type=schedule, max_steps=2)
        before = copy_state(trainer.model)
        trainer.train()
        assert not torch.equal(before["classifier.weight"], trainer.model.classifier.weight)
        assert trainer.state.global_step == 2 and trainer.args.lr_scheduler_kwargs is None


class TestEvaluation:
    def test_scores_equal_scikit_learns_at_label_size(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path)
        metrics = trainer.evaluate()
        predictions, references = [], []
        for sample in make_dataset(3, seed=1):
            mask = mask_of(trainer.model.eval(), KASegImageProcessor(), sample["image"])
            label = np.asarray(sample["label"])
            predictions.append(mask[label != 255])
            references.append(label[label != 255])
        expected = jaccard_score(np.concatenate(references), np.concatenate(predictions), average=None, labels=[0, 1])
        assert metrics["eval_mean_iou"] == pytest.approx(expected.mean())
        assert metrics["eval_iou_LABEL_1"] == pytest.approx(expected[1])

    @pytest.mark.parametrize("fields", [{}, {"eval_size": 40}, {"eval_size_divisor": 24}])
    def test_images_of_several_sizes_score_alike_in_every_batch_size(self, tmp_path, fields: dict) -> None:
        """No image is padded for the sake of another: padding would reach the pooling in the head."""
        model, data = make_model().eval(), _of_several_sizes()
        torch.nn.init.normal_(model.classifier.weight, std=1.0)
        found = [
            seg_trainer(tmp_path, model=model, evaluation=data, per_device_eval_batch_size=batch, **fields)
            for batch in (1, 3, 8)
        ]
        metrics = [trainer.evaluate() for trainer in found]
        counts = [trainer.confusion_matrix.matrix.tolist() for trainer in found]
        assert counts == [counts[0]] * len(counts)
        assert [m["eval_loss"] for m in metrics] == pytest.approx([metrics[0]["eval_loss"]] * len(metrics), rel=1e-5)
        if not fields:
            for batch in (1, 8):
                assert evaluate_model(model, data, KASegImageProcessor(), batch)["confusion_matrix"] == counts[0]

    @pytest.mark.parametrize(("limit", "resizes"), [(None, True), (44, True), (44, False)])
    def test_predictions_see_images_at_the_size_of_the_evaluation(self, tmp_path, limit, resizes: bool) -> None:
        data = _of_several_sizes()
        size = {"height": 9, "width": 9}
        given = KASegImageProcessor(image_mean=0.4, image_std=0.3, do_resize=resizes, size=size)
        trainer = seg_trainer(
            tmp_path, evaluation=data, more={"processing_class": given}, eval_size=40, eval_max_long_edge=limit
        )
        torch.nn.init.normal_(trainer.model.classifier.weight, std=1.0)
        trainer.evaluate()
        trainer.save_model()
        processor = KASegImageProcessor.from_pretrained(tmp_path)
        assert processor.do_resize and processor.image_mean == 0.4
        assert given.do_resize is resizes and given.size["height"] == 9  # the user's own stays as it was
        width, height = data[3]["image"].size
        scale = min(40 / min(width, height), (limit or 1000) / max(width, height))
        found = processor(data[3]["image"], return_tensors="pt")["pixel_values"].shape[2:]
        assert tuple(found) == pytest.approx((height * scale, width * scale), abs=1)
        counts = evaluate_model(KASegModel.from_pretrained(tmp_path), data, processor)["confusion_matrix"]
        assert counts == trainer.confusion_matrix.matrix.tolist()

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("fields", [{}, {"eval_size": 45}, {"eval_size": 45, "eval_max_long_edge": 50}])
    def test_padding_is_never_scored(self, tmp_path, fields: dict, batch: int) -> None:
        trainer = seg_trainer(tmp_path, eval_size_divisor=24, per_device_eval_batch_size=batch, **fields)
        shapes = {tuple(sample["pixel_values"].shape[2:]) for sample in trainer.get_eval_dataloader()}
        assert shapes == {(48, 48)}
        metrics = trainer.evaluate()
        labels = np.stack([np.asarray(sample["label"]) for sample in make_dataset(3, seed=1)])
        counts = trainer.confusion_matrix.matrix
        assert counts.sum(1).tolist() == [(labels == 0).sum(), (labels == 1).sum()]
        assert np.isfinite(metrics["eval_loss"])

    def test_scores_are_those_of_the_saved_weights_whatever_training_autocasts(self, tmp_path) -> None:
        model = make_model()
        trainer = seg_trainer(tmp_path, model=model, bf16=True)
        plain = seg_trainer(tmp_path, model=copy.deepcopy(model))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)
        trainer.train()
        trained = trainer.evaluate()["eval_loss"]
        trainer.save_model()
        saved = seg_trainer(tmp_path, model=KASegModel.from_pretrained(tmp_path)).evaluate()["eval_loss"]
        assert trained == pytest.approx(saved, rel=1e-6)
        # Accelerate's autocast is still there for what comes next.
        with torch.no_grad():
            rounded = trainer.model.eval()(torch.ones(1, 3, 32, 32)).logits
            exact = KASegModel.from_pretrained(tmp_path).eval()(torch.ones(1, 3, 32, 32)).logits
        assert not torch.allclose(rounded, exact, rtol=1e-6, atol=1e-7)

    def test_loss_is_the_mean_over_all_labelled_pixels_and_predict_scores_alike(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path, per_device_eval_batch_size=2)
        metrics = trainer.evaluate()
        total = pixels = 0.0
        with torch.no_grad():
            for batch in trainer.get_eval_dataloader():
                count = batch["labels"].ne(255).sum().item()
                total += trainer.model(batch["pixel_values"], labels=batch["labels"]).loss.item() * count
                pixels += count
        assert metrics["eval_loss"] == pytest.approx(total / pixels, rel=1e-5)
        output = trainer.predict(make_dataset(3, seed=1))
        assert output.predictions is None and output.label_ids is None  # neither logits nor masks are kept
        assert output.metrics["test_mean_iou"] == metrics["eval_mean_iou"]
        assert output.metrics["test_loss"] == metrics["eval_loss"]

    @pytest.mark.parametrize("kind", [dict, datasets.DatasetDict])
    def test_several_datasets_by_name(self, tmp_path, kind: type) -> None:
        parts = {"first": make_dataset(2, seed=5), "second": make_dataset(3, seed=1)}
        metrics = seg_trainer(tmp_path, evaluation=kind(parts)).evaluate()
        alone = seg_trainer(tmp_path).evaluate()
        assert metrics["eval_second_mean_iou"] == alone["eval_mean_iou"] != metrics["eval_first_mean_iou"]

    @pytest.mark.parametrize("fields", [{"do_normalize": False}, {"do_normalize": False, "do_rescale": False}])
    def test_images_are_normalized_as_the_processor_does(self, tmp_path, fields: dict) -> None:
        trainer = seg_trainer(tmp_path, more={"processing_class": KASegImageProcessor(**fields)})
        trained, saved = next(iter(trainer.get_eval_dataloader()))["pixel_values"], trainer.processing_class
        torch.testing.assert_close(
            trained, saved(make_dataset(3, seed=1)[0]["image"], return_tensors="pt").pixel_values
        )

    @pytest.mark.parametrize("fields", [{}, {"short_edge": 64}, {"eval_size": 64}])
    def test_a_processor_that_resizes_is_pointed_out(self, tmp_path, caplog, fields: dict) -> None:
        processor = KASegImageProcessor(do_resize=True, size={"height": 64, "width": 64})
        with caplog.at_level(logging.WARNING):
            seg_trainer(tmp_path, more={"processing_class": processor}, **fields)
        assert ("training does not" in caplog.text) is (not fields)

    def test_in_bfloat16_after_training(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path, max_steps=1, bf16_full_eval=True)
        trainer.train()
        assert 0 <= trainer.evaluate()["eval_mean_iou"] <= 1
        assert next(trainer.model.parameters()).dtype == torch.bfloat16


class TestArguments:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"eval_size": 0}, "eval_size is 0"),
            ({"eval_max_long_edge": 50}, "eval_size None"),
            ({"eval_size": 60, "eval_max_long_edge": 50}, "max_long_edge is 50 and eval_size 60"),
            ({"class_weights": [1.0, 2.0, 3.0]}, "3 entries for 2 classes"),
            ({"more": {"processing_class": KASegImageProcessor(ignore_index=0)}}, "ignore_index is 0.*255 for void"),
            *(
                (
                    {"more": {name: print}, "label_smoothing_factor": 0.1},
                    f"{name}, label_smoothing_factor would change no",
                )
                for name in ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics")
            ),
        ],
    )
    def test_what_cannot_be_or_would_change_nothing_is_refused(self, tmp_path, fields: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            seg_trainer(tmp_path, **fields)

    def test_paper_defaults(self, tmp_path) -> None:
        args = SegmentationConfig(output_dir=str(tmp_path))
        assert (args.max_steps, args.learning_rate, args.weight_decay) == (30_000, 0.007, 4e-5)
        assert (args.per_device_train_batch_size, args.max_grad_norm, args.dataloader_drop_last) == (16, 0.0, True)
        assert SegmentationConfig(output_dir=str(tmp_path), num_train_epochs=2).max_steps == -1

    def test_optimizer_is_sgd_with_momentum_and_poly_decay(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path, max_steps=10)
        trainer.create_optimizer_and_scheduler(10)
        assert isinstance(trainer.optimizer, torch.optim.SGD)
        assert all(group["momentum"] == 0.9 for group in trainer.optimizer.param_groups)
        rates = []
        for _ in range(11):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        assert rates == pytest.approx([0.01 * (1 - t / 10) ** 0.9 for t in range(11)])

    def test_groups_by_part_and_decay(self, tmp_path) -> None:
        trainer = seg_trainer(tmp_path, backbone_learning_rate_scale=0.1, learning_rate=1.0)
        optimizer = trainer.create_optimizer()
        found = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[id(parameter)] = (group["lr"], group["weight_decay"])
        for name, parameter in trainer.model.named_parameters():
            rate = 0.1 if name.startswith("encoder.") else 1.0
            decay = 4e-5 if parameter.ndim > 1 else 0.0
            assert found.pop(id(parameter)) == pytest.approx((rate, decay)), name
        assert found == {}

    @pytest.mark.parametrize("scale", [0.0, 0.5])
    def test_encoders_of_other_models_have_their_rate(self, tmp_path, scale: float) -> None:
        config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=2, output_stride=16, image_size=32)
        model = transformers.MobileNetV2ForSemanticSegmentation(config)
        before = copy_state(model)
        trainer = seg_trainer(tmp_path, model=model, backbone_learning_rate_scale=scale, max_steps=1)
        trainer.train()
        assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.01, 0.01 * scale}
        moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
        of_encoder = [name for name in moved if name.startswith("mobilenet_v2.")]
        assert len(moved) > len(of_encoder) and bool(of_encoder) == (scale > 0)


def _of_several_sizes() -> datasets.Dataset:
    noise, rows = np.random.default_rng(0), []
    for height, width in ((32, 32), (32, 32), (48, 40), (37, 61), (61, 37), (32, 32)):
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = np.where(noise.random((height, width)) < 0.1, 255, pixels[..., 0] // 128).astype(np.uint8)
        rows.append({"image": Image.fromarray(pixels), "label": Image.fromarray(label), "id": str(len(rows))})
    return datasets.Dataset.from_list(rows)


def _set_label_7(example: dict) -> dict:
    array = np.array(example["label"])
    array[-1, -1] = 7
    return {"label": Image.fromarray(array)}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without an accelerator")
@pytest.mark.parametrize("fields", [{"fsdp": "full_shard"}, {"deepspeed": "zero.json"}])
def test_sharding_is_refused(tmp_path, fields: dict) -> None:
    args = SegmentationConfig(**arguments(tmp_path))
    for name, value in fields.items():
        setattr(args, name, value)
    with pytest.raises(ValueError, match="FSDP and DeepSpeed are not supported"):
        SegmentationTrainer(make_model(), args)


def test_bf16_trains_on_the_cpu_where_there_is_nothing_else(tmp_path) -> None:
    fields = arguments(tmp_path, bf16=True, max_steps=1)
    del fields["use_cpu"]
    trainer = SegmentationTrainer(make_model(), SegmentationConfig(**fields), train_dataset=make_dataset())
    before = copy_state(trainer.model)
    seen = []
    trainer.model.head.register_forward_hook(lambda module, args, output: seen.append((module.training, output.dtype)))
    trainer.train()
    assert trainer.args.use_cpu and {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert not states_equal(before, copy_state(trainer.model))
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
