import ast
import json
import sys
from pathlib import Path

import pytest

from kaseg import checkpoints

FILES = ("config.json", "model.safetensors")


def make_checkpoint(root: Path, repo: str, files: tuple[str, ...] = FILES) -> Path:
    folder = root / repo
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(params=["wheel", "editable"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub_configs/ where an installed wheel, or a checkout, has it."""
    package = tmp_path / "somewhere" / "kaseg"
    package.mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", package)
    root = (package if request.param == "wheel" else package.parent) / "hub_configs"
    root.mkdir()
    return root


def test_only_complete_folders_are_listed_in_order(root: Path) -> None:
    make_checkpoint(root, "b-os16-camvid-plain")
    make_checkpoint(root, "a-os16-camvid-ka", files=(*FILES, "README.md"))
    make_checkpoint(root, "recipe-only", files=("config.json", "recipe.yaml"))
    make_checkpoint(root, "weights-only", files=("model.safetensors",))
    (root / "README.md").write_text("not a folder")
    assert checkpoints.list_models() == ["kaseg/a-os16-camvid-ka", "kaseg/b-os16-camvid-plain"]


def test_path_with_and_without_namespace(root: Path) -> None:
    folder = make_checkpoint(root, "a-os16-camvid-ka")
    for name in ("kaseg/a-os16-camvid-ka", "a-os16-camvid-ka"):
        assert checkpoints.checkpoint_path(name) == folder and folder.is_absolute()
        assert checkpoints.is_shipped(name)
    assert checkpoints.resolve("kaseg/a-os16-camvid-ka") == str(folder)
    for name in ("kaseg/unknown", "other/a-os16-camvid-ka", "a-os16-camvid-ka"):
        assert checkpoints.resolve(name) == name


@pytest.mark.parametrize(
    "name", ["kaseg/unknown", "unknown", "other/a-os16-camvid-ka", "kaseg/../hub_configs", "kaseg/", "", "recipe-only"]
)
def test_unknown_name_raises_and_lists_what_ships(root: Path, name: str) -> None:
    make_checkpoint(root, "a-os16-camvid-ka")
    make_checkpoint(root, "b-os16-camvid-plain")
    make_checkpoint(root, "recipe-only", files=("config.json",))
    assert not checkpoints.is_shipped(name)
    with pytest.raises(LookupError, match=r"Shipped: kaseg/a-os16-camvid-ka, kaseg/b-os16-camvid-plain\.") as error:
        checkpoints.checkpoint_path(name)
    assert repr(name) in str(error.value)


def test_nothing_shipped_says_where_it_looked(root: Path) -> None:
    assert checkpoints.list_models() == checkpoints.list_families() == []
    with pytest.raises(LookupError, match="none") as error:
        checkpoints.checkpoint_path("kaseg/anything")
    assert str(root) in str(error.value)


def test_a_wheel_does_not_look_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an installed package lies site-packages, where a folder of that name is somebody else's."""
    package = tmp_path / "kaseg"
    make_checkpoint(package / "hub_configs", "ours")
    make_checkpoint(tmp_path / "hub_configs", "theirs")
    monkeypatch.setattr(checkpoints, "PACKAGE_DIR", package)
    assert checkpoints.list_models() == ["kaseg/ours"]


def test_resolve_prefers_a_local_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(root, "a-os16-camvid-ka")
    (tmp_path / "cwd" / "kaseg" / "a-os16-camvid-ka").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    assert checkpoints.resolve(Path("kaseg/a-os16-camvid-ka")) == "kaseg/a-os16-camvid-ka"


def test_module_needs_the_standard_library_only() -> None:
    tree = ast.parse(Path(checkpoints.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not relative
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_default_is_the_best_student_at_stride_16() -> None:
    scores = {}
    for name in checkpoints.list_models():
        folder = checkpoints.checkpoint_path(name)
        config = json.loads((folder / "config.json").read_text())
        if config["output_stride"] == 16 and config.get("head", "student") == "student":
            scores[name] = json.loads((folder / "results.json").read_text())["mean_iou"]
    assert max(scores, key=lambda name: scores[name]) == checkpoints.DEFAULT_MODEL


def test_recipes_of_families(root: Path) -> None:
    make_checkpoint(root, "a-os16-camvid-ka")
    for name in ("voc.yaml", "camvid.yaml"):
        (root / name).touch()
    assert checkpoints.list_families() == [root / "camvid.yaml", root / "voc.yaml"]


@pytest.mark.parametrize("name", ["kaseg/mobilenetv2-os16-voc-ka", "resnet50-os16-context-teacher"])
def test_models_that_are_not_trained_are_no_checkpoints(name: str) -> None:
    assert not checkpoints.is_shipped(name) and checkpoints.resolve(name) == name
    with pytest.raises(LookupError, match="No checkpoint named"):
        checkpoints.checkpoint_path(name)
    with pytest.raises(FileNotFoundError, match=r"not trained yet.*kaseg compare.*voc\.yaml"):
        checkpoints.hub_config_folder(name)
