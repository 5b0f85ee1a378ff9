"""The same image gives the same pixel values and the same mask, whoever asks."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import TrainTransform
from kaseg.data.image_files import read_image
from kaseg.distillation import TeacherAdapter
from kaseg.evaluation.evaluator import evaluate_model
from kaseg.evaluation.samples import prepared_batches
from kaseg.export.graph import MaskGraph
from kaseg.image_processing_kaseg import pixel_values_of
from kaseg.inference import Predictor
from kaseg.pixels import Normalization, to_rgb
from kaseg.trainer import SegmentationConfig, SegmentationTrainer
from kaseg.trainer.image_processor import image_processor_for

HEIGHT, WIDTH = 37, 53
ASSUMED = "ImageNet's mean and standard deviation are assumed"
KINDS = ("RGB", "L", "LA", "RGBA", "P", "P with transparency", "1", "CMYK", "I;16", "turned by EXIF", "even size")
PROCESSORS: dict[str, dict[str, Any]] = {
    "default": {},
    "of one mean": {"image_mean": 0.5, "image_std": 0.5},
    "of another mean": {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.7]},
    "without mean": {"do_normalize": False},
    "without rescaling": {"do_rescale": False, "image_mean": [99.0, 98.0, 97.0], "image_std": [50.0, 51.0, 52.0]},
    "that resizes": {"do_resize": True, "size": {"height": 48, "width": 64}},
    "that resizes and pads": {"do_resize": True, "size": {"shortest_edge": 40}, "do_pad": True},
}


def image_of(kind: str) -> Image.Image:
    height, width = (64, 96) if kind == "even size" else (HEIGHT, WIDTH)
    values = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 4), dtype=np.uint8)
    values = values.repeat(4, 0).repeat(4, 1)[:height, :width]
    rgb = Image.fromarray(np.ascontiguousarray(values[..., :3]))
    if kind == "turned by EXIF":
        rgb.getexif()[0x0112] = 6
        return rgb
    if kind == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 256 + values[..., 1])
    if kind in ("LA", "RGBA"):
        image = rgb.convert(kind)
        image.putalpha(Image.fromarray(np.ascontiguousarray(values[..., 3])))
        return image
    if kind.startswith("P"):
        image = rgb.quantize(16)
        if kind == "P with transparency":
            image.info["transparency"] = bytes(range(0, 160, 10))
        return image
    return rgb if kind == "even size" else rgb.convert(kind)


def file_of(kind: str, folder: Path) -> Path:
    image, path = image_of(kind), folder / ("image.tif" if kind == "CMYK" else "image.png")
    image.save(path, exif=image.getexif())
    return path


@pytest.fixture(scope="module")
def model() -> KASegModel:
    torch.manual_seed(0)
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=16, num_labels=5, head_channels=16))
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


# Every kind of image with two processors, and every processor with three kinds.
CASES = [(kind, [*PROCESSORS][index % len(PROCESSORS)]) for index, kind in enumerate((*KINDS, *KINDS))]


def expected_of(model: KASegModel, processor: KASegImageProcessor, kind: str) -> tuple[torch.Tensor, np.ndarray]:
    """Pixel values and mask by the processor alone, as the documentation of transformers shows it."""
    rgb = to_rgb(image_of(kind))
    inputs = processor(rgb, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    mask = processor.post_process_semantic_segmentation(outputs, [(rgb.height, rgb.width)])[0]
    assert len(mask.unique()) > 1
    return inputs["pixel_values"], mask.numpy().astype(np.uint8)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_everyone_sees_the_same(kind: str, name: str, model: KASegModel, tmp_path: Path) -> None:
    image, path, processor = image_of(kind), file_of(kind, tmp_path), KASegImageProcessor(**PROCESSORS[name])
    pixels, mask = expected_of(model, processor, kind)
    label = Image.fromarray(mask)

    args = SegmentationConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    trainer = SegmentationTrainer(model, args, processing_class=processor)
    (prepared,), *_ = prepared_batches([{"image": image, "label": label}], processor)
    seen = {
        "processor": processor(image, return_tensors="pt")["pixel_values"],
        "processor, file": processor(str(path), return_tensors="pt")["pixel_values"],
        "data, file": pixel_values_of(processor, read_image(path)),
        "trainer's evaluation": trainer._eval_transform(args)(image, label)["pixel_values"][None],
        "evaluator": prepared.pixel_values,
    }
    if not processor.do_resize:
        normalization = Normalization.of_processor(processor)
        size = (label.height, label.width)
        transform = TrainTransform(size, (1.0, 1.0), 0.0, image_mean=normalization.mean, image_std=normalization.std)
        seen["trainer's training"] = transform(image, label)["pixel_values"][None]
    for who, found in seen.items():
        torch.testing.assert_close(found, pixels, rtol=0, atol=0, msg=lambda text, who=who: f"{who}: {text}")

    sample = {"image": image, "label": label}
    assert evaluate_model(model, [sample], processor)["overall_accuracy"] == 1
    assert np.array_equal(Predictor(model, processor).predict([image])[0], mask)
    [from_trainer] = trainer.get_eval_dataloader([trainer._eval_transform(args)(image, label)])
    trainer._holds_copies, trainer._eval_loss = False, torch.zeros(2, dtype=torch.float64)
    trainer.prediction_step(model, from_trainer, prediction_loss_only=True)
    assert trainer.confusion_matrix.matrix.diagonal().sum() == mask.size
    if not processor.do_pad:
        rgb = torch.from_numpy(np.array(to_rgb(image)))[None]
        with torch.inference_mode():
            exported = MaskGraph(model, processor)(rgb)[0].numpy()
        assert (exported == mask).mean() > 0.999  # resized at once, where ties may fall otherwise

    # But for 16-bit images, which transformers' pipeline clips before a processor sees them.
    pipe = transformers.pipeline("image-segmentation", model=model, image_processor=processor, device="cpu")
    found = np.full(mask.shape, 255, np.uint8)
    for segment in pipe(to_rgb(image) if kind == "I;16" else image):
        found[np.asarray(segment["mask"]) > 0] = model.config.label2id[segment["label"]]
    assert np.array_equal(found, mask)


class Recorder(torch.nn.Conv2d):
    """A network that remembers its images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return super().forward(images)


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if "resizes" not in case[1]])
def test_the_teacher_sees_what_its_own_processor_gives(kind: str, name: str) -> None:
    student, teachers = KASegImageProcessor(), KASegImageProcessor(**PROCESSORS[name])
    own, network = Normalization.of_processor(teachers), Recorder(3, 2, 1)
    teacher = TeacherAdapter(
        network, image_mean=own.mean, image_std=own.std, student_mean=student.image_mean, student_std=student.image_std
    )
    teacher(pixel_values_of(student, image_of(kind)))
    torch.testing.assert_close(network.seen, pixel_values_of(teachers, image_of(kind)), rtol=1e-4, atol=1e-4)


# The image processors of every semantic segmentation model of transformers, in both of their backends.
FOREIGN = sorted(
    {
        name
        for family in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
        if family != "kaseg"
        for name in IMAGE_PROCESSOR_MAPPING_NAMES[family].values()
    }
)
OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "labels reduced": {"do_reduce_labels": True},
    "labels as they are": {"do_reduce_labels": False},
    "RGB": {"do_flip_channel_order": False},
    "another factor": {"rescale_factor": 1 / 127.5},
    "not rescaled": {"do_rescale": False},
    "not normalized": {"do_normalize": False},
    "other means": {"do_normalize": True, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.7]},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_processor_gives_the_same_or_is_refused(name: str, options: str, tmp_path: Path) -> None:
    foreign = getattr(transformers, name)(**OPTIONS[options])
    reasons = {"do_reduce_labels": "do_reduce_labels=True", "do_flip_channel_order": "gives BGR"}
    refused = [reason for option, reason in reasons.items() if getattr(foreign, option, False)]
    foreign.save_pretrained(tmp_path)
    model = SimpleNamespace(config=SimpleNamespace(name_or_path=str(tmp_path)))
    if refused:
        for given in (foreign, None):
            # MobileViT's ignores means, which is found first.
            with pytest.raises(ValueError, match=f"{refused[0]}|other pixel values"):
                image_processor_for(model, given)
        return
    image, label = image_of("even size"), np.random.default_rng(0).integers(0, 5, (64, 96), dtype=np.uint8)
    given = {"images": image, "segmentation_maps": label}
    if "segmentation_maps" not in inspect.signature(foreign.preprocess).parameters:
        del given["segmentation_maps"]
    without = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    expected = foreign(**given, **without, return_tensors="pt")
    for given in (foreign, None):
        ours = image_processor_for(model, given)
        found = ours(image, label, return_tensors="pt")
        expected_values = torch.as_tensor(expected["pixel_values"]).float()  # bytes, where nothing is done
        torch.testing.assert_close(found["pixel_values"], expected_values, rtol=1e-5, atol=1e-5)
        if "labels" in expected:
            assert torch.equal(found["labels"], torch.as_tensor(np.array(expected["labels"])).long())
    # What is saved says the same in another process.
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(image, return_tensors="pt")["pixel_values"], found["pixel_values"])


@pytest.mark.parametrize("option", ["do_reduce_labels", "do_flip_channel_order", "do_center_crop", "crop_size", "foo"])
def test_options_that_change_nothing_are_refused(option: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {option: {"height": 8, "width": 8} if option == "crop_size" else True}
    KASegImageProcessor().save_pretrained(tmp_path / "plain")
    KASegImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))
    for use in (
        lambda: KASegImageProcessor(**options),
        lambda: KASegImageProcessor()(image_of("RGB"), **options),
        lambda: KASegImageProcessor.from_dict({}, **options),
        lambda: KASegImageProcessor.from_pretrained(tmp_path / "plain", **options),
        lambda: KASegImageProcessor.from_pretrained(tmp_path),
    ):
        with pytest.raises((TypeError, ValueError), match="foo|reduce_labels|channel_order|does not crop|crop_size"):
            use()


def test_a_processor_of_other_pixels_is_refused() -> None:
    class Gamma(transformers.SegformerImageProcessor):
        def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().rescale_and_normalize(images, *args, **kwargs).abs()

    class Padded(transformers.SegformerImageProcessor):
        def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return torch.nn.functional.pad(super().rescale_and_normalize(images, *args, **kwargs), (0, 5))

    for processor, message in ((Gamma(), "other pixel values"), (Padded(), r"shape \(3, 64, 101\)")):
        with pytest.raises(ValueError, match=message):
            KASegImageProcessor.of(processor)


def trained_with(model: Any, tmp_path: Path) -> KASegImageProcessor:
    """The processor that is saved by a trainer which was given none."""
    args = SegmentationConfig(output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none")
    trainer = SegmentationTrainer(model, args)
    trainer.save_model()
    saved = KASegImageProcessor.from_pretrained(tmp_path / "out")
    assert saved.to_dict() == trainer.processing_class.to_dict()
    return saved


def test_the_checkpoints_own_processor_is_used_where_none_is_given(model: KASegModel, tmp_path: Path, caplog) -> None:
    model.save_pretrained(tmp_path)
    found = trained_with(KASegModel.from_pretrained(tmp_path), tmp_path)
    assert ASSUMED in caplog.text and found.image_mean == KASegImageProcessor().image_mean
    KASegImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    found = trained_with(KASegModel.from_pretrained(tmp_path), tmp_path)
    assert (found.image_mean, found.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_so_is_that_of_an_imported_model(tmp_path: Path) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=2, output_stride=16)
    transformers.MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    transformers.MobileNetV2ImageProcessor().save_pretrained(tmp_path)
    foreign = transformers.MobileNetV2ForSemanticSegmentation.from_pretrained(tmp_path)
    found = trained_with(KASegModel.from_transformers(foreign), tmp_path)
    assert found.image_mean == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("backbone", "warns"), [("mobilenetv2_035", False), ("test_vit", True)])
def test_a_new_model_whose_encoder_was_trained_otherwise_is_warned_of(backbone: str, warns: bool, caplog) -> None:
    image_processor_for(KASegModel(KASegConfig(backbone=backbone, output_stride=16, num_labels=2)))
    assert (ASSUMED in caplog.text) == warns
