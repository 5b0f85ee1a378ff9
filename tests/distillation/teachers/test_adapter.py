from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import make_model

from kaseg import KASegImageProcessor, KASegModel
from kaseg.distillation import TeacherAdapter, list_taps
from kaseg.distillation.teachers import InputSize

IMAGE = torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


_kaseg = partial(make_model, num_labels=5)


def test_weights_are_laid_out_for_speed_and_keep_their_values() -> None:
    model = _kaseg()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TeacherAdapter(model)
    wide = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    assert wide and all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in wide)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestImageScale:
    @pytest.mark.parametrize("scale, sides", [(1.5, (96, 96)), (0.5, (32, 32)), (1.25, (80, 80))])
    def test_maps_of_resized_images_come_back_in_their_size_at_1(self, scale: float, sides: tuple[int, int]) -> None:
        model = _kaseg(head="deeplabv3plus")
        resized = F.interpolate(IMAGE, size=sides, mode="bilinear", align_corners=False, antialias=scale < 1)
        plain, expected = TeacherAdapter(model)(IMAGE), TeacherAdapter(model)(resized)
        mode = {"mode": "area"} if scale > 1 else {"mode": "bilinear", "align_corners": False}
        found = TeacherAdapter(model, image_scale=scale)(IMAGE)
        for name in ("features", "logits"):
            size = getattr(plain, name).shape[-2:]
            torch.testing.assert_close(getattr(found, name), F.interpolate(getattr(expected, name), size=size, **mode))
        assert TeacherAdapter(model, image_scale=scale).describe() == (32, 4)

    def test_at_1_nothing_is_resized_and_padding_is_cut_off_before_maps_come_back(self) -> None:
        model = _kaseg(head="deeplabv3plus")
        plain = TeacherAdapter(model)
        assert torch.equal(TeacherAdapter(model, image_scale=1.0)(IMAGE).features, plain(IMAGE).features)
        image = IMAGE[..., :60, :52]
        teacher = TeacherAdapter(model, input_size=InputSize(multiple=32), image_scale=1.5)
        assert teacher(image).features.shape[-2:] == plain(image).features.shape[-2:]

    @pytest.mark.parametrize(
        "scale, size, message",
        [
            (0.0, None, "image_scale.*must be positive"),
            (-1.0, None, "image_scale.*must be positive"),
            (1.5, InputSize(fixed=(64, 64)), "takes one size alone.*resized to 64x64"),
        ],
    )
    def test_what_cannot_be_a_scale_is_refused(self, scale: float, size: InputSize | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TeacherAdapter(_kaseg(), input_size=size, image_scale=scale)


class TestTaps:
    def test_default_is_the_map_before_the_classifier_and_a_named_tap_a_modules_output(self) -> None:
        model = _kaseg(head="deeplabv3plus")
        teacher = TeacherAdapter(model)
        output, named = teacher(IMAGE), TeacherAdapter(model, tap="encoder.body.layer1")(IMAGE)
        with torch.no_grad():
            expected = model(IMAGE, output_hidden_states=True)
            assert torch.equal(named.features, model.encoder(IMAGE)[1])
        assert torch.equal(output.features, expected.hidden_states[-1])
        assert torch.equal(output.logits, expected.logits)
        assert teacher.describe() == (32, 4)

    def test_any_module_with_a_tap(self) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.features = nn.Conv2d(3, 6, 3, stride=2, padding=1)
                self.out = nn.Conv2d(6, 2, 1)

            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"out": self.out(self.features(x))}

        teacher = TeacherAdapter(Network(), tap="features")
        assert teacher.describe() == (6, 2)
        assert teacher(IMAGE).logits.shape == (2, 2, 32, 32)
        assert TeacherAdapter(Network(), num_labels=2).describe() == (6, 2)

    def test_errors_say_what_there_is(self) -> None:
        with pytest.raises(ValueError, match=r"no submodule 'decoder'.*head.conv \(32, 8, 8\)"):
            TeacherAdapter(_kaseg(), tap="decoder")
        pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ValueError, match=r"num_labels=None.*tap=.*0 \(4, 128, 128\), 1 \(4, 1, 1\)\."):
            TeacherAdapter(pooled)
        with pytest.raises(ValueError, match=r"'head.conf'.*Did you mean 'head.conv'"):
            TeacherAdapter(_kaseg(), tap="head.conf")
        with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
            TeacherAdapter(pooled, tap="2")(IMAGE)


class TestFrozen:
    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_network_switched_behind_its_back_does_not_train(self, compiled: bool) -> None:
        model = _kaseg(classifier_dropout_prob=0.9)
        teacher = TeacherAdapter(model)
        expected, before = teacher(IMAGE).logits, {name: t.clone() for name, t in model.state_dict().items()}
        run = torch.compile(teacher, backend="eager") if compiled else teacher
        run(IMAGE)
        model.train()
        torch.testing.assert_close(run(IMAGE).logits, expected)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    def test_the_network_keeps_no_hook_and_features_may_be_used_in_a_training_graph(self) -> None:
        """Tensors made under inference mode could not be saved for backward."""
        model, weight = _kaseg(), torch.ones(1, requires_grad=True)
        (TeacherAdapter(model, tap="head.conv")(IMAGE).features * weight).sum().backward()
        assert weight.grad is not None
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_students_normalization_may_be_told_later() -> None:
    given = {"image_mean": (0.5, 0.4, 0.3), "image_std": (0.5, 0.25, 0.125)}
    student = {"student_mean": (0.485, 0.456, 0.406), "student_std": (0.229, 0.224, 0.225)}
    model = _kaseg()
    told, later = TeacherAdapter(model, **given, **student), TeacherAdapter(model, **given)
    assert not torch.equal(later(IMAGE).logits, told(IMAGE).logits)
    later.expect_images(*student.values())
    assert later.expected_images == tuple(student.values()) and torch.equal(later(IMAGE).logits, told(IMAGE).logits)
    later.expect_images(*given.values())
    with torch.no_grad():
        assert torch.equal(later(IMAGE).logits, model(IMAGE).logits)


def test_a_normalization_that_can_be_found_is_found_once_the_students_is_told(tmp_path, caplog) -> None:
    _kaseg().save_pretrained(tmp_path)
    KASegImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    student = KASegImageProcessor()
    named = TeacherAdapter.from_pretrained(
        str(tmp_path), student_mean=student.image_mean, student_std=student.image_std
    )
    wrapped = TeacherAdapter(KASegModel.from_pretrained(tmp_path))
    wrapped.expect_images(student.image_mean, student.image_std)
    assert wrapped.normalization == named.normalization and torch.equal(wrapped(IMAGE).logits, named(IMAGE).logits)
    assert not caplog.records
    unknown = TeacherAdapter(_kaseg())
    unknown.expect_images(student.image_mean, student.image_std)
    assert "not known" in caplog.text and unknown.scale is None


def test_channels_are_turned_for_a_network_that_is_found_to_read_bgr() -> None:
    model = _kaseg()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    # In timm's settings they are in the order of the network's channels.
    settings = {"mean": mean[::-1], "std": std[::-1], "input_space": "BGR"}
    wrapped = nn.Sequential(model, _Logits())
    model.encoder.body.pretrained_cfg = settings
    found = TeacherAdapter(wrapped, tap="0.head.conv")
    student = {"student_mean": (0.4,) * 3, "student_std": (0.2,) * 3}
    found.expect_images(*student.values())
    told = TeacherAdapter(model, "head.conv", image_mean=mean, image_std=std, flip_channels=True, **student)
    assert torch.equal(found(IMAGE).features, told(IMAGE).features)
    unturned = TeacherAdapter(model, tap="head.conv")
    assert not torch.equal(unturned(IMAGE).features, told(IMAGE).features)


class _Logits(nn.Module):
    def forward(self, output):
        return output.logits


def test_a_network_without_parameters() -> None:
    network = nn.Sequential(nn.AvgPool2d(4), nn.Identity())
    teacher = TeacherAdapter(network, tap="0")
    assert teacher.describe() == (3, 4) and torch.equal(teacher(IMAGE).features, network(IMAGE))


class TestLabels:
    NAMES = ("Sky", "road", "car", "bus", "tree")
    STUDENT = {0: "vehicle", 1: "kite", 2: "sky"}

    def _teacher(self, **kwargs) -> TeacherAdapter:
        return TeacherAdapter(_kaseg(), class_names=self.NAMES, student_labels=self.STUDENT, **kwargs)

    def test_logits_are_those_of_the_known_classes_in_the_students_order(self) -> None:
        teacher = self._teacher(label_map={"vehicle": ["car", "bus"]})
        with torch.no_grad():
            own = teacher.model(IMAGE).logits
        assert teacher.require_logits().tolist() == teacher.known_classes.tolist() == [0, 2]
        expected = torch.stack([own[:, 2:4].logsumexp(1), own[:, 0]], dim=1)
        torch.testing.assert_close(teacher(IMAGE).logits, expected)

    def test_without_common_classes_there_are_features_alone(self, caplog) -> None:
        teacher = TeacherAdapter(_kaseg(), class_names=self.NAMES, student_labels={0: "cat", 1: "dog"})
        output = teacher(IMAGE)
        assert output.logits is None and output.features.shape[1] == 32
        assert "knows 0 of the student's 2; it does not know cat, dog" in caplog.text
        with pytest.raises(ValueError, match="at least two classes.*knows 0 of the student's 2.*teacher_label_map"):
            teacher.require_logits()

    def test_one_common_class_is_too_few(self) -> None:
        with pytest.raises(ValueError, match="at least two classes"):
            self._teacher().require_logits()

    def test_classes_of_the_student_must_be_known(self) -> None:
        teacher = TeacherAdapter(_kaseg())
        assert teacher.known_classes is None and teacher(IMAGE).logits.shape[1] == 5
        with pytest.raises(ValueError, match="teacher.match"):
            teacher.require_logits()

    def test_summary_says_it_all(self) -> None:
        assert self._teacher().summary() == (
            "the input of classifier, 32 channels at stride 16; images of any size; the teacher (5 classes) knows 1 of "
            "the student's 3: sky = Sky; it does not know vehicle, kite"
        )


def test_a_half_precision_network_gives_float32_and_under_autocast_maps_are_not_converted() -> None:
    teacher = TeacherAdapter(_kaseg())
    with torch.autocast("cpu", torch.bfloat16):
        output = teacher(IMAGE)
    assert output.features.dtype == output.logits.dtype == torch.bfloat16
    half = TeacherAdapter(_kaseg().to(torch.bfloat16))(IMAGE)
    assert half.features.dtype == half.logits.dtype == torch.float32
    assert F.cosine_similarity(output.features.float(), teacher(IMAGE).features, dim=1).mean() > 0.99


def test_a_network_that_insists_on_a_size_gets_it() -> None:
    class Network(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-2:] == (48, 48)
            return super().forward(images)

    teacher = TeacherAdapter(Network(3, 5, 4, stride=4), input_size=InputSize(fixed=(48, 48)))
    assert teacher(IMAGE).logits.shape == (2, 5, 16, 16)


class TestGivenForms:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("teachers") / "big"
        torch.manual_seed(0)
        _kaseg(head="deeplabv3plus").save_pretrained(folder)
        KASegImageProcessor(image_mean=[0.2, 0.3, 0.4], image_std=[0.5, 0.6, 0.7]).save_pretrained(folder)
        return folder

    @pytest.mark.parametrize("form", [str, Path, TeacherAdapter.from_pretrained, TeacherAdapter])
    def test_all_read_the_same_maps(self, folder, form) -> None:
        given = form(folder) if form in (str, Path) else None
        teacher = TeacherAdapter(given) if given is not None else form(folder)
        assert teacher.normalization is not None and teacher.normalization.mean == (0.2, 0.3, 0.4)
        expected = TeacherAdapter(KASegModel.from_pretrained(folder))(IMAGE)
        assert torch.equal(teacher(IMAGE).features, expected.features)

    def test_what_is_given_goes_before_what_is_found(self, folder) -> None:
        teacher = TeacherAdapter(folder, image_mean=[0.0] * 3, image_std=[1.0] * 3)
        assert teacher.normalization is not None and teacher.normalization.mean == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize("wrong", [None, 3, {"model": 1}, TeacherAdapter, TeacherAdapter(_kaseg())])
    def test_anything_else_is_refused(self, wrong) -> None:
        with pytest.raises(ValueError, match="A teacher is a Hub id, a folder, a shipped name"):
            TeacherAdapter(wrong)

    def test_a_folder_that_is_not_there(self, tmp_path) -> None:
        with pytest.raises(OSError, match="gone"):
            TeacherAdapter(tmp_path / "gone")

    def test_networks_that_cannot_be_read(self) -> None:
        with pytest.raises(ValueError, match="TorchScript module.*pass the Python network"):
            TeacherAdapter(torch.jit.trace(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 8, 8)))
        with torch.inference_mode():
            made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
        with pytest.raises(ValueError, match=r"torch.inference_mode\(\).*build or load it outside"):
            TeacherAdapter(made)

    def test_list_taps_takes_a_network(self, folder) -> None:
        with pytest.raises(ValueError, match="list_taps takes a network"):
            list_taps(str(folder))
