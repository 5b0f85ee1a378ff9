import copy
import functools
import json
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F
from toy import states_equal, vary_batch_norm
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    pipeline,
)

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.configuration_kaseg import HEADS
from kaseg.modeling_kaseg import align_to_image

# One of each family of small encoders since 2023, at strides that they can do.
MODERN = [
    {"backbone": "mobilenetv4_conv_small_050", "output_stride": 16},
    {"backbone": "mobilenetv4_conv_medium", "output_stride": 32},
    {"backbone": "efficientvit_b0", "output_stride": 32},
    {
        "backbone": "repvit_m0_9",
        "output_stride": 16,
        "backbone_kwargs": {"embed_dim": (16, 24, 32, 48), "depth": (1, 1, 2, 1)},
    },
    {
        "backbone": "fastvit_t8",
        "output_stride": 32,
        "backbone_kwargs": {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)},
    },
    {"backbone": "starnet_s050", "output_stride": 16},
    {
        "backbone": "convnextv2_atto",
        "output_stride": 16,
        "backbone_kwargs": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    },
]
MOBILENET = {"backbone": "mobilenetv2_035"}
SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
ARCHITECTURES = [
    {"backbone": "mobilenetv2_035", "output_stride": 32},
    {"backbone": "mobilenetv2_035", "output_stride": 16},
    {"backbone": "mobilenetv2_035", "output_stride": 8},
    {"backbone": "mobilenetv2_035", "output_stride": 4},
    {"backbone": "mobilenetv2_035", "output_stride": 16, "head": "deeplabv3plus"},
    {"backbone": "resnet10t", "output_stride": 8, "head": "deeplabv3plus", "separable_head": False},
    {"backbone": "test_convnext", "output_stride": 16, "head": "deeplabv3plus"},
    {"backbone": "mobilenetv3_small_050", "output_stride": 16, "head": "lraspp"},
    {"backbone": "test_resnet", "output_stride": 4, "head": "lraspp"},  # cannot dilate beyond 8
    {"backbone": "test_efficientnet", "output_stride": 32, "head": "mlp"},
    {"backbone": "test_resnet", "output_stride": 8, "head": "fpn"},
    {"backbone": "test_convnext", "output_stride": 32, "head": "fpn", "separable_head": False},
    # These cannot dilate.
    {"backbone": "test_mambaout", "output_stride": 16},
    {"backbone": "starnet_s050", "output_stride": 8, "head": "deeplabv3plus"},
    {"backbone": "test_vit", "output_stride": 8},
    {"backbone": "test_vit", "output_stride": 16, "head": "fpn"},
    {"backbone": "swin_tiny_patch4_window7_224", "output_stride": 16, "head": "mlp", "backbone_kwargs": SWIN},
    {"backbone": "swin_tiny_patch4_window7_224", "output_stride": 8, "head": "lraspp", "backbone_kwargs": SWIN},
    *MODERN,
]
# Tracing takes seconds: each head once, and each way to treat a trunk.
TRACED = [ARCHITECTURES[i] for i in (1, 6, 8, 9, 10, 12, 14, 17)]


def _name(architecture: dict) -> str:
    return "-".join(str(value) for key, value in architecture.items() if key != "backbone_kwargs")


def _small(**kwargs) -> KASegModel:
    if "id2label" not in kwargs:
        kwargs.setdefault("num_labels", 5)
    kwargs = {"backbone": "test_resnet", "output_stride": 32, **kwargs}
    return KASegModel(KASegConfig(**kwargs))


def _varied(model: torch.nn.Module) -> torch.nn.Module:
    """Other BatchNorm than the initial one; zeros (ResNets) would block the gradient."""
    for module in vary_batch_norm(model).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@functools.cache
def _built(index: int) -> KASegModel:
    return _varied(_small(head_channels=32, **ARCHITECTURES[index]))


@pytest.fixture(params=ARCHITECTURES, ids=_name)
def model(request: pytest.FixtureRequest) -> KASegModel:
    return copy.deepcopy(_built(ARCHITECTURES.index(request.param)))


class TestEveryArchitecture:
    def test_any_size_and_fused(self, model: KASegModel) -> None:
        model.eval()
        stride, image = model.feature_stride, torch.randn(1, 3, 65, 97)
        with torch.no_grad():
            for seen in (torch.randn(1, 3, 64, 1), torch.randn(1, 3, 5, 7), image):
                before = model(seen, output_hidden_states=True)
                assert before.logits.shape == (1, 5, -(-seen.shape[2] // stride), -(-seen.shape[3] // stride))
                assert torch.isfinite(before.logits).all()
            assert model.fuse() is model
            after = model(image, output_hidden_states=True)
        for was, now in zip((before.logits, *before.hidden_states), (after.logits, *after.hidden_states), strict=True):
            torch.testing.assert_close(now, was, rtol=1e-4, atol=1e-5 * float(was.abs().max()))
        # Left are those that follow a sum of maps.
        left = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert set(left) <= {"merge.merge.norm", "head.fuse.norm"}

    @pytest.mark.parametrize("architecture", [*TRACED, *MODERN], ids=_name)
    def test_save_load_is_bit_equal(self, architecture: dict, tmp_path: Path) -> None:
        model, image = _built(ARCHITECTURES.index(architecture)).eval(), torch.randn(1, 3, 65, 97)
        model.save_pretrained(tmp_path)
        loaded = KASegModel.from_pretrained(tmp_path)
        assert not loaded.training and states_equal(model.state_dict(), loaded.state_dict())
        with torch.no_grad():
            # Not bit for bit: convolutions pick their kernels by how the weights lie in memory.
            before = model(image).logits
            scale = max(1.0, float(before.abs().max()))
            torch.testing.assert_close(loaded(image).logits, before, rtol=1e-5, atol=1e-5 * scale)

    def test_gradients_reach_every_parameter(self, model: KASegModel) -> None:
        model.train()
        loss = model(torch.randn(2, 3, 65, 65), labels=torch.randint(0, 5, (2, 65, 65))).loss
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    @pytest.mark.slow
    @pytest.mark.parametrize("architecture", TRACED[1:], ids=_name)  # the student's head is on two further trunks
    def test_compiles_without_a_graph_break(self, architecture: dict) -> None:
        traced_model = copy.deepcopy(_built(ARCHITECTURES.index(architecture))).eval()
        image = torch.randn(1, 3, 65, 97)
        compiled = torch.compile(traced_model, backend="eager", fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(compiled(image).logits, traced_model(image).logits)


class TestFuse:
    def test_a_fused_model_is_neither_saved_nor_trained_nor_converted(self, tmp_path) -> None:
        model = _small().eval().fuse()
        assert model.fuse() is model and not model.eval().training
        with pytest.raises(ValueError, match="save it before fuse"):
            model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="no BatchNorm left to train"):
            model.train()
        with pytest.raises(ValueError, match="before fuse"):
            model.to_transformers()
        assert list(tmp_path.iterdir()) == []

    def test_branches_for_training_are_merged(self) -> None:
        model = _small(backbone="repvgg_a0", backbone_kwargs={"out_indices": (0, 1, 2)}, output_stride=8).eval()
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before, parameters = model(image).logits, model.num_parameters()
            after = model.fuse()(image).logits
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
        assert model.num_parameters() < 0.95 * parameters


class TestForward:
    def test_loss_is_cross_entropy_at_label_size_without_void(self) -> None:
        model = _small().eval()
        images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
        labels[:, :20] = 255
        outputs = model(images, labels=labels)
        logits = F.interpolate(outputs.logits, size=(64, 96), mode="bilinear", align_corners=False)
        assert outputs.loss.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-6)
        (as_tuple,) = model(images, return_dict=False)
        assert torch.equal(as_tuple, outputs.logits)
        loss = model.train()(images, labels=torch.full_like(labels, 255)).loss
        loss.backward()
        assert loss.item() == 0.0, "all void"
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.parametrize("head", HEADS)
    def test_other_numbers_of_channels_and_classes(self, head: str) -> None:
        model = _small(head=head, num_channels=4, head_channels=24, num_labels=2).eval()
        outputs = model(torch.randn(1, 4, 64, 64), output_hidden_states=True)
        assert len(outputs.hidden_states) == len(model.encoder.channels) + 1
        side = 64 // model.feature_stride
        assert outputs.logits.shape == (1, 2, side, side)
        assert outputs.hidden_states[-1].shape == (1, 24, side, side)
        assert torch.equal(model.classifier(outputs.hidden_states[-1]), outputs.logits)


IMAGES = torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _small()(IMAGES[:, :1]), ValueError, r"\(batch, 3, height, width\), got \(2, 1, 64, 64\)"),
        (lambda: _small()(IMAGES, IMAGES[:, :1].long()), ValueError, r"labels must have shape .* got \(2, 1, 64, 64\)"),
        (lambda: _small().train()(IMAGES[:1]), ValueError, "batch of two or more"),
        (lambda: _small().train().fuse(), ValueError, "call eval"),
        (lambda: KASegModel.from_transformers(_small()), ValueError, "teacher="),
        (lambda: KASegModel(KASegConfig(), backbone_weights="no.safetensors"), FileNotFoundError, r"no\.safetensors"),
        (lambda: KASegModel(KASegConfig(), pretrained_backbone=True), OSError, "backbone_weights"),  # no network
    ],
)
def test_what_cannot_be_is_refused(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("through", [KASegModel, AutoModelForSemanticSegmentation])
def test_another_architecture_than_the_checkpoints_is_refused_or_asked_for(through: Any, tmp_path: Path) -> None:
    _small().save_pretrained(tmp_path)
    for fields, field in (
        ({"head": "fpn"}, "head='fpn'; its own is 'student'"),
        ({"head_channels": 8}, "head_channels=8"),
    ):
        with pytest.raises(ValueError, match=field):
            through.from_pretrained(tmp_path, **fields)
        model = through.from_pretrained(tmp_path, **fields, ignore_mismatched_sizes=True)
        assert {name: getattr(model.config, name) for name in fields} == fields
    assert through.from_pretrained(tmp_path, output_stride=8).config.output_stride == 8  # the same weights
    model, info = through.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]


@pytest.mark.parametrize(
    ("own", "asked", "refused"),
    [
        ({"tf_padding": True}, {"backbone": "resnet18"}, "tf_padding"),
        ({"batch_norm_eps": 1e-3}, {"backbone": "test_vit"}, "batch_norm_eps"),
        ({"tf_padding": True, "batch_norm_eps": 1e-3}, {"backbone": "test_convnext"}, "batch_norm_eps, tf_padding"),
        ({"backbone_kwargs": {"bn_momentum": 0.1}}, {"backbone": "test_resnet"}, "backbone_kwargs['bn_momentum']"),
        ({}, {"tf_padding": True}, "tf_padding"),
        ({}, {"batch_norm_eps": 1e-3}, "batch_norm_eps"),
        ({}, {"backbone_kwargs": {"foo": 1}}, "backbone_kwargs['foo']"),
    ],
    ids=str,
)
def test_fields_that_another_encoder_does_not_take_are_named(own: dict, asked: dict, refused: str, tmp_path) -> None:
    """Also those that were not asked for, but are the checkpoint's own."""
    _small(**(MOBILENET if own else {}), **own).save_pretrained(tmp_path)
    more = {"ignore_mismatched_sizes": True}
    for load in (KASegModel.from_pretrained, partial(AutoModelForSemanticSegmentation.from_pretrained, **more)):
        with pytest.raises(ValueError, match="cannot be loaded as it was asked for") as caught:
            load(tmp_path, **asked)
        field, value = next(iter(asked.items()))
        assert f"({field}={value!r}; its own is " in str(caught.value)
        assert f"Leave out of its KASegConfig: {refused};" in str(caught.value)
        assert "feature maps" not in str(caught.value)


def _resampled(values: np.ndarray, axis: int, length: int, stride: int) -> np.ndarray:
    """A map of a padded image, at the places where cells that divide `length` pixels evenly have their centers."""
    cells = math.ceil(length / stride)
    pixels = (np.arange(cells) + 0.5) * length / cells
    places = pixels / stride - 0.5
    own = np.arange(values.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(places, own, line), axis, values)


class TestPadToStride:
    @pytest.mark.parametrize(
        "architecture",
        [
            {"output_stride": 16},
            {**MOBILENET, "output_stride": 16, "tf_padding": True},
            {"output_stride": 8, "head": "deeplabv3plus"},
            {"backbone": "test_mambaout", "output_stride": 16},
        ],
        ids=lambda a: "-".join(str(v) for v in a.values()),
    )
    def test_it_is_the_padded_image_resampled(self, architecture: dict) -> None:
        model = _small(head_channels=16, **architecture).eval()
        multiple = max(*model.encoder.reductions, architecture["output_stride"])
        strides = (*model.encoder.reductions, model.feature_stride, model.feature_stride)
        for size in ((65, 100), (90, 33), (7, 250)):
            image = torch.randn(2, 3, *size)
            padded = torch.zeros(2, 3, *(math.ceil(side / multiple) * multiple for side in size))
            padded[..., : size[0], : size[1]] = image
            with torch.no_grad():
                model.config.pad_to_stride = False
                plain, whole = (model(x, output_hidden_states=True) for x in (image, padded))
                model.config.pad_to_stride = True
                outputs = model(image, output_hidden_states=True)
            found, unpadded, of_padded = ((*o.hidden_states, o.logits) for o in (outputs, plain, whole))
            assert len(found) == len(strides)
            for own, before, other, stride in zip(found, unpadded, of_padded, strides, strict=True):
                expected = other.double().numpy()
                for axis, length in zip((2, 3), size, strict=True):
                    expected = _resampled(expected, axis, length, stride)
                assert own.shape == before.shape
                torch.testing.assert_close(own.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            fitting = model(padded).logits
            model.config.pad_to_stride = False
            assert torch.equal(model(padded).logits, fitting), "an image that needs no padding"

    def test_resizing_puts_it_where_it_is(self) -> None:
        """A map of its own pixel coordinates, stretched over the image, says where each pixel is."""
        size, stride = (360, 470), 16
        cells = [math.ceil(side / stride) for side in size]
        rows, columns = ((torch.arange(count) + 0.5) * stride for count in cells)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        own = torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij"))
        inside = (..., slice(stride, -stride), slice(stride, -stride))

        def error(feature_map: torch.Tensor) -> float:
            found = F.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)[0]
            return float((found - own)[inside].abs().max())

        assert error(places) > 6 and error(align_to_image(places, size, stride)) < 0.5

    def test_gradients_reach_every_parameter_and_types_are_kept(self) -> None:
        model = _small(output_stride=16, pad_to_stride=True).train()
        for autocast, dtype in ((False, torch.float32), (True, torch.bfloat16)):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs = model(torch.randn(2, 3, 50, 70), labels=torch.randint(0, 5, (2, 50, 70)))
            assert outputs.logits.dtype == dtype
            outputs.loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
        for dtype in (torch.float64, torch.bfloat16):
            with torch.no_grad():
                assert model.eval().to(dtype)(torch.randn(1, 3, 50, 70, dtype=dtype)).logits.dtype == dtype


def test_frozen_statistics_and_weights_stay() -> None:
    model = _small(freeze_batch_norm=True).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [(m.running_mean.clone(), m.weight.clone()) for m in norms]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # A single image is fine when no statistics are taken.
    model(torch.randn(1, 3, 64, 64), labels=torch.randint(0, 5, (1, 64, 64))).loss.backward()
    optimizer.step()
    for norm, (mean, weight) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean) and torch.equal(norm.weight, weight)
    assert model.training and model.classifier.weight.grad.any()


class TestPretrainedEncoder:
    def test_weights_from_a_file_are_timms_own(self, tmp_path) -> None:
        source = vary_batch_norm(timm.create_model("test_resnet", pretrained=False))
        timm.models.save_for_hf(source, str(tmp_path), safe_serialization=True)
        config = KASegConfig(backbone="test_resnet", output_stride=16, num_labels=3)
        model = KASegModel(config, backbone_weights=tmp_path / "model.safetensors")
        body = model.encoder.body.state_dict()
        assert body.keys() <= source.state_dict().keys()
        assert all(torch.equal(body[name], source.state_dict()[name]) for name in body)

    def test_loading_a_checkpoint_never_asks_for_them(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        _small().save_pretrained(tmp_path)
        monkeypatch.setattr("kaseg.encoders.Encoder.load_pretrained", None)  # calling it would fail
        KASegModel.from_pretrained(tmp_path)

    def test_real_imagenet_weights(self, imagenet_weights) -> None:
        model = KASegModel(KASegConfig(), backbone_weights=imagenet_weights)
        assert model.encoder.body.bn1.running_mean.abs().sum() > 0


class TestConfig:
    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"output_stride": 12}, "output_stride must be one of"),
            ({"head": "unet"}, "head must be one of"),
            ({"num_labels": 3, "palette": [[0, 0, 0]]}, "palette has 1 colors"),
            ({"num_labels": 1}, "has 1 class.*Use two classes"),
            ({"id2label": {0: "crack"}}, "has 1 class.*Use two classes"),
            ({"num_labels": 0}, "has 0 class"),
            ({"id2label": {1: "sky", 2: "road"}}, "ids 1, 2; they must be 0 to 1"),
            ({"id2label": {"0": "sky", "7": "road"}}, "ids 0, 7; they must be 0 to 1"),
            ({"id2label": {0: "sky", 1: "road", 2: "sky"}}, "names sky more than once"),
            ({"id2label": {0: "sky", 1: "road"}, "num_labels": 3}, "num_labels is 3, but id2label names 2 classes"),
            ({"id2label": {0: "sky", 1: "road"}, "label2id": {"sky": 1, "road": 0}}, "label2id says otherwise"),
            ({"semantic_loss_ignore_index": 0}, "void is 255 everywhere"),
            ({"semantic_loss_ignore_index": -100}, "void is 255 everywhere"),
        ],
    )
    def test_bad_fields(self, fields: dict, message: str, tmp_path) -> None:
        with pytest.raises(ValueError, match=message):
            KASegConfig(**fields)
        # Wherever else such a field may come from.
        KASegConfig().save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**stored, **fields}))
        with pytest.raises(ValueError, match=message):
            KASegConfig.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "field, value", [("num_labels", 1), ("id2label", {0: "sky", 2: "road"}), ("semantic_loss_ignore_index", 0)]
    )
    def test_what_is_set_later_is_looked_at_too(self, field: str, value, tmp_path) -> None:
        config = KASegConfig()
        config.save_pretrained(tmp_path)
        setattr(config, field, value)
        for use in (partial(KASegModel, config), partial(KASegConfig.from_pretrained, tmp_path, **{field: value})):
            with pytest.raises(ValueError, match="class|ids 0, 2|void is 255"):
                use()

    def test_classes_come_in_the_order_of_their_ids(self) -> None:
        config = KASegConfig(id2label={"1": "road", "0": "sky"})
        assert list(config.id2label.items()) == [(0, "sky"), (1, "road")]
        assert config.label2id == {"sky": 0, "road": 1}

    def test_round_trip(self, tmp_path) -> None:
        config = KASegConfig(output_stride=8, num_labels=2, palette=[[1, 2, 3], [4, 5, 6]], batch_norm_eps=1e-3)
        config.save_pretrained(tmp_path)
        loaded = KASegConfig.from_pretrained(tmp_path).to_dict()
        assert all(loaded[name] == value for name, value in config.to_dict().items() if name != "transformers_version")

    def test_colors_stay_where_the_number_of_classes_does(self, tmp_path) -> None:
        colors = [[1, 2, 3], [4, 5, 6]]
        KASegConfig(num_labels=2, palette=colors).save_pretrained(tmp_path)
        assert KASegConfig.from_pretrained(tmp_path, num_labels=2).palette == colors
        assert KASegConfig.from_pretrained(tmp_path, num_labels=3).palette is None

    def test_atrous_rates_double_at_stride_8(self) -> None:
        assert KASegConfig(output_stride=16).resolved_atrous_rates == [6, 12, 18]
        assert KASegConfig(output_stride=8).resolved_atrous_rates == [12, 24, 36]


class TestTransformersImport:
    @pytest.mark.parametrize("stride, tf_padding", [(8, True), (16, False), (32, True)])
    def test_random_network_gives_the_same_logits(self, stride: int, tf_padding: bool) -> None:
        fields = {"depth_multiplier": 0.5, "finegrained_output": False, "classifier_dropout_prob": 0.3, "num_labels": 7}
        config = MobileNetV2Config(output_stride=stride, tf_padding=tf_padding, **fields)
        source = _varied(MobileNetV2ForSemanticSegmentation(config)).eval()
        model = KASegModel.from_transformers(source)
        image = torch.randn(2, 3, 97, 130)
        with torch.no_grad():
            expected, logits = source(image).logits, model(image).logits
        assert logits.shape == expected.shape and model.config.classifier_dropout_prob == 0.3
        assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()

    @pytest.mark.slow
    def test_real_voc_network_on_real_images(self, voc_deeplab, voc) -> None:
        source = MobileNetV2ForSemanticSegmentation.from_pretrained(voc_deeplab).eval()
        processor = AutoImageProcessor.from_pretrained(voc_deeplab)
        model = KASegModel.from_transformers(source)
        assert model.config.id2label == source.config.id2label
        own = KASegImageProcessor(image_mean=processor.image_mean, image_std=processor.image_std)
        names = (voc / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[::16]
        same = pixels = 0
        for name in names:
            image = Image.open(voc / f"VOC2012/JPEGImages/{name}.jpg")
            with torch.no_grad():
                expected = source(**processor(image, return_tensors="pt"))
                outputs = model(**own(image, return_tensors="pt"))
            assert (outputs.logits - expected.logits).abs().max() <= 1e-4 * expected.logits.abs().max(), name
            size = [(image.height, image.width)]
            ours = own.post_process_semantic_segmentation(outputs, size)[0]
            theirs = processor.post_process_semantic_segmentation(expected, size)[0]
            same += int((ours == theirs).sum())
            pixels += theirs.numel()
        assert len(names) == 2
        assert same >= 0.999 * pixels


class TestTransformersExport:
    @pytest.mark.parametrize(
        "fields",
        [
            {**MOBILENET, "output_stride": 4, "tf_padding": True},
            {**MOBILENET, "output_stride": 8},
            {**MOBILENET, "output_stride": 16, "tf_padding": True, "batch_norm_eps": 1e-3},
            {"backbone": "mobilenetv2_140.ra_in1k", "output_stride": 32},
        ],
    )
    def test_same_logits_and_the_way_back(self, fields: dict) -> None:
        model = _varied(_small(id2label={0: "sky", 1: "road"}, **fields)).eval()
        converted = model.to_transformers()
        assert not converted.training and type(converted) is MobileNetV2ForSemanticSegmentation
        assert converted.config.id2label == {0: "sky", 1: "road"}
        for size in ((64, 96), (33, 47)):
            image = torch.randn(1, 3, *size)
            with torch.no_grad():
                expected, logits = model(image).logits, converted(image).logits
            assert logits.shape == expected.shape
            assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
        back, own = KASegModel.from_transformers(converted).state_dict(), model.state_dict()
        assert back.keys() == own.keys() and all(torch.equal(back[name], own[name]) for name in own)

    def test_what_transformers_does_not_read_comes_back_too(self) -> None:
        palette = [[0, 0, 0], [1, 2, 3]]
        fields = {"palette": palette, "pad_to_stride": True, "tf_padding": True}
        model = _small(id2label={0: "sky", 1: "road"}, **MOBILENET, **fields)
        back = KASegModel.from_transformers(model.to_transformers()).config
        left_out = ("architectures", "dtype", "batch_norm_eps")  # transformers names an epsilon where we take timm's
        for name, value in model.config.to_dict().items():
            assert name in left_out or back.to_dict()[name] == value, name

    @pytest.mark.parametrize(
        "fields, reason",
        [
            ({"backbone": "mobilenetv3_small_050"}, "the encoder is mobilenetv3_small_050"),
            ({"backbone": "mobilenetv2_110d"}, "the encoder is mobilenetv2_110d"),
            ({"head": "lraspp"}, "the head is 'lraspp'"),
            ({"head_channels": 32}, "head_channels is 32"),
            ({"backbone_kwargs": {"act_layer": "relu"}}, "backbone_kwargs has act_layer"),
        ],
    )
    def test_what_transformers_has_not_is_refused_with_what_can_be_done(self, fields: dict, reason: str) -> None:
        with pytest.raises(ValueError, match=f"{reason}.*--format onnx.*--with-code"):
            _small(**{**MOBILENET, **fields}).to_transformers()


class TestAutoClasses:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A checkpoint of three classes."""
        folder = tmp_path_factory.mktemp("model")
        model = _small(id2label={0: "sky", 1: "road", 2: "car"}, palette=[[0, 0, 0]] * 3)
        torch.nn.init.normal_(model.classifier.bias)
        model.save_pretrained(folder)
        KASegImageProcessor().save_pretrained(folder)
        return folder

    @pytest.fixture
    def log(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        caplog.set_level(logging.WARNING)
        return caplog

    def test_pipeline(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        segment = pipeline("image-segmentation", model=str(folder), device="cpu")
        result = segment(Image.new("L", (75, 50), 128))
        assert [r for r in log.records if r.levelno >= logging.ERROR] == []
        assert result and {item["label"] for item in result} <= {"sky", "road", "car"}
        assert all(item["mask"].size == (75, 50) for item in result)

    def test_another_number_of_classes_needs_to_be_asked_for(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="3 classes, 9 were asked for.*num_labels=9, ignore_mismatched_sizes=True"):
            KASegModel.from_pretrained(folder, num_labels=9)
        with pytest.raises(ValueError, match="3 classes, 2 were asked for"):
            AutoModelForSemanticSegmentation.from_pretrained(folder, id2label={0: "a", 1: "b"})
        model = KASegModel.from_pretrained(folder, num_labels=9, ignore_mismatched_sizes=True)
        assert model.classifier.weight.shape[0] == len(model.config.label2id) == 9 and model.config.palette is None
        # A replaced classifier is initialized, not left as raw memory.
        assert 0.005 < model.classifier.weight.std() < 0.02 and not model.classifier.bias.any()

    @pytest.mark.parametrize("how", ["id2label", "config", "auto"])
    @pytest.mark.parametrize(
        ("names", "rows"),
        [
            (["car", "sky", "road"], [2, 0, 1]),
            (["sky", "bicycle", "Road "], [0, None, 1]),
            (["tree", "bicycle", "person"], [None, None, None]),
            (["person", "car"], [None, 2]),
            (["car", "person", "sky", "tree"], [2, None, 0, None]),
            (["LABEL_0", "LABEL_1", "LABEL_2"], [None, None, None]),
            (["sky", "road", "car"], [0, 1, 2]),
        ],
    )
    def test_rows_of_the_classifier_follow_their_names(self, folder: Path, log, names, rows, how: str) -> None:
        # Ids may be strings, as JSON has them, in any order.
        id2label = {str(index): name for index, name in reversed([*enumerate(names)])}
        labels = {"id2label": id2label, "ignore_mismatched_sizes": True}
        if how == "config":
            labels["config"] = KASegConfig.from_pretrained(folder, id2label=labels.pop("id2label"))
        source = AutoModelForSemanticSegmentation if how == "auto" else KASegModel
        old, new = KASegModel.from_pretrained(folder), source.from_pretrained(folder, **labels)
        assert list(new.config.id2label.items()) == [*enumerate(names)] and new.config.num_labels == len(names)
        assert new.config.label2id == {name: index for index, name in enumerate(names)}
        for index, row in enumerate(rows):
            if row is None:
                assert new.classifier.bias[index] == 0 and 0 < new.classifier.weight[index].std() < 0.02
            else:
                assert torch.equal(new.classifier.weight[index], old.classifier.weight[row])
                assert new.classifier.bias[index] == old.classifier.bias[row]
        assert all(torch.equal(a, b) for a, b in zip(old.encoder.parameters(), new.encoder.parameters(), strict=True))
        fresh = [name for name, row in zip(names, rows, strict=True) if row is None]
        assert (f"are {len(fresh)}: {', '.join(fresh)}." in log.text) == bool(fresh)
        assert new(torch.zeros(1, 3, 32, 32)).logits.shape[1] == len(names)

    def test_a_checkpoint_without_names_keeps_its_rows(self, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        old = _small(num_labels=3)
        old.save_pretrained(tmp_path)
        new = KASegModel.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
        assert torch.equal(new.classifier.weight, old.classifier.weight) and new.config.id2label[2] == "c"
        assert "kept in their order" in log.text

    @pytest.mark.parametrize("names", [["sky", "road", "car"], "sky,road,car"])
    def test_names_without_ids_are_refused(self, names: Any, folder: Path) -> None:
        for make in (KASegConfig, partial(KASegModel.from_pretrained, folder)):
            with pytest.raises(ValueError, match="id2label must be a dictionary"):
                make(id2label=names)
