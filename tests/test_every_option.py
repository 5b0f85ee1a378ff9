"""Every option is set once: something changes, or it is refused. A new option has its line here, too."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import pytest
import torch
import toy
from PIL import Image
from toy import make_autoencoder, make_dataset, make_model, make_teacher
from transformers import TrainerState
from transformers.image_utils import PILImageResampling

from kaseg import (
    KASegConfig,
    KASegImageProcessor,
    KASegModel,
    KnowledgeAdaptationConfig,
    KnowledgeAdaptationTrainer,
    SegmentationConfig,
    SegmentationTrainer,
)
from kaseg.data import load_segmentation_dataset
from kaseg.distillation import FeatureAutoencoder, TeacherAdapter, list_taps
from kaseg.distillation.autoencoder import FeatureAutoencoderConfig
from kaseg.distillation.teachers.input_sizes import InputSize
from kaseg.evaluation import InferenceProtocol
from kaseg.evaluation.protocols import predict_masks
from kaseg.trainer.adapter_trainer import adapter_arguments
from kaseg.trainer.autoencoder_trainer import AutoencoderTrainer, autoencoder_arguments


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    """The upper half of each image is void, so that whole positions of a map are."""

    def upper_half_void(sample: dict[str, Any]) -> dict[str, Any]:
        label = np.array(sample["label"])
        label[: toy.SIZE // 2] = 255
        return {"label": Image.fromarray(label)}

    return make_dataset(8).map(upper_half_void)


@pytest.fixture(scope="module")
def networks() -> tuple[KASegModel, KASegModel, FeatureAutoencoder]:
    """Student, teacher and autoencoder, which no test trains."""
    code, small = make_autoencoder(in_channels=16, strides=[2, 2, 1]), {"backbone": "test_resnet", "head_channels": 16}
    return make_model(**small), make_teacher(**small), code


def arguments(kind: type, output_dir: Path, **fields: Any) -> Any:
    return kind(**toy.arguments(output_dir, **{"max_steps": 10, "per_device_train_batch_size": 2, **fields}))


class _Lines:
    """What one of the two trainers makes of its arguments, in one respect after the other."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def train_transform(self) -> Any:
        return _shown(vars(self.trainer.train_dataset.transform)), self.trainer.train_dataset.seed

    def eval_transform(self) -> Any:
        return _shown(vars(self.trainer.eval_dataset.transform))

    def optimizer(self) -> Any:
        groups = self.trainer.create_optimizer().param_groups
        return type(self.trainer.optimizer), [
            {**{k: v for k, v in group.items() if k != "params"}, "size": sum(p.numel() for p in group["params"])}
            for group in groups
        ]

    def schedule(self) -> list[float]:
        optimizer = self.trainer.create_optimizer()
        scheduler = self.trainer.create_scheduler(10, optimizer)
        rates = []
        for _ in range(8):
            optimizer.step()
            scheduler.step()
            rates.append(scheduler.get_last_lr()[0])
        return rates

    def loss(self) -> float:
        trainer = self.trainer
        trainer.state = TrainerState(global_step=5, max_steps=10)
        trainer.model.eval()
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, _batch(trainer)))

    def loader(self) -> Any:
        names = ("num_workers", "prefetch_factor", "persistent_workers", "in_order")
        shown: list[Any] = [type(self.trainer._get_train_sampler())]
        for loader in (self.trainer.get_train_dataloader(), self.trainer.get_eval_dataloader()):
            shown += [getattr(loader, name) for name in names]
            shown += [loader.batch_sampler.batch_size, loader.batch_sampler.drop_last]
            shown += [type(loader.multiprocessing_context)]
        return shown

    def steps(self) -> Any:
        return self.trainer.set_initial_training_values(self.trainer.args, self.trainer.get_train_dataloader())

    def first_stage(self) -> Any:
        args = autoencoder_arguments(self.trainer.args, steps_per_epoch=3)
        torch.manual_seed(0)
        code = FeatureAutoencoder(
            FeatureAutoencoderConfig(
                in_channels=16, latent_channels=args.latent_channels, sparsity_weight=args.sparsity_weight
            )
        )
        stage = AutoencoderTrainer(code, self.trainer.teacher, args, train_dataset=self.trainer.train_dataset)
        with torch.no_grad():
            loss = float(stage.compute_loss(code, _batch(self.trainer)))
        return loss, args.max_steps, _Lines(stage).optimizer()

    def mixer(self) -> Any:
        return self.trainer.mixer and _shown(vars(self.trainer.mixer))

    def average(self) -> Any:
        return self.trainer.average and self.trainer.average.decay

    def balance(self) -> Any:
        self.trainer.state = TrainerState(global_step=3, max_steps=10)
        balance = self.trainer.model.train().balance
        return balance.decay, balance.shares.tolist(), self.trainer._measures(self.trainer.model)

    def maps(self) -> Any:
        return self.trainer._teacher_maps and str(self.trainer._teacher_maps.folder)

    def grid(self) -> Any:
        return self.trainer.model.terms["knowledge_distillation"].grid((32, 32))

    def warmup(self) -> Any:
        args = adapter_arguments(self.trainer.args)
        return args.max_steps, args.learning_rate, args.optim


def _batch(trainer: Any) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.eval_dataset[0], trainer.eval_dataset[1]])


def _shown(values: dict[str, Any]) -> dict[str, str]:
    return {name: repr(vars(value) if hasattr(value, "__dict__") else value) for name, value in values.items()}


SWAPPED = {"LABEL_0": "LABEL_1", "LABEL_1": "LABEL_0"}
WEIGHTS = {"class_weights": [1.0, 3.0]}
ADAM = {"optim": "adamw_torch", "lr_scheduler_kwargs": None}
LOGITS = {"distillation_losses": {"knowledge_distillation": 1.0}}
# Where fields show, their values, and what else is set, without them as well.
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("train_transform", {"crop_size": [16, 24], "min_scale": 0.7, "max_scale": 1.5, "scale_step": 0.25}, {}),
    ("train_transform", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.2}, {}),
    ("train_transform", {"horizontal_flip": 0.0, "photometric_distortion": True, "cat_max_ratio": 0.75}, {}),
    ("train_transform", {"short_edge": 16, "seed": 3, "data_seed": 3}, {}),
    ("train_transform", {"max_long_edge": 64}, {"short_edge": 16}),
    ("eval_transform", {"eval_size": 16, "eval_size_divisor": 32}, {}),
    ("eval_transform", {"eval_max_long_edge": 64}, {"eval_size": 16}),
    ("mixer", {"mix": "cutmix"}, {}),
    ("mixer", {"mix_probability": 0.9}, {"mix": "cutmix"}),
    ("average", {"ema_decay": 0.9}, {}),
    ("optimizer", {"learning_rate": 0.5, "weight_decay": 0.5, "optim": "adamw_torch"}, {}),
    ("optimizer", {"optim_args": "momentum=0.5", "backbone_learning_rate_scale": 0.5}, {}),
    ("optimizer", {"adapter_learning_rate_scale": 0.5}, {}),
    ("optimizer", {"adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 0.5}, ADAM),
    ("schedule", {"lr_scheduler_type": "cosine"}, {"lr_scheduler_kwargs": {}}),
    ("schedule", {"lr_scheduler_kwargs": {"power": 2.0}, "warmup_steps": 4}, {}),
    ("loss", {"loss": "dice", **WEIGHTS, "adaptation_weight": 5.0, "affinity_weight": 5.0}, {}),
    ("loss", {"distillation_losses": {"hint": 1.0}, "distillation_schedule": "linear"}, {}),
    ("loss", {"adaptation_form": "channel", "adaptation_p": 2.0, "adaptation_q": 1.0}, {}),
    ("loss", {"squared_affinity_rows": True, "ignore_void_positions": True, "use_autoencoder": False}, {}),
    ("loss", {"teacher_scale": 2.0, "teacher_output_stride": 8, "student_tap": 0}, {}),
    ("loss", {"distillation_class_weights": True}, WEIGHTS),
    ("loss", {"teacher_tap": "encoder"}, {"use_autoencoder": False}),
    ("loss", {"teacher_label_map": SWAPPED, "correct_teacher": True}, LOGITS),
    ("maps", {"teacher_view": "image"}, {}),
    ("grid", {"teacher_logits_stride": 2}, {"teacher_view": "image", **LOGITS}),
    ("maps", {"teacher_maps_dir": "elsewhere"}, {"teacher_view": "image"}),
    ("balance", {"balanced_share": 0.2, "balanced_every": 3, "balanced_decay": 0.5}, {"adaptation_weight": "auto"}),
    ("warmup", {"adapter_warmup_steps": 5}, {}),
    ("warmup", {"adapter_warmup_optim": "sgd", "adapter_warmup_learning_rate": 0.5}, {"adapter_warmup_steps": 5}),
    ("first_stage", {"latent_channels": 4, "sparsity_weight": 1.0, "autoencoder_classifier_weight": 1.0}, {}),
    ("first_stage", {"autoencoder_epochs": 300.0, "autoencoder_max_steps": 700}, {}),
    ("first_stage", {"autoencoder_optim": "adamw_torch", "autoencoder_learning_rate": 0.5}, {}),
    ("first_stage", {"autoencoder_weight_decay": 0.5}, {}),
    ("first_stage", {"autoencoder_class_weights": True}, {**WEIGHTS, "autoencoder_classifier_weight": 1.0}),
    ("loader", {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "dataloader_num_workers": 2}, {}),
    ("loader", {"dataloader_drop_last": False, "train_sampling_strategy": "sequential"}, {}),
    ("loader", {"dataloader_prefetch_factor": 3, "dataloader_in_order": False}, {"dataloader_num_workers": 1}),
    ("loader", {"dataloader_persistent_workers": True}, {"dataloader_num_workers": 1}),
    ("loader", {"dataloader_multiprocessing_context": "spawn"}, {"dataloader_num_workers": 1}),
    ("steps", {"max_steps": 3}, {}),
    ("steps", {"num_train_epochs": 3.0}, {"max_steps": -1}),
    ("steps", {"gradient_accumulation_steps": 2}, {"max_steps": -1, "num_train_epochs": 3.0}),
]
CHANGES = {name: (where, value, base) for where, values, base in ROWS for name, value in values.items()}
REFUSED: dict[str, Any] = {
    "average_tokens_across_devices": False,
    "batch_eval_metrics": True,
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "activation_checkpointing": True,
    "gradient_checkpointing": True,
    "include_for_metrics": ["inputs"],
    "include_num_input_tokens_seen": "all",
    "label_names": ["labels"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "labelled_share": 0.25,  # without images that have no mask
    "mix_of": "unlabelled",  # without such images, or a mix
    "neftune_noise_alpha": 5.0,
    "optim_target_modules": "all-linear",
    "prediction_loss_only": True,
    "remove_unused_columns": True,
    "train_sampling_strategy": "group_by_length",
    "use_cache": True,
    "use_liger_kernel": True,
}
# Read by transformers, accelerate or torch alone, in code that the trainers here do not touch. (dataloader_pin_memory
# shows nothing without an accelerator.)
OF_TRANSFORMERS = """
dataloader_pin_memory accelerator_config activation_checkpointing_kwargs auto_find_batch_size bf16 bf16_full_eval
data_dir debug disable_tqdm enable_jit_checkpoint fp16 fp16_full_eval fsdp_config full_determinism
gradient_checkpointing_kwargs greater_is_better ignore_data_skip load_best_model_at_end local_rank max_grad_norm
metric_for_best_model output_dir parallelism_config project push_to_hub report_to
restore_callback_states_from_checkpoint run_name skip_memory_metrics sync_batch_norm tf32 use_cpu
ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
eval_delay eval_on_start eval_steps eval_strategy
hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
log_level log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy
save_on_each_node save_only_model save_steps save_strategy save_total_limit
torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
trackio_bucket_id trackio_space_id trackio_static_space_id
"""
# Refused by the trainers, see tests/trainer/test_segmentation_trainer.py.
SHARDING = {"fsdp", "deepspeed"}
# For the scripts of users, as transformers documents them.
OF_SCRIPTS = {"do_eval", "do_predict", "do_train", "resume_from_checkpoint"}


def trainer(kind: type, networks: Any, data: Any, output_dir: Path, fields: dict[str, Any]) -> Any:
    student, teacher, code = networks
    args = arguments(kind, output_dir, **fields)
    if kind is SegmentationConfig:
        return SegmentationTrainer(student, args, train_dataset=data, eval_dataset=data)
    return KnowledgeAdaptationTrainer(student, teacher, args, autoencoder=code, train_dataset=data, eval_dataset=data)


def own_kind(name: str) -> type:
    own = {item.name for item in dataclasses.fields(SegmentationConfig)}
    return SegmentationConfig if name in own else KnowledgeAdaptationConfig


_without: dict[str, Any] = {}


@pytest.mark.parametrize("name", CHANGES)
def test_something_changes_in_trainers(name: str, networks, data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    where, value, base = CHANGES[name]
    kind = own_kind(name)
    key = f"{kind.__name__} {where} {base}"
    if key not in _without:
        _without[key] = getattr(_Lines(trainer(kind, networks, data, tmp_path, base)), where)()
    changed = getattr(_Lines(trainer(kind, networks, data, tmp_path, {**base, name: value})), where)()
    assert changed != _without[key]


def test_what_changes_nothing_in_trainers_is_refused(networks, data, tmp_path) -> None:
    for name, value in REFUSED.items():
        with pytest.raises(ValueError, match=name):
            trainer(KnowledgeAdaptationConfig, networks, data, tmp_path, {name: value})
    with pytest.raises(ValueError, match="adam_beta1 would change nothing, as the optimizer is SGD"):
        arguments(SegmentationConfig, tmp_path, adam_beta1=0.5)


Table: TypeAlias = dict[str, tuple[Any, dict[str, Any]]]


def something_changes(table: Table, lines: Callable[..., Any]) -> None:
    """Every option of a table, beside the others that it names, changes what `lines` makes of options."""
    without: dict[str, Any] = {}
    for name, (value, base) in table.items():
        if repr(base) not in without:
            without[repr(base)] = lines(**base)
        assert lines(**{**base, name: value}) != without[repr(base)], name


def or_refused(lines: Callable[..., Any]) -> Callable[..., Any]:
    """The lines, or what is said of options that are refused."""

    def lines_or_words(**options: Any) -> Any:
        try:
            return lines(**options)
        except (ValueError, TypeError, FileNotFoundError) as error:
            return str(error)

    return lines_or_words


MODEL: Table = {
    "backbone": ("test_convnext", {}),
    "output_stride": (8, {}),
    "num_channels": (4, {}),
    "head": ("mlp", {}),
    "head_channels": (24, {}),
    "skip_channels": (8, {"head": "deeplabv3plus"}),
    "atrous_rates": ([1, 2, 3], {"head": "deeplabv3plus"}),
    "separable_head": (False, {"head": "deeplabv3plus"}),
    "classifier_dropout_prob": (0.5, {}),
    "tf_padding": (True, {"backbone": "mobilenetv2_035"}),
    "batch_norm_eps": (0.5, {"backbone": "mobilenetv2_035"}),
    "freeze_batch_norm": (True, {}),
    "pad_to_stride": (True, {}),
    "backbone_kwargs": ({"drop_path_rate": 0.2}, {}),
    "palette": ([[1, 2, 3], [4, 5, 6]], {}),
}


def model_lines(**fields: Any) -> Any:
    torch.manual_seed(0)
    small = {"backbone": "test_resnet", "output_stride": 16, "num_labels": 2, "head_channels": 16}
    model = KASegModel(KASegConfig(**{**small, **fields}))
    frozen = [m.training for m in model.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    image = torch.randn(1, model.config.num_channels, 33, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.eval()(image).logits
    return repr(model), frozen, logits.tolist(), model.config.palette


def test_something_changes_in_models() -> None:
    something_changes(MODEL, model_lines)
    for name in ("output_strid", "in_channels", "heads", "classifier_dropout"):
        with pytest.raises(ValueError, match=f"no field {name!r}. Did you mean"):
            KASegConfig(**{name: 8})
    assert KASegConfig(trained_by="me").trained_by == "me"  # fields of other tools are kept


RESIZED = {"do_resize": True, "size": {"height": 16, "width": 16}}
PADDED = {"do_pad": True}
PROCESSOR: Table = {
    "do_convert_rgb": (False, {"image_mean": 0.5, "image_std": 0.5}),
    "do_resize": (True, {"do_resize": False, "size": {"height": 16, "width": 16}}),
    "size": ({"height": 8, "width": 8}, RESIZED),
    "resample": (PILImageResampling.NEAREST, RESIZED),
    "do_rescale": (False, {}),
    "rescale_factor": (1 / 100, {}),
    "do_normalize": (False, {}),
    "image_mean": ([0.1, 0.1, 0.1], {}),
    "image_std": ([0.1, 0.1, 0.1], {}),
    "do_pad": (True, {"do_pad": False, "size_divisor": 32}),
    "pad_size": ({"height": 64, "width": 64}, PADDED),
    "size_divisor": (64, PADDED),
    "ignore_index": (-100, {**PADDED, "size_divisor": 64}),
}


def test_something_changes_in_processors() -> None:
    rng = np.random.default_rng(0)
    image, mask = (Image.fromarray(rng.integers(0, high, (24, 40), np.uint8)) for high in (256, 2))

    def lines(called: dict[str, Any] | None = None, **made: Any) -> Any:
        inputs = KASegImageProcessor(**made)(image, mask, return_tensors="pt", **(called or {}))
        return {key: tensor.tolist() for key, tensor in inputs.items()}

    something_changes(PROCESSOR, lines)
    for name, (value, base) in PROCESSOR.items():  # or as an option of a call
        assert lines({name: value}, **base) == lines(**{**base, name: value}), name


ADAPTER: Table = {
    "tap": ("encoder", {}),
    "num_labels": (5, {}),
    "image_mean": ([0.1, 0.1, 0.1], {"image_std": [1.0, 1.0, 1.0]}),
    "image_std": ([2.0, 2.0, 2.0], {"image_mean": [0.5, 0.5, 0.5]}),
    "student_mean": ([0.1, 0.1, 0.1], {"student_std": [1.0, 1.0, 1.0]}),
    "student_std": ([2.0, 2.0, 2.0], {"student_mean": [0.5, 0.5, 0.5]}),
    "flip_channels": (True, {}),
    "class_names": (["a", "b"], {}),
    "student_labels": ({0: "LABEL_1", 1: "LABEL_0"}, {}),
    "label_map": (SWAPPED, {"student_labels": {0: "LABEL_0", 1: "LABEL_1"}}),
    "model_inputs": ({"unknown": torch.zeros(1)}, {}),
    "input_size": (InputSize(fixed=(64, 64)), {}),
    "image_scale": (2.0, {}),
    "output_stride": (8, {}),
}


def test_something_changes_in_teachers(networks) -> None:
    def lines(**options: Any) -> Any:
        adapter = TeacherAdapter(networks[1], **options)
        output = adapter(torch.randn(1, 3, 33, 33, generator=torch.Generator().manual_seed(0)))
        known = None if adapter.known_classes is None else adapter.known_classes.tolist()
        return output.features.tolist(), output.logits.tolist(), adapter.class_names, known

    assert "encoder" in list_taps(networks[1])
    something_changes(ADAPTER, or_refused(lines))
    with pytest.raises(ValueError, match="label_map.*student_labels"):  # which alone would change nothing
        TeacherAdapter(networks[1], label_map=SWAPPED)


PROTOCOL: Table = {
    "mode": ("slide", {}),
    "crop_size": (16, {"mode": "slide", "overlap": 4}),
    "overlap": (12, {"mode": "slide", "crop_size": 16}),
    "scales": ((0.5, 2.0), {}),
    "flip": (True, {}),
}


def test_something_changes_in_protocols(networks) -> None:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    def seen(**options: Any) -> list[str]:
        protocol, sums = InferenceProtocol(**options), []
        handle = networks[0].register_forward_pre_hook(
            lambda module, args, kwargs: sums.append(str([a.sum().item() for a in (*args, *kwargs.values())])),
            with_kwargs=True,
        )
        list(predict_masks(networks[0].eval(), images, [(48, 48)] * 2, protocol))
        handle.remove()
        return sums

    something_changes(PROTOCOL, or_refused(lambda **options: InferenceProtocol(**options).describe()))
    something_changes(PROTOCOL, or_refused(seen))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in two layouts, with a damaged image in each."""
    root = tmp_path_factory.mktemp("own")
    for image_folder, mask_folder, value in (("images", "masks", 0), ("photos", "labels", 1)):
        for kind, mode, color in ((image_folder, "RGB", (50, 100 * value, 0)), (mask_folder, "L", value)):
            (root / "train" / kind).mkdir(parents=True)
            for name in ("a", "b"):
                Image.new(mode, (8, 8), color).save(root / "train" / kind / f"{name}.png")
        (root / "train" / image_folder / "b.png").write_bytes(b"damaged")
    (root / "classes.txt").write_text("zero\none\n")
    (root / "others.json").write_text('{"0": null, "1": "zero", "2": "one"}')
    return root


LOADING: Table = {
    "split": ("validation", {}),
    "data_dir": ("nowhere", {}),
    "streaming": (True, {}),
    "image_column": ("img", {}),
    "label_column": ("mask", {}),
    "label_space": (None, {}),  # a file of the folder
    "revision": ("v1", {}),
    "config_name": ("small", {}),
    "image_folder": ("photos", {}),
    "label_folder": ("labels", {}),
    "on_error": ("skip", {}),
    "skipped": ([], {}),
    "num_proc": (2, {}),
    "num_scenes": (3, {}),  # one of scene_options
}


def test_something_changes_in_loading(folder: Path) -> None:
    def lines(**options: Any) -> Any:
        loaded = load_segmentation_dataset(folder, **{"split": "train", **options})
        if isinstance(loaded, datasets.IterableDataset):
            return "a stream"
        pixels = loaded[0]["image"].getpixel((0, 0)), loaded[0]["label"].getpixel((0, 0))
        return len(loaded), pixels, str(loaded.info.features)

    something_changes({**LOADING, "label_space": (folder / "others.json", {})}, or_refused(lines))


def test_every_option_is_here() -> None:
    fields = {item.name for item in dataclasses.fields(KnowledgeAdaptationConfig) if item.init}
    listed = CHANGES.keys() | REFUSED.keys() | set(OF_TRANSFORMERS.split()) | SHARDING | OF_SCRIPTS
    assert not fields - listed, "say in ROWS where it shows, or refuse it"
    assert not (CHANGES.keys() | REFUSED.keys()) - fields
    of_models = inspect.signature(KASegConfig.__init__).parameters.keys() - {"self", "kwargs"}
    assert of_models - MODEL.keys() == {"semantic_loss_ignore_index"}  # tested with the losses
    documented = re.findall(r"^        (\w+) \(`", KASegImageProcessor.__doc__ or "", re.MULTILINE)
    assert set(documented) <= PROCESSOR.keys() | {"do_reduce_labels"}
    of_teachers = inspect.signature(TeacherAdapter.__init__).parameters.keys() - {"self", "model"}
    assert of_teachers == ADAPTER.keys()
    assert {item.name for item in dataclasses.fields(InferenceProtocol)} == PROTOCOL.keys()
    of_loading = inspect.signature(load_segmentation_dataset).parameters.keys() - {"name", "scene_options"}
    assert of_loading == LOADING.keys() - {"num_scenes"}
