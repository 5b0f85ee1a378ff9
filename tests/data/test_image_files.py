import io

import numpy as np
import official_layouts as official
import pytest
from PIL import Image
from scipy.io import savemat

from kaseg.data.image_files import read_image, read_mask
from kaseg.data.label_spaces import palette_for
from kaseg.image_processing_kaseg import KASegImageProcessor, to_rgb

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
        encoded,
    ):
        image = read_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_url_of_a_streamed_file(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image = read_image({"bytes": None, "path": f"file://{tmp_path}/a.png"})
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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_upright_is_not_turned_again(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(_encode(Image.fromarray(PIXELS), format=format, exif=exif))
    assert image.size == (PIXELS.shape[1::-1] if orientation < 5 else PIXELS.shape[:2])
    assert to_rgb(image).tobytes() == image.tobytes() and to_rgb(image).size == image.size


def test_palette_masks_keep_their_indices(tmp_path):
    indices = INDICES.copy()
    indices[0] = 255
    _palette_mask(indices).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), indices)
    assert read_mask(tmp_path / "m.png").dtype == np.uint8


def test_gray_bilevel_and_16_bit_masks():
    np.testing.assert_array_equal(read_mask(_encode(Image.fromarray(INDICES))), INDICES)
    wide = INDICES.astype(np.uint16) * 1000
    np.testing.assert_array_equal(read_mask(_encode(Image.fromarray(wide))), wide)
    bilevel = Image.fromarray((INDICES > 10).astype(np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(read_mask(_encode(bilevel)), INDICES > 10)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colored_masks_are_refused(mode):
    with pytest.raises(ValueError, match=rf"Sample s: the label mask has mode '{mode}'; .*class ind"):
        read_mask(_encode(Image.fromarray(PIXELS).convert(mode)), "s")


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colored_masks_when_asked_for(mode):
    np.testing.assert_array_equal(read_mask(_encode(Image.fromarray(PIXELS).convert(mode)), colors=True), PIXELS)


def test_palette_masks_are_never_decoded_through_their_palette():
    for mask in (_palette_mask(INDICES), Image.fromarray(INDICES)):
        with pytest.raises(
            ValueError, match=rf"Sample s: the label mask has mode '{mask.mode}', so it holds class ind"
        ):
            read_mask(_encode(mask), "s", colors=True)


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
