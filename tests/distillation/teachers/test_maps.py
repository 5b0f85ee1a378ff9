from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import SegmentationDataset, TrainTransform
from kaseg.distillation import TeacherAdapter
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

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(pixel_values))


def _teacher(**kwargs) -> TeacherAdapter:
    fields = {"tap": "features", "num_labels": 2, "class_names": ("a", "b"), "student_labels": {0: "a", 1: "b"}}
    return TeacherAdapter(Averages(), **{**fields, **kwargs})


def _slope(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom, both by one per two pixels."""
    across, down = np.meshgrid(np.arange(width) // 2, np.arange(height) // 2)
    return Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))


def _maps(folder: Path, teacher: TeacherAdapter, crop=(64, 64), sources=("features", "logits")) -> TeacherMaps:
    return TeacherMaps(folder, teacher, STRIDE, crop, KASegImageProcessor(), sources)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crops_maps_lie_where_the_crop_lies(tmp_path, scale: float, flip: float) -> None:
    """On a slope, what is cut out of the whole image's map is the map that the crop itself gives."""
    image, teacher = _slope(320, 256), _teacher()
    maps = _maps(tmp_path, teacher)
    maps.add(image, teacher)
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
    changed = _teacher()
    with torch.no_grad():
        changed.model.classifier.weight[0, 0] += 1
    assert not _maps(tmp_path, changed).has(image)
    with pytest.raises(FileNotFoundError):
        maps.crop(other, (0.0, 0.0, 1.0, 1.0))


def test_only_what_is_read_is_kept(tmp_path) -> None:
    image, teacher = _slope(64, 64), _teacher()
    maps = _maps(tmp_path, teacher, sources=("logits",))
    maps.add(image, teacher)
    assert maps.crop(image, (0.0, 0.0, 1.0, 1.0)).keys() == {"teacher_logits"}
    assert not _maps(tmp_path, teacher).has(image)


def test_damaged_files_are_named(tmp_path) -> None:
    image, teacher = _slope(64, 64), _teacher()
    maps = _maps(tmp_path, teacher, sources=("logits",))
    maps.add(image, teacher)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        maps.crop(image, (0.0, 0.0, 1.0, 1.0))


def test_values_beyond_float16_are_refused(tmp_path) -> None:
    teacher = _teacher()
    with torch.no_grad():
        teacher.model.classifier.weight.mul_(1e6)
    with pytest.raises(ValueError, match="logits .* not finite"):
        _maps(tmp_path, teacher).add(_slope(64, 64), teacher)


def test_a_dataset_gives_the_maps_of_its_crops(tmp_path) -> None:
    image, teacher = _slope(128, 96), _teacher()
    maps = _maps(tmp_path, teacher)
    maps.add(image, teacher)
    samples = [{"image": image, "label": Image.new("L", image.size, 1), "id": "a"}]
    transform = TrainTransform((64, 64))
    plain = SegmentationDataset(samples, transform, seed=3)[0]
    taught = SegmentationDataset(samples, transform, seed=3, maps=maps.crop)[0]
    assert taught.keys() == {"pixel_values", "labels", "teacher_features", "teacher_logits"}
    assert torch.equal(taught["pixel_values"], plain["pixel_values"]) and torch.equal(taught["labels"], plain["labels"])


def test_the_same_weights_at_another_stride_have_maps_of_their_own(tmp_path) -> None:
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", head_channels=16, num_labels=2)).eval()
    teachers = (TeacherAdapter(model), TeacherAdapter(model), TeacherAdapter(model, output_stride=8))
    first, same, other = (_maps(tmp_path, teacher, sources=("features",)).folder for teacher in teachers)
    assert first == same != other
