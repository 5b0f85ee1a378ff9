import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import official_layouts as official
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from scipy.io import savemat

from kaseg.data import CAMVID
from kaseg.data.image_files import find_images, read_image, read_mask
from kaseg.data.label_spaces import palette_for
from kaseg.data.samples import DecodeSample
from kaseg.image_processing_kaseg import KASegImageProcessor, to_rgb
from kaseg.pixels import check_same_size

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
INDICES = RNG.integers(0, 21, (6, 9)).astype(np.uint8)


def _encode(image: Image.Image, **options) -> dict:
    stream = io.BytesIO()
    image.save(stream, **{"format": "PNG", **options})
    return {"bytes": stream.getvalue(), "path": None}


def _palette_mask(indices: np.ndarray) -> Image.Image:
    mask = Image.fromarray(indices).convert("L")
    mask.putpalette([channel for color in palette_for(256) for channel in color])
    assert mask.mode == "P"
    return mask


def test_rgb_from_file_and_bytes(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    encoded = _encode(Image.fromarray(PIXELS))
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": None, "path": f"file://{tmp_path}/a.png"},  # of a stream
        encoded,
    ):
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_pictures_without_a_known_range_are_refused():
    tiff = {"format": "TIFF"}
    with pytest.raises(ValueError, match="Sample s: the image: .*mode .F. has no fixed range"):
        read_image(_encode(Image.fromarray(np.zeros((2, 2), np.float32)), **tiff), "s")
    with pytest.raises(ValueError, match="Sample s: the image: .*reach from 0 to 70000"):
        read_image(_encode(Image.fromarray(np.array([[0, 70000]], np.int32)), **tiff), "s")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    # What each orientation asks for, from the EXIF standard, as numpy steps from stored to upright pixels.
    upright = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2), 6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS, 1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(_encode(Image.fromarray(PIXELS), exif=exif))
    np.testing.assert_array_equal(np.asarray(image), upright[orientation])


def test_masks_of_indices_in_every_mode():
    indices = INDICES.copy()
    indices[0] = 255
    wide = INDICES.astype(np.uint16) * 1000
    bilevel = Image.fromarray((INDICES > 10).astype(np.uint8) * 255).convert("1")
    for mask, expected in (
        (_palette_mask(indices), indices),
        (Image.fromarray(INDICES), INDICES),
        (Image.fromarray(wide), wide),
        (bilevel, INDICES > 10),
    ):
        np.testing.assert_array_equal(read_mask(_encode(mask)), expected)
    assert read_mask(_encode(_palette_mask(indices))).dtype == np.uint8


def test_masks_of_colors_when_asked_for_alone():
    for mode in ("RGB", "RGBA", "LA"):
        mask = _encode(Image.fromarray(PIXELS).convert(mode))
        with pytest.raises(ValueError, match=rf"Sample s: the label mask has mode '{mode}'; .*class ind"):
            read_mask(mask, "s")
        if mode != "LA":
            np.testing.assert_array_equal(read_mask(mask, colors=True), PIXELS)
    for indices in (_palette_mask(INDICES), Image.fromarray(INDICES)):  # never through the palette
        message = rf"Sample s: the label mask has mode '{indices.mode}', so it holds class ind"
        with pytest.raises(ValueError, match=message):
            read_mask(_encode(indices), "s", colors=True)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_and_missing_files(read, tmp_path):
    whole = _encode(Image.fromarray(RNG.integers(0, 256, (64, 64)).astype(np.uint8)))["bytes"]
    for name, content in (("cut.png", whole[: len(whole) // 2]), ("text.png", b"no image"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read: (?!.*BytesIO)"):
            read(tmp_path / name)
        with pytest.raises(ValueError, match=r"Sample 17: the .* cannot be read"):
            read({"bytes": content, "path": None}, "17")
    with pytest.raises(FileNotFoundError, match=r"Sample 17: .*gone\.png does not exist"):
        read({"bytes": None, "path": str(tmp_path / "gone.png")}, "17")
    with pytest.raises(ValueError, match="neither bytes nor a path"):
        read({"bytes": None, "path": None}, "17")


def test_matlab_masks(tmp_path):
    official.write_mat(tmp_path / "a.mat", [0, 5, 20], "GTcls")
    official.write_mat(tmp_path / "b.mat", [0, 300], "LabelMap")
    (tmp_path / "c.mat").write_bytes((tmp_path / "b.mat").read_bytes()[:150])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.mat"), np.resize([0, 5, 20], official.SIZE))
    encoded = {"bytes": (tmp_path / "b.mat").read_bytes(), "path": "b.MAT"}
    np.testing.assert_array_equal(read_mask(encoded), np.resize([0, 300], official.SIZE))
    with pytest.raises(ValueError, match=r"Sample s: the label mask .*c\.mat cannot be read: not a readable MATLAB"):
        read_mask({"bytes": None, "path": str(tmp_path / "c.mat")}, "s")
    with pytest.raises(FileNotFoundError, match=r"d\.mat does not exist"):
        read_mask(tmp_path / "d.mat")


def _mat(**variables) -> dict:
    stream = io.BytesIO()
    savemat(stream, variables)
    return {"bytes": stream.getvalue(), "path": "a.mat"}


def test_other_content_of_matlab_files():
    for shape in ((1, 5), (5, 1), (1, 1)):  # MATLAB has no vectors
        assert read_mask(_mat(LabelMap=np.ones(shape, np.uint16))).shape == shape
    for content, message in (
        ({"other": 1, "inst": 2}, "holds inst, other, and neither LabelMap nor GTcls"),
        ({"LabelMap": np.zeros((2, 2))}, "LabelMap holds float64"),
        ({"GTcls": {"Boundaries": 1}}, "GTcls holds object"),
    ):
        with pytest.raises(ValueError, match=message):
            read_mask(_mat(**content))
    for broken in (b"", b"no MATLAB"):
        with pytest.raises(ValueError, match="not a readable MATLAB file"):
            read_mask({"bytes": broken, "path": "a.mat"})


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_exif_data_beside_good_pixels(read):
    # Orientation 6, and a resolution that is text where a fraction belongs.
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02"
        + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
        + b"\x01\x1a\0\x02\0\0\0\x02AB\0\0"
        + b"\0" * 4
    )
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    encoded = _encode(image, format="JPEG", exif=exif)
    assert np.asarray(read(encoded, "s")).shape[:2] == (8, 6)
    opened = Image.open(io.BytesIO(encoded["bytes"]))
    assert KASegImageProcessor()(opened, return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 6)


def _several(path: Path, **options) -> Path:
    """A file of two different images."""
    first, second = (Image.fromarray((PIXELS[..., 0] // part).astype(np.uint8)) for part in (2, 8))
    first.save(path, save_all=True, append_images=[second], **options)
    with Image.open(path) as image:
        assert image.n_frames == 2
    return path


@pytest.mark.parametrize("name", ["stack.tif", "animation.gif", "animation.png", "animation.webp"])
def test_files_of_several_images_are_refused(name, tmp_path):
    path, image = _several(tmp_path / name), Image.fromarray(np.zeros((6, 9), np.uint8))
    processor = KASegImageProcessor()
    for read in (read_image, read_mask, processor, lambda mask: processor(image, mask)):
        with pytest.raises(
            ValueError, match="holds 2 images .pages or frames.*save each to a file of its own"
        ) as caught:
            read(path)
        assert read is processor or str(path) in str(caught.value)


def test_previews_are_no_images_of_their_own(tmp_path):
    photo = _several(tmp_path / "phone.jpg", format="MPO")  # as many phones write their photos
    overview = tmp_path / "map.tif"
    with AppendingTiffWriter(str(overview), new=True) as pages:
        Image.fromarray(PIXELS).save(pages)
        pages.newFrame()
        Image.fromarray(PIXELS[::2, ::2]).save(pages, format="TIFF", tiffinfo={254: 1})
    for path in (photo, overview):
        assert read_image(path).size == (9, 6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_images_of_12_bits_are_warned_about_once(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("kaseg.pixels._found_dark", [])
    values = np.array([[0, 4095], [17, 256]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"12.{suffix}")
    Image.fromarray(values * 16).save(tmp_path / f"16.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_mask(tmp_path / f"12.{suffix}")  # class ids are small
        read_image(tmp_path / f"16.{suffix}")
        read_image(_encode(Image.fromarray(np.zeros((2, 2), np.uint16))))  # black
    with pytest.warns(UserWarning, match=f"12.{suffix} has 16 bits, but no value above 4095"):
        read_image(tmp_path / f"12.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / f"12.{suffix}")


@pytest.mark.parametrize("kind", ["image", "array", "tensor", "colors"])
def test_so_are_those_in_memory_and_in_color(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("kaseg.pixels._found_dark", [])
    values = np.full((6, 9), 4095, np.uint16)
    given = {"image": Image.fromarray(values), "array": values, "tensor": torch.from_numpy(values)}
    given["colors"] = tmp_path / "colors.png"
    given["colors"].write_bytes(_png_of_16_bit_colors(np.stack([values] * 3, -1)))
    with pytest.warns(UserWarning, match="16 bits, but no value above (4095|3840)"):
        KASegImageProcessor()(given[kind])


def test_files_of_other_formats_in_a_folder_are_warned_about(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/IMG_1.HEIC", "clip.mp4", ".hidden.heic", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 files are left out.*: clip\.mp4, sub/IMG_1\.HEIC\. Convert"):
        assert list(find_images(tmp_path)) == [tmp_path / "a.png"]
    (tmp_path / "clip.mp4").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(find_images(tmp_path, skip=(tmp_path / "sub").resolve()))


def test_a_turned_image_says_why_its_mask_does_not_fit():
    with pytest.raises(ValueError, match="turned as their EXIF orientation says; so must their masks"):
        check_same_size((6, 9), (9, 6))
    with pytest.raises(ValueError, match="must have the same size.$"):
        check_same_size((6, 9), (9, 7))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mask_is_turned", [False, True])
def test_a_turned_image_whose_mask_is_not_is_warned_about_once(monkeypatch, format, mask_is_turned):
    mask = Image.fromarray(INDICES[:6, :6] % 11)
    for orientation in range(1, 9):
        monkeypatch.setattr("kaseg.data.image_files._found_turned", [])
        exif = Image.Exif()
        exif[0x0112] = orientation
        sample = {
            "image": {**_encode(Image.fromarray(PIXELS[:6, :6]), format=format, exif=exif), "path": "a.jpg"},
            "label": {**_encode(mask, **({"exif": exif} if mask_is_turned else {})), "path": "a.png"},
            "id": "a",
        }
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(2):
                DecodeSample(CAMVID)(sample)
        told = [str(warning.message) for warning in found if "its mask has no orientation" in str(warning.message)]
        assert len(told) == (orientation > 1 and not mask_is_turned), orientation
        assert all("Sample a (a.jpg, a.png)" in message for message in told)
        # What is upright is not turned again.
        image = read_image(_encode(Image.fromarray(PIXELS), format=format, exif=exif))
        assert image.size == (PIXELS.shape[1::-1] if orientation < 5 else PIXELS.shape[:2])
        assert to_rgb(image).tobytes() == image.tobytes() and to_rgb(image).size == image.size


def _png_of_16_bit_colors(values: np.ndarray) -> bytes:
    """A PNG file of uint16 (H, W, 3), which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
