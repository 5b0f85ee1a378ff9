from pathlib import Path

import pytest
import typer

from kaseg.cli.recipes import read_recipe

KNOWN = {"learning_rate", "data_dir", "crop_size", "logging_steps"}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_values_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASEG_SHARED", "/somewhere")
    path = write(tmp_path, "learning_rate: 0.1\ndata_dir: $KASEG_SHARED/data\ncrop_size: ['${KASEG_SHARED}', 1]\n")
    recipe = read_recipe(path, KNOWN, {})
    assert recipe == {"learning_rate": 0.1, "data_dir": "/somewhere/data", "crop_size": ["/somewhere", 1]}
    assert read_recipe(write(tmp_path, "# nothing\n"), KNOWN, {}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", r"recipe.yaml: unknown key 'lerning_rate'. Did you mean 'learning_rate'"),
        ("learning-rate: 1", r"unknown key 'learning-rate'. Did you mean 'learning_rate'"),
        ("xyz: 1", r"unknown key 'xyz'\.$"),
        ("teacher: a", "'teacher' is a field of kaseg distill, not of this command"),
        ("- 1", "recipe.yaml must hold .* found a list"),
        ("a: [", "recipe.yaml is not YAML"),
        ("crop_size: 1\ndata_dir: x\ncrop_size: 2", r"'crop_size' stands twice\s+in .*line 3"),
        ("data_dir: {a: {b: 1, b: 2}}", "'b' stands twice"),
        ("data_dir: $KASEG_UNSET/x", r"data_dir is '\$KASEG_UNSET/x', but .* KASEG_UNSET is not set"),
        ("crop_size: ['${KASEG_UNSET}']", "KASEG_UNSET is not set"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.delenv("KASEG_UNSET", raising=False)
    with pytest.raises(typer.BadParameter, match=message):
        read_recipe(write(tmp_path, text), KNOWN, {"kaseg distill": {"teacher"}})


def test_merged_keys_may_be_set_anew(tmp_path: Path) -> None:
    text = "data_dir: &shared {a: 1, b: 2}\ncrop_size: {<<: *shared, a: 3}\n"
    assert read_recipe(write(tmp_path, text), KNOWN, {})["crop_size"] == {"a": 3, "b": 2}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="nowhere.yaml: No such file"):
        read_recipe(tmp_path / "nowhere.yaml", KNOWN, {})
