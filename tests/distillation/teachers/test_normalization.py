import numpy as np
import pytest
import torch
import transformers
from tiny_teachers import TimmWithHead, of_smp

from kaseg import KASegConfig, KASegModel
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.normalization import find_normalization, normalization_of_settings
from kaseg.pixels import Normalization

STUDENT_MEAN, STUDENT_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "processor",
    [
        transformers.BeitImageProcessor(do_resize=False, do_center_crop=False),
        transformers.SegformerImageProcessor(do_resize=False),
        transformers.MobileViTImageProcessor(do_resize=False, do_center_crop=False),
        transformers.SegformerImageProcessor(do_resize=False, do_normalize=False),
        transformers.SegformerImageProcessor(do_resize=False, do_rescale=False, image_mean=[99.0, 98.0, 97.0]),
    ],
    ids=["beit", "segformer", "mobilevit (BGR)", "not normalized", "not rescaled"],
)
def test_students_pixels_become_what_the_teachers_processor_gives(processor) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = processor(picture, return_tensors="pt")["pixel_values"].float()
    found = Normalization.of_processor(processor)
    seen = []

    class Network(torch.nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    teacher = TeacherAdapter(
        Network(3, 2, 1), tap=None, image_mean=found.mean, image_std=found.std, flip_channels=found.flip_channels,
        student_mean=STUDENT_MEAN, student_std=STUDENT_STD,
    )  # fmt: skip
    pixels = torch.tensor(picture).permute(2, 0, 1)[None] / 255
    teacher((pixels - torch.tensor(STUDENT_MEAN).view(3, 1, 1)) / torch.tensor(STUDENT_STD).view(3, 1, 1))
    torch.testing.assert_close(seen[-1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whose", ["image", "student"])
def test_a_mean_without_its_standard_deviation_is_refused(whose: str) -> None:
    with pytest.raises(ValueError, match=f"{whose}_mean and {whose}_std belong together"):
        TeacherAdapter(torch.nn.Conv2d(3, 2, 1), **{f"{whose}_mean": [0.5] * 3})


def test_channels_are_turned_even_if_the_mean_is_found() -> None:
    found = TimmWithHead()
    assert TeacherAdapter(found, student_mean=STUDENT_MEAN, student_std=STUDENT_STD, flip_channels=True).flip_channels


class TestFound:
    def test_beside_a_transformers_checkpoint(self, tmp_path) -> None:
        config = transformers.MobileNetV2Config(depth_multiplier=0.25)
        transformers.MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
        transformers.MobileNetV2ImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.5] * 3).save_pretrained(
            tmp_path
        )
        model = transformers.MobileNetV2ForSemanticSegmentation.from_pretrained(tmp_path)
        assert find_normalization(model).mean == pytest.approx((0.5, 0.4, 0.3))

    def test_of_encoders_from_timm(self) -> None:
        from timm import get_pretrained_cfg

        expected = get_pretrained_cfg("test_resnet")
        for model in (of_smp("Unet")(), TimmWithHead()):
            found = find_normalization(model)
            assert found.mean == pytest.approx(expected.mean) and found.std == pytest.approx(expected.std)

    def test_of_settings_in_bgr_and_0_to_255(self) -> None:
        settings = {"mean": [103.0, 116.0, 123.0], "std": [1, 1, 1], "input_range": [0, 255], "input_space": "BGR"}
        found = normalization_of_settings(settings)
        assert found.mean == pytest.approx((123 / 255, 116 / 255, 103 / 255)) and found.flip_channels

    def test_unknown_is_said_aloud(self, caplog) -> None:
        model = KASegModel(KASegConfig(backbone="mobilenetv2_035"))
        assert find_normalization(model) is None
        TeacherAdapter(model, student_mean=STUDENT_MEAN, student_std=STUDENT_STD)
        assert "KASegModel normalizes images is not known" in caplog.text
