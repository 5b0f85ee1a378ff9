"""Finding images and naming and writing results."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaseg.inference.files import iter_images, plan_outputs, write_image

SUFFIXES = ("_mask.png", "_overlay.jpg")


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(folder / name, format="PNG")


def names_of(planned: list[tuple[Path, Path]], output: Path) -> list[str]:
    return [str(stem.relative_to(output)) for _, stem in planned]


def test_folders_are_searched_recursively_and_sorted(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a.png", "sub/c.webp", "sub/.hidden.png", ".cache/d.png")
    (tmp_path / "notes.txt").write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in iter_images(tmp_path)]
    assert found == ["a.png", "b.JPG", "sub/c.webp"]


def test_files_keep_their_order_and_come_once(tmp_path: Path) -> None:
    make(tmp_path, "b.png", "a.png", "odd.name")
    given = [tmp_path / "odd.name", str(tmp_path / "b.png"), tmp_path / "a.png", tmp_path / "b.png"]
    assert [path.name for path in iter_images(given)] == ["odd.name", "b.png", "a.png"]
    assert [path.name for path in iter_images([tmp_path / "b.png", tmp_path])] == ["b.png", "a.png"]


def test_missing_paths_and_empty_folders_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    with pytest.raises(FileNotFoundError, match="nowhere.png: no such file"):
        iter_images([tmp_path / "a.png", tmp_path / "nowhere.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no images.*jpg"):
        list(iter_images([tmp_path / "a.png", tmp_path / "empty"]))
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        iter_images([])


def test_results_keep_folders_below_the_one_given(tmp_path: Path) -> None:
    make(tmp_path, "in/x.jpg", "in/night/x.jpg")
    planned = plan_outputs(tmp_path / "in", tmp_path / "out", SUFFIXES)
    assert sorted(names_of(planned, tmp_path / "out")) == ["night/x", "x"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a/x.jpg", "b/x.jpg"], ["a/x", "b/x"]),
        (["a", "b"], ["a/x", "b/x"]),
        (["a/x.jpg", "c/y.jpg"], ["x", "y"]),
        (["c"], ["X.png", "x.jpg", "y.jpg"]),
        (["a/../a/x.jpg", "b/x.jpg"], ["a/x", "b/x"]),
    ],
)
def test_no_two_pictures_share_a_name(inputs: list[str], expected: list[str], tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b/x.jpg", "c/x.jpg", "c/X.png", "c/y.jpg")
    planned = plan_outputs([tmp_path / path for path in inputs], tmp_path / "out", SUFFIXES)
    assert names_of(planned, tmp_path / "out") == expected


def test_the_output_folder_is_not_searched_and_pictures_are_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg", "out/x_mask.png")
    assert names_of(plan_outputs(tmp_path, tmp_path / "out", SUFFIXES), tmp_path / "out") == ["x"]
    with pytest.raises(ValueError, match="also an input folder"):
        plan_outputs(tmp_path, tmp_path, SUFFIXES)
    with pytest.raises(ValueError, match="x_mask.png would overwrite"):
        plan_outputs([tmp_path / "x.jpg", tmp_path / "out/x_mask.png"], tmp_path / "out", SUFFIXES)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "x.png"
    write_image(Image.new("L", (4, 4), 7), target)
    assert np.asarray(Image.open(target))[0, 0] == 7

    def fill_the_disk(self: Image.Image, file: Path, **kwargs: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match=r"cannot write .*x\.png: No space left") as caught:
        write_image(Image.new("L", (4, 4), 9), target)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in target.parent.iterdir()] == ["x.png"]
    assert np.asarray(Image.open(target))[0, 0] == 7
