"""KASegImageProcessor against plain numpy and PIL."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kaseg.image_processing_kaseg import KASegImageProcessor

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def make_image(height: int = 12, width: int = 17, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def normalized(rgb: np.ndarray) -> np.ndarray:
    return ((rgb / 255.0 - MEAN) / STD).transpose(2, 0, 1)


def pixel_values(image: object, **kwargs: object) -> np.ndarray:
    return KASegImageProcessor()(image, return_tensors="pt", **kwargs)["pixel_values"][0].numpy()


@pytest.mark.parametrize("kind", ["pil", "numpy", "numpy_chw", "torch", "torch_hwc", "read_only", "flipped", "batch"])
def test_normalization_is_the_same_for_every_container(kind: str) -> None:
    rgb = make_image()
    read_only = rgb.copy()
    read_only.flags.writeable = False
    given = {
        "pil": Image.fromarray(rgb),
        "numpy": rgb,
        "numpy_chw": rgb.transpose(2, 0, 1),
        "torch": torch.from_numpy(rgb).permute(2, 0, 1),
        "torch_hwc": torch.from_numpy(rgb),
        "read_only": read_only,
        "flipped": rgb[:, ::-1].copy()[:, ::-1],
        "batch": rgb[None],
    }[kind]
    np.testing.assert_allclose(pixel_values(given), normalized(rgb), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "P with transparency", "CMYK", "1"])
def test_pil_modes_become_what_pil_makes_of_them(mode: str) -> None:
    source = Image.fromarray(make_image()).convert(mode.split()[0])
    if mode == "P with transparency":
        source.info["transparency"] = bytes(range(21))
    if mode in ("LA", "RGBA"):
        source.putalpha(Image.fromarray(make_image(channels=1)[..., 0]))
    np.testing.assert_allclose(pixel_values(source), normalized(np.asarray(source.convert("RGB"))), atol=1e-6)


@pytest.mark.parametrize("container", ["png", "array", "mode_I"])
def test_sixteen_bit_gray_is_scaled_not_clipped(container: str, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 11), dtype=np.uint16)
    image: object = deep
    if container == "png":
        Image.fromarray(deep).save(tmp_path / "deep.png")
        image = Image.open(tmp_path / "deep.png")
    elif container == "mode_I":
        image = Image.fromarray(deep.astype(np.int32))
    eight = np.round(deep / 65535 * 255)
    np.testing.assert_allclose(pixel_values(image), normalized(np.stack([eight] * 3, -1)), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_arrays_of_other_channel_counts(channels: int) -> None:
    array = make_image(channels=channels)
    rgb = np.repeat(array[..., :1], 3, -1) if channels < 3 else array[..., :3]
    kwargs = {"input_data_format": "channels_last"} if channels == 2 else {}
    np.testing.assert_allclose(pixel_values(array, **kwargs), normalized(rgb), atol=1e-6)
    if channels == 1:
        np.testing.assert_allclose(pixel_values(array[..., 0]), normalized(rgb), atol=1e-6)


def test_masks_are_bit_exact(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 21, (12, 17), dtype=np.uint8)
    ids[0, :3] = 255
    palette_mask = Image.fromarray(ids)
    palette_mask.putpalette(np.random.default_rng(2).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette_mask.save(tmp_path / "mask.png")
    stored = Image.open(tmp_path / "mask.png")
    assert stored.mode == "P"
    for given in (stored, Image.fromarray(ids), ids, torch.from_numpy(ids), ids[None], str(tmp_path / "mask.png")):
        labels = KASegImageProcessor()(make_image(), given, return_tensors="pt")["labels"]
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(labels.numpy(), ids[None])


def test_resize_picks_the_same_mask_pixels_as_pil_and_the_same_picture_within_one_step() -> None:
    rgb, ids = make_image(41, 61), np.random.default_rng(1).integers(0, 300, (41, 61), dtype=np.int32)
    out = KASegImageProcessor(do_resize=True, size={"height": 17, "width": 33})(rgb, ids, return_tensors="pt")
    expected = Image.fromarray(ids.astype(np.float32)).resize((33, 17), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(out["labels"][0].numpy(), np.asarray(expected))
    small = np.asarray(Image.fromarray(rgb).resize((33, 17), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(out["pixel_values"][0].numpy(), normalized(small), atol=1.01 / 255 / 0.22)


def test_different_sizes_need_padding_and_the_error_says_so() -> None:
    batch = [make_image(10, 20), make_image(12, 8)]
    masks = [np.zeros((10, 20), np.uint8), np.ones((12, 8), np.uint8)]
    with pytest.raises(ValueError, match=r"\(10, 20\), \(12, 8\).*do_pad=True"):
        KASegImageProcessor()(batch, masks, return_tensors="pt")
    assert [tuple(x.shape) for x in KASegImageProcessor()(batch)["pixel_values"]] == [(3, 10, 20), (3, 12, 8)]

    out = KASegImageProcessor(do_pad=True, size_divisor=8)(batch, masks, return_tensors="pt")
    assert out["pixel_values"].shape == (2, 3, 16, 24)
    expected = np.full((2, 16, 24), 255)
    values = np.zeros((2, 3, 16, 24))
    for index, (image, mask) in enumerate(zip(batch, masks, strict=True)):
        height, width = mask.shape
        expected[index, :height, :width] = mask
        values[index, :, :height, :width] = normalized(image)
    np.testing.assert_array_equal(out["labels"].numpy(), expected)
    np.testing.assert_allclose(out["pixel_values"].numpy(), values, atol=1e-6)

    out = KASegImageProcessor()(
        batch, masks, do_pad=True, pad_size={"height": 13, "width": 21}, ignore_index=-100, return_tensors="np"
    )
    assert out["labels"].shape == (2, 13, 21) and out["labels"][0, -1, -1] == -100


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channel_counts_without_rgb_conversion(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (12, 17, channels), dtype=np.uint16)
    mean, std = [0.1 * i for i in range(channels)], [0.5] * channels
    processor = KASegImageProcessor(do_convert_rgb=False, image_mean=mean, image_std=std, rescale_factor=1 / 65535)
    expected = ((array / 65535 - np.array(mean)) / 0.5).transpose(2, 0, 1)
    for given in (array, torch.from_numpy(array.transpose(2, 0, 1).copy()), array.transpose(2, 0, 1)):
        np.testing.assert_allclose(
            processor(given, return_tensors="pt")["pixel_values"][0].numpy(), expected, atol=1e-5
        )


def test_one_mean_for_any_number_of_channels() -> None:
    one_number = KASegImageProcessor(do_convert_rgb=False, image_mean=0.5, image_std=0.25)
    values = one_number(Image.new("RGBA", (8, 8), (255, 255, 255, 255)), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 4, 8, 8) and torch.allclose(values, torch.full_like(values, 2.0))


MASK, ONE_CLASS = np.zeros((12, 17), np.uint8), SimpleNamespace(logits=torch.zeros(1, 1, 4, 4))
SMALL = {"do_pad": True, "pad_size": {"height": 8, "width": 32}}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p(make_image(), Image.new("RGB", (17, 12))), ValueError, "mode 'RGB'.*colors"),
        (lambda p: p(make_image(), MASK.astype(np.float32)), ValueError, "must be integers"),
        (lambda p: p(make_image(), MASK.T), ValueError, "map 0: the image is 17x12 and its label mask 12x17"),
        (lambda p: p(make_image(), np.stack([MASK] * 2)), ValueError, "2 segmentation maps were given for 1 images"),
        (lambda p: p([]), ValueError, "no images"),
        (lambda p: p(np.zeros((0, 5, 3), np.uint8)), ValueError, "empty"),
        (lambda p: p(None), TypeError, "NoneType"),
        (lambda p: p(make_image(10, 20), **SMALL), ValueError, "pad_size"),
        (lambda p: p(make_image(channels=7)), ValueError, r"\(12, 17, 7\).*input_data_format"),
        (lambda p: p(make_image(), MASK, ignore_index=0), ValueError, "void is 255"),
        (lambda _: KASegImageProcessor(ignore_index=0)(make_image(), MASK), ValueError, "void is 255"),
        (lambda p: p.post_process_semantic_segmentation(ONE_CLASS), ValueError, "two classes"),
        (
            lambda p: p([Image.new("RGB", (4, 4)), Image.new("F", (4, 4))]),
            ValueError,
            "image 1 of the batch.*mode 'F'",
        ),
        (
            lambda _: KASegImageProcessor(do_convert_rgb=False)(Image.new("RGBA", (8, 8))),
            ValueError,
            "image 0 of the batch: .*4 channels.*3 entries",
        ),
    ],
)
def test_what_cannot_be_used_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(KASegImageProcessor())


def test_input_is_left_untouched() -> None:
    scaled = torch.rand(3, 8, 8)
    before = scaled.clone()
    KASegImageProcessor()(scaled, do_rescale=False)
    assert torch.equal(scaled, before)


def test_post_processing_is_bilinear_then_argmax_and_one_image_at_a_time() -> None:
    logits = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    outputs = SimpleNamespace(logits=logits)
    processor = KASegImageProcessor()
    sizes = [(9, 13), (32, 20)]
    resize = torch.nn.functional.interpolate
    expected = [resize(logits[i : i + 1], size=size, mode="bilinear")[0] for i, size in enumerate(sizes)]
    for target_sizes in (sizes, torch.tensor(sizes), np.array(sizes)):
        masks = processor.post_process_semantic_segmentation(outputs, target_sizes=target_sizes)
        for mask, scores in zip(masks, expected, strict=True):
            assert mask.dtype == torch.int64
            top2 = scores.topk(2, dim=0).values
            clear = top2[0] - top2[1] > 1e-5
            assert torch.equal(mask[clear], scores.argmax(0)[clear]) and clear.float().mean() > 0.99

    scored = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    torch.testing.assert_close(scored[1].segmentation_scores.double(), expected[1], atol=1e-5, rtol=0)
    unresized = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(torch.stack(unresized), logits.argmax(1))
    with pytest.raises(ValueError, match="1 entries for a batch of 2"):
        processor.post_process_semantic_segmentation(outputs, target_sizes=[(4, 4)])

    half = logits.to(torch.bfloat16)  # resized in float32
    masks = processor.post_process_semantic_segmentation(SimpleNamespace(logits=half), sizes)
    assert all(
        torch.equal(mask, resize(half[i : i + 1].float(), size=sizes[i], mode="bilinear")[0].argmax(0))
        for i, mask in enumerate(masks)
    )


def test_save_and_load_keep_the_options(tmp_path: Path) -> None:
    processor = KASegImageProcessor(
        do_resize=True, size={"shortest_edge": 64}, do_pad=True, size_divisor=32, ignore_index=254, image_mean=[0, 0, 0]
    )
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["size"] == {"shortest_edge": 64} and stored["image_processor_type"] == "KASegImageProcessor"
    again = KASegImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    image = make_image(70, 90)
    assert torch.equal(
        again(image, return_tensors="pt")["pixel_values"], processor(image, return_tensors="pt")["pixel_values"]
    )


@pytest.mark.parametrize(
    "values",
    [
        make_image().astype(np.int32) * 257,
        make_image().astype(np.int16) - 128,
        make_image() * 257.0,
        make_image() / 127.5 - 1,
        torch.randn(3, 12, 17),
    ],
    ids=["sixteen_bits_as_int32", "signed", "sixteen_bits_as_float", "minus_one_to_one", "normalized"],
)
def test_values_that_no_pixel_has_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"image 1 of the batch: its values .* are not in 0..255"):
        KASegImageProcessor()([make_image(), values])
    as_they_are = KASegImageProcessor(do_rescale=False, do_normalize=False)([values], return_tensors="pt")
    assert as_they_are["pixel_values"].min() < 0 or as_they_are["pixel_values"].max() > 255


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"do_rescale": False}, {"do_convert_rgb": False}])
def test_values_that_are_not_finite_are_refused(number: float, options: dict[str, bool]) -> None:
    values = make_image() / 255
    values[3, 4, 1] = number
    with pytest.raises(ValueError, match="image 0 of the batch: it holds NaN or infinite values"):
        KASegImageProcessor(**options)(values)


def test_values_of_a_wider_range_that_the_rescale_factor_knows() -> None:
    rgb = make_image()
    wide = KASegImageProcessor(rescale_factor=1 / 65535)(rgb.astype(np.int32) * 257, return_tensors="pt")
    np.testing.assert_allclose(wide["pixel_values"][0].numpy(), normalized(rgb), atol=1e-5)


@pytest.mark.parametrize(
    ("option", "switch"),
    [
        ({"size": {"height": 8, "width": 8}}, "do_resize"),
        ({"resample": 3}, "do_resize"),
        ({"pad_size": {"height": 64, "width": 64}}, "do_pad"),
        ({"size_divisor": 32}, "do_pad"),
        ({"rescale_factor": 1 / 127.5}, "do_rescale"),
        ({"image_mean": [0.5] * 3}, "do_normalize"),
        ({"image_std": [0.5] * 3}, "do_normalize"),
    ],
)
def test_options_that_are_switched_off_are_refused(option: dict[str, Any], switch: str, tmp_path: Path) -> None:
    message = f"nothing with {next(iter(option))} without {switch}=True"
    off = KASegImageProcessor(**{switch: False})
    off.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        off(make_image(), **option)
    with pytest.raises(ValueError, match=message):
        KASegImageProcessor.from_pretrained(tmp_path, **option)
    if switch in ("do_resize", "do_pad"):  # off by default
        with pytest.raises(ValueError, match=message):
            KASegImageProcessor(**option)
    # A file may keep what is off.
    KASegImageProcessor(**{switch: False}, **option).save_pretrained(tmp_path)
    KASegImageProcessor.from_pretrained(tmp_path)(make_image())


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [{"shortest_edge": 256}, {"shortest_edge": 256, "longest_edge": 10_000}])
def test_strips_of_which_resizing_makes_too_much_or_nothing_are_refused(size: dict[str, int], turned: bool) -> None:
    strip = np.zeros((1, 60_000, 3), np.uint8)
    with pytest.raises(ValueError, match=r"cannot be resized to .*'shortest_edge': 256.*Cut it into parts"):
        KASegImageProcessor(do_resize=True, size=size)(strip.swapaxes(0, 1) if turned else strip)


def test_the_limit_of_resizing_is_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = np.zeros((1, 40, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    processor = KASegImageProcessor(do_resize=True, size={"shortest_edge": 4})
    assert processor(small, return_tensors="pt")["pixel_values"].shape == (1, 3, 4, 160)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match="would have 4 and 160 pixels"):
        processor(small)
    processor(large)  # which is there already and only becomes smaller
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    processor(small)
