import resource
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SegmentationDataset, TrainTransform
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.input_sizes import InputSize
from kaseg.distillation.teachers.maps import TeacherMaps

STRIDE = 16


class Averages(nn.Module):
    """A teacher whose map at stride 16 is the mean color of each cell, so that its values tell the place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(STRIDE)
        self.classifier = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.eye(2, 3)[..., None, None])

    def forward(self, pixel_values: torch.Tensor, added: torch.Tensor | float = 0.0) -> torch.Tensor:
        return self.classifier(self.features(pixel_values) + added)


def _teacher(**kwargs) -> TeacherAdapter:
    fields = {"tap": "features", "num_labels": 2, "class_names": ("a", "b"), "student_labels": {0: "a", 1: "b"}}
    return TeacherAdapter(Averages(), **{**fields, **kwargs})


def _slope(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom, both by one per two pixels."""
    across, down = np.meshgrid(np.arange(width) // 2, np.arange(height) // 2)
    return Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))


def _maps(folder: Path, teacher: TeacherAdapter, crop=(64, 64), sources=("features", "logits")) -> TeacherMaps:
    return TeacherMaps(folder, teacher, dict.fromkeys(sources, STRIDE), crop, KASegImageProcessor())


def _kept(folder: Path, width: int, height: int, **options: Any) -> tuple[Image.Image, TeacherAdapter, TeacherMaps]:
    """An image, a teacher, and its maps, which are in the folder."""
    image, teacher = _slope(width, height), _teacher()
    maps = _maps(folder, teacher, **options)
    maps.add(image, teacher)
    return image, teacher, maps


def test_logits_finer_than_the_tapped_map_keep_their_stride(tmp_path) -> None:
    """As those of torchvision's networks, which are as large as the image."""
    image, teacher = _slope(320, 256), _teacher()
    teacher.model.classifier = nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=4), teacher.model.classifier)
    maps = TeacherMaps(tmp_path, teacher, {"features": 16, "logits": 4}, (64, 64), KASegImageProcessor())
    maps.add(image, teacher)
    found = maps.crop(image, (128.0, 64.0, 1.0, 1.0))
    assert found["teacher_features"].shape == (3, 4, 4) and found["teacher_logits"].shape == (2, 16, 16)
    whole = teacher(maps.transform(image, Image.new("L", image.size))["pixel_values"][None])
    torch.testing.assert_close(found["teacher_logits"], whole.logits[0, :, 16:32, 32:48], atol=0.01, rtol=0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_logits_of_a_crop_on_a_finer_grid_are_those_of_the_whole_map_there(tmp_path, flip: float) -> None:
    """At half of the image's size a stride of 8 is the map's own stride of 16: each position of it comes back."""
    image, teacher = _slope(256, 128), _teacher()
    maps = TeacherMaps(tmp_path, teacher, {"features": 16, "logits": 16}, (64, 128), KASegImageProcessor(), 8)
    maps.add(image, teacher)
    assert maps.folder == _maps(tmp_path, teacher).folder  # what is kept is the same
    _, view = TrainTransform((64, 128), (0.5, 0.5), horizontal_flip=flip).with_view(image, Image.new("L", image.size))
    found = maps.crop(image, view)
    assert found["teacher_features"].shape == (3, 4, 8) and found["teacher_logits"].shape == (2, 8, 16)
    whole = teacher(maps.transform(image, Image.new("L", image.size))["pixel_values"][None]).logits[0]
    inner = (slice(None), slice(1, -1), slice(1, -1))  # at the edge samples lie beyond the last center
    expected = whole.flip(-1) if flip else whole
    torch.testing.assert_close(found["teacher_logits"][inner], expected[inner], atol=0.01, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crops_maps_lie_where_the_crop_lies(tmp_path, scale: float, flip: float) -> None:
    """On a slope, what is cut out of the whole image's map is the map that the crop itself gives."""
    image, teacher, maps = _kept(tmp_path, 320, 256)
    transform = TrainTransform((64, 64), (scale, scale), horizontal_flip=flip)
    for seed in range(4):
        torch.manual_seed(seed)
        inputs, view = transform.with_view(image, Image.new("L", image.size))
        found = maps.crop(image, view)
        expected = teacher(inputs["pixel_values"][None])
        assert found["teacher_features"].shape == (3, 4, 4)
        # Half of float16's precision of values up to about 5, and what resampling smooths.
        torch.testing.assert_close(found["teacher_features"], expected.features[0], atol=0.03, rtol=0)
        torch.testing.assert_close(found["teacher_logits"], expected.logits[0], atol=0.03, rtol=0)


def test_a_crop_that_shrinks_the_image_sees_all_of_it(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8).repeat(STRIDE, 0).repeat(STRIDE, 1)
    image, teacher = Image.fromarray(noise), _teacher()
    maps = _maps(tmp_path, teacher, sources=("features",))
    maps.add(image, teacher)
    whole = _maps(tmp_path, teacher, (256, 256), ("features",)).crop(image, (0.0, 0.0, 1.0, 1.0))["teacher_features"]
    found = maps.crop(image, (0.0, 0.0, 4.0, 4.0))["teacher_features"]
    torch.testing.assert_close(found, nn.functional.avg_pool2d(whole, 4))


def test_beyond_the_image_its_edge_goes_on(tmp_path) -> None:
    image, _, maps = _kept(tmp_path, 128, 64, sources=("features",))
    inside = maps.crop(image, (0.0, 0.0, 1.0, 1.0))["teacher_features"]
    beyond = maps.crop(image, (-64.0, 0.0, 1.0, 1.0))["teacher_features"]
    torch.testing.assert_close(beyond, inside[..., :1].expand_as(inside))


def test_the_view_maps_corners_of_the_crop_into_the_image() -> None:
    image = _slope(100, 40)
    torch.manual_seed(0)
    _, (x0, y0, dx, dy) = TrainTransform((64, 64), (0.5, 0.5), horizontal_flip=0).with_view(
        image, Image.new("L", image.size)
    )
    assert (x0, y0, dx, dy) == (0.0, 0.0, 2.0, 2.0)  # 50x20 pixels, padded at the right and at the bottom
    _, (x0, y0, dx, dy) = TrainTransform((64, 64), (0.5, 0.5), horizontal_flip=1).with_view(
        image, Image.new("L", image.size)
    )
    assert x0 + 64 * dx == 0.0 and x0 + 14 * dx == 100.0  # mirrored, padded at the left
    assert (y0, dy) == (0.0, 2.0)


def test_maps_are_kept_by_what_they_are_of(tmp_path) -> None:
    image, other, teacher = _slope(64, 64), _slope(96, 64), _teacher()
    maps = _maps(tmp_path, teacher)
    maps.add(image, teacher)
    assert maps.has(image) and not maps.has(other)
    assert maps.has(image.copy()) and _maps(tmp_path, _teacher()).has(image)
    assert not _maps(tmp_path, _teacher(image_scale=2.0)).has(image)
    assert not _maps(tmp_path, _teacher(tap="classifier")).has(image)
    assert not _maps(tmp_path, _teacher(image_mean=(0.5,) * 3, image_std=(0.5,) * 3)).has(image)
    assert not _maps(tmp_path, _teacher(input_size=InputSize(multiple=64))).has(image)
    assert not _maps(tmp_path, _teacher(student_labels={0: "b", 1: "a"})).has(image)
    inputs = [_maps(tmp_path, _teacher(model_inputs={"added": torch.full((1, 1, 1, 1), x)})) for x in (0.0, 1.0)]
    assert inputs[0].folder != inputs[1].folder
    changed = _teacher()
    with torch.no_grad():
        changed.model.classifier.weight[0, 0] += 1
    assert not _maps(tmp_path, changed).has(image)
    with pytest.raises(FileNotFoundError):
        maps.crop(other, (0.0, 0.0, 1.0, 1.0))
    maps.add(Image.new("RGB", (64, 32)), teacher)
    assert not maps.has(Image.new("RGB", (32, 64)))  # of the same bytes


def test_only_what_is_read_is_kept(tmp_path) -> None:
    image, teacher, maps = _kept(tmp_path, 64, 64, sources=("logits",))
    assert maps.crop(image, (0.0, 0.0, 1.0, 1.0)).keys() == {"teacher_logits"}
    assert not _maps(tmp_path, teacher).has(image)


def test_damaged_files_are_named(tmp_path) -> None:
    image, _, maps = _kept(tmp_path, 64, 64, sources=("logits",))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        maps.crop(image, (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("length", [0, 20, -1])
def test_files_that_were_cut_off_are_computed_anew(tmp_path, length: int) -> None:
    image, teacher, maps = _kept(tmp_path, 64, 64)
    whole = maps.crop(image, (0.0, 0.0, 1.0, 1.0))
    file = next(tmp_path.rglob("logits/**/*.safetensors"))
    file.write_bytes(file.read_bytes()[:length])
    assert not maps.has(image)
    maps.add(image, teacher)
    torch.testing.assert_close(maps.crop(image, (0.0, 0.0, 1.0, 1.0)), whole, rtol=0, atol=0)


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(tmp_path) -> None:
    """A limit of the process on the size of files stands in for the disk."""
    image, teacher = _slope(640, 640), _teacher()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1][1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*\.safetensors: File too large"):
            _maps(tmp_path, teacher).add(image, teacher)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_runs_fill_one_folder_at_the_same_time(tmp_path) -> None:
    """While the teacher of one looks at an image, another run writes that image's maps."""
    image, teacher = _slope(64, 64), _teacher()
    maps, others = _maps(tmp_path, teacher), _maps(tmp_path, teacher)

    def slow(pixel_values: torch.Tensor) -> Any:
        others.add(image, teacher)
        return teacher(pixel_values)

    maps.add(image, slow)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2  # no temporary file is left
    assert maps.has(image) and others.has(image)


def test_values_beyond_float16_are_refused(tmp_path) -> None:
    teacher = _teacher()
    with torch.no_grad():
        teacher.model.classifier.weight.mul_(1e6)
    with pytest.raises(ValueError, match="logits .* not finite"):
        _maps(tmp_path, teacher).add(_slope(64, 64), teacher)


def test_a_dataset_gives_the_maps_of_its_crops(tmp_path) -> None:
    image, _, maps = _kept(tmp_path, 128, 96)
    samples = [{"image": image, "label": Image.new("L", image.size, 1), "id": "a"}]
    transform = TrainTransform((64, 64))
    plain = SegmentationDataset(samples, transform, seed=3)[0]
    taught = SegmentationDataset(samples, transform, seed=3, maps=maps.crop)[0]
    assert taught.keys() == {"pixel_values", "labels", "teacher_features", "teacher_logits"}
    assert torch.equal(taught["pixel_values"], plain["pixel_values"]) and torch.equal(taught["labels"], plain["labels"])


def test_the_same_weights_at_another_stride_have_maps_of_their_own(tmp_path) -> None:
    model = KASegModel(KASegConfig(backbone="test_resnet", head_channels=16, num_labels=2)).eval()
    teachers = (TeacherAdapter(model), TeacherAdapter(model), TeacherAdapter(model, output_stride=8))
    first, same, other = (_maps(tmp_path, teacher, sources=("features",)).folder for teacher in teachers)
    assert first == same != other


def test_an_architecture_that_was_changed_by_hand_has_maps_of_its_own(tmp_path) -> None:
    """The same weights, whatever else decides on the map."""

    def changed_stride(teacher: TeacherAdapter) -> None:
        teacher.model.features.stride = 8

    def changed_config(teacher: TeacherAdapter) -> None:
        teacher.model.config = KASegConfig(num_labels=2, batch_norm_eps=0.5)

    def changed_channels(teacher: TeacherAdapter) -> None:
        teacher.flip_channels = True

    folders = [_maps(tmp_path, _teacher()).folder]
    for change in (lambda teacher: None, changed_stride, changed_config, changed_channels):
        teacher = _teacher()
        change(teacher)
        folders.append(_maps(tmp_path, teacher).folder)
    assert folders[0] == folders[1] and len(set(folders)) == 4


def test_where_a_teacher_came_from_makes_no_difference(tmp_path) -> None:
    config = KASegConfig(backbone="test_resnet", head_channels=16, num_labels=2)
    KASegModel(config).save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    folders = {
        _maps(tmp_path, TeacherAdapter(KASegModel.from_pretrained(tmp_path / name)), sources=("features",)).folder
        for name in "ab"
    }
    assert len(folders) == 1
    # Nor does the place in memory of a function that a module tells of.
    functions, folders = [lambda: 0, lambda: 0], set()
    for function in functions:
        teacher = _teacher()
        teacher.model.features.extra_repr = partial(repr, function)
        folders.add(_maps(tmp_path, teacher).folder)
    assert len(folders) == 1


def test_a_teacher_of_unknown_normalization_sees_the_students_images(tmp_path) -> None:
    """So its maps are others for a student with another normalization; those of other teachers are not."""
    processors = (KASegImageProcessor(), KASegImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3))

    def folders(**kwargs) -> set[Path]:
        return {
            TeacherMaps(tmp_path, _teacher(**kwargs), {"features": STRIDE}, (64, 64), processor).folder
            for processor in processors
        }

    assert len(folders()) == 2
    known = folders(image_mean=(0.4,) * 3, image_std=(0.3,) * 3)
    assert len(known) == 1 and known != folders(image_mean=(0.4,) * 3, image_std=(0.2,) * 3)


def test_maps_of_a_coarse_teacher_lie_where_the_crop_lies(tmp_path) -> None:
    """At stride 32, the last position of an image of 304 pixels (19 times 16) spans padding, too."""
    image = _slope(304, 304)
    teacher = _teacher()
    teacher.model.features = nn.AvgPool2d(32, ceil_mode=True, count_include_pad=False)
    maps = TeacherMaps(tmp_path, teacher, {"features": 32}, (64, 64), KASegImageProcessor())
    maps.add(image, teacher)
    inputs, view = TrainTransform((64, 64), (1.0, 1.0), horizontal_flip=0.0).with_view(
        image.crop((128, 128, 192, 192)), Image.new("L", (64, 64))
    )
    found = maps.crop(image, (128.0, 128.0, 1.0, 1.0))["teacher_features"]
    assert view == (0.0, 0.0, 1.0, 1.0)
    torch.testing.assert_close(found, teacher(inputs["pixel_values"][None]).features[0], atol=0.01, rtol=0)
