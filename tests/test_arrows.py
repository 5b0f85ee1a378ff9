"""Imports point one way, as CONTRIBUTING.md has it, and nothing imports the package root."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kaseg"
# A room imports from those further down alone; below them all lie the flat files, which import flat files alone.
ROOMS = (
    ("cli",),
    ("benchmark", "experiments", "hub"),
    ("export", "inference"),
    ("trainer",),
    ("distillation", "model_card"),
    ("evaluation",),
    ("data", "losses"),
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
FLAT = len(ROOMS)


def _imports(file: Path) -> Iterator[str]:
    """Every module of the package that a file imports, wherever in it, by its full name."""
    package = ("kaseg", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"kaseg.{alias.name}" for alias in node.names) if name == "kaseg" else (name,)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        return
    room = file.relative_to(PACKAGE).parts[0]
    imported = [name.split(".") for name in _imports(file) if name.split(".")[0] == "kaseg"]
    for name in imported:
        shown = f"{file.relative_to(PACKAGE)} imports {'.'.join(name)}"
        assert len(name) > 1, f"{shown}, the package root"
        target = PACKAGE / name[1]
        assert target.is_dir() or target.with_suffix(".py").is_file(), f"{shown}: from the package root"
        if name[1] != room:
            assert RANKS.get(room, FLAT) < RANKS.get(name[1], FLAT + (room not in RANKS)), shown


def test_every_room_has_its_place() -> None:
    assert {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.glob("*/**/*.py")} == set(RANKS)


def test_arrows_that_went_away_stay_away() -> None:
    for file, other in (
        ("trainer/segmentation_trainer.py", "kaseg.distillation"),
        ("cli/evaluate.py", "kaseg.experiments.run"),
    ):
        assert not [name for name in _imports(PACKAGE / file) if name.startswith(other)], file
