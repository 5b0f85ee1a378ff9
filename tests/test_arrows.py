"""Imports point one way, as CONTRIBUTING.md has it, and nothing imports the package root."""

import ast
from collections.abc import Iterator
from pathlib import Path

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


def _wrong(file: Path, name: list[str]) -> bool:
    """Whether a file may not import this module of ours."""
    if len(name) == 1 or not ((PACKAGE / name[1]).is_dir() or (PACKAGE / name[1]).with_suffix(".py").is_file()):
        return True  # the package root, or something of it
    room = file.relative_to(PACKAGE).parts[0]
    return name[1] != room and RANKS.get(room, FLAT) >= RANKS.get(name[1], FLAT + (room not in RANKS))


def test_imports_point_one_way() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    ours = [(file, name.split(".")) for file in files for name in _imports(file) if name.split(".")[0] == "kaseg"]
    assert len(files) > 100 and len(ours) > 500
    assert [f"{file.relative_to(PACKAGE)} imports {'.'.join(name)}" for file, name in ours if _wrong(file, name)] == []


def test_every_room_has_its_place() -> None:
    assert {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.glob("*/**/*.py")} == set(RANKS)


def test_arrows_that_went_away_stay_away() -> None:
    for file, other in (
        ("trainer/segmentation_trainer.py", "kaseg.distillation"),
        ("cli/evaluate.py", "kaseg.experiments.run"),
    ):
        assert not [name for name in _imports(PACKAGE / file) if name.startswith(other)], file
