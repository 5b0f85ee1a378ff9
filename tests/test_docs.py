"""What README and docs name exists: extras, commands and their flags, recipe fields, runs of families, Python names and
arguments (those of the scripts, too), options of scripts, files, pages. Snippets that train are run."""

import ast
import fnmatch
import importlib
import inspect
import itertools
import re
import shlex
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import kaseg
from kaseg import KnowledgeAdaptationConfig
from kaseg.cli import app
from kaseg.cli.compare import read_comparison
from kaseg.cli.flags import convert_field, options_of
from kaseg.data import get_label_space, load_segmentation_dataset
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CARDS = sorted((ROOT / "hub_configs").glob("*/README.md"))
SCRIPTS = sorted([*(ROOT / "tests/benchmarks").glob("*.py"), *(ROOT / "docs/results").glob("*.py")])
FAMILIES = sorted((ROOT / "hub_configs").glob("*.yaml"))
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Extras for who works on kaseg, and how the package of an extra is imported.
FOR_DEVELOPERS = {"dev", "docs"}
MODULES = {"av": "av", "gradio": "gradio"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


@cache
def commands(page: Path) -> list[list[str]]:
    """The calls of the command line in the page's shell blocks and code spans, as words behind `kaseg`."""
    lines = [line for block in blocks(page, "bash", "sh") for line in block.replace("\\\n", " ").splitlines()]
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = []
    for text in (*lines, *re.findall(r"`(kaseg [^`]+)`", prose.replace("\n", " "))):
        for part in re.split(r"&&|\|", text):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a quotation that goes on in the next line
                words = part.split()
            words = words[words.index("kaseg") :] if "kaseg" in words else []
            if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
                found.append(words[1:])
    return found


@cache
def help_of(*command: str) -> str:
    result = CliRunner(env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).invoke(app, [*command, "--help"])
    assert result.exit_code == 0, f"there is no kaseg {' '.join(command)}: {result.output}"
    return result.output


@cache
def fields() -> set[str]:
    return set(options_of((ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig)))


@cache
def runs_of(family: str) -> list[str]:
    return [run.name for run in read_comparison(ROOT / family).runs("runs")]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", *CARDS, *FAMILIES], ids=name_of)
def test_commands_and_flags(page: Path) -> None:
    for words in commands(page):
        command = words[:2] if words[0] == "dataset" and len(words) > 1 else words[:1]
        shown = help_of(*command)
        for flag in (word.partition("=")[0] for word in words if re.match(r"--[a-z]|-[a-z]$", word)):
            known = flag in shown.replace(",", " ").split() or flag in re.findall(r"[\w-]+", shown)
            is_field = command[0] in ("train", "distill") and flag.strip("-").removeprefix("no-").replace("-", "_")
            assert known or is_field in fields(), f"kaseg {' '.join(words)}: {command} has no {flag}"


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=name_of)
def test_python_names(page: Path) -> None:
    names: dict[str, object] = {"kaseg": kaseg}
    is_script = page.suffix == ".py"
    for block in [page.read_text(encoding="utf-8")] if is_script else blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kaseg":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"from {node.module} import {alias.name}"
                    names[alias.asname or alias.name] = getattr(module, alias.name)
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call):
                called = _called(node.func, names)
                assert called is None or _takes(called, node), f"{ast.unparse(node)}"
    for dotted in re.findall(r"`(kaseg(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        assert _exists(dotted), dotted


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_runs_of_families(page: Path) -> None:
    """`--only` matches runs of the family, and `--set` sets fields. What is `$name` in a loop stands for any name."""
    for words in commands(page):
        if words[0] != "compare":
            continue
        values: dict[str, list[str]] = {"--only": [], "--set": []}
        for flag, value in itertools.pairwise(words):
            values.get(flag, []).append(value)
        assert {value.partition("=")[0].replace("-", "_") for value in values["--set"]} <= fields(), words
        if len(words) > 1 and (ROOT / words[1]).is_file():
            for pattern in (re.sub(r"\$\w+", "*", value) for value in values["--only"]):
                assert fnmatch.filter(runs_of(words[1]), pattern), f"{words[1]} has no run {pattern}"


def test_options_of_scripts() -> None:
    blocks_of = [block for page in PAGES for block in blocks(page, "bash")]
    lines = [line for block in blocks_of for line in block.replace("\\\n", " ").splitlines()]
    for script, rest in re.findall(r"python ((?:tests|docs)/\S+\.py)([^`]*)", "\n".join(lines) + "\n"):
        known = set(re.findall(r"[\"'](--[a-z-]+)[\"']", (ROOT / script).read_text(encoding="utf-8")))
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest.partition("\n")[0])) - known
        assert not unknown, f"{script} has no {unknown}"


def _exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def _called(function: ast.expr, names: dict[str, object]) -> object | None:
    """What of kaseg is called: a name that was imported, an attribute of it, or none of ours."""
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if isinstance(function, ast.Attribute):
        return getattr(_called(function.value, names), function.attr, None)
    return None


def _takes(called: object, call: ast.Call) -> bool:
    try:
        signature = inspect.signature(called)  # type: ignore[arg-type]
    except ValueError:
        return True
    arguments = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    try:
        signature.bind_partial(*call.args, **arguments)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes(page: Path, tmp_path: Path) -> None:
    """The keys of recipes in YAML blocks; those of `kaseg compare` have sections."""
    sections = {"recipe", "teacher", "students", "objectives", "seeds", "share_autoencoder"}
    for block in blocks(page, "yaml", "yml"):
        content = yaml.safe_load(block)
        if isinstance(content, dict):
            unknown = set(content) - fields() - sections
            assert not unknown, f"{unknown} in\n{block}"
            if "objectives" in content:
                (tmp_path / "family.yaml").write_text(block)
                assert read_comparison(tmp_path / "family.yaml").runs(tmp_path)
            else:
                options = options_of((ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig))
                for name, value in content.items():
                    convert_field(value, options[name], name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named(page: Path) -> None:
    """Paths from the root of the repository; those with a placeholder in capitals or `<...>` stand for others."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/])((?:kaseg|tests|docs|hub_configs)/[\w./-]*[\w/])", FENCE.sub("", text)):
        is_placeholder = re.search(r"NAME|DIR|FILE", path)
        is_shipped = path.startswith("kaseg/") and "." not in path
        assert is_placeholder or is_shipped or (ROOT / path).exists(), path


@cache
def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and MkDocs make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings]
    given = set(re.findall(r'id="([^"]+)"', text))
    return given | {re.sub(r"\s+", "-", heading.strip().lower()) for heading in plain}


def test_every_page_is_on_the_site() -> None:
    nav = yaml.safe_load(re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
    listed = {file for entry in nav for file in entry.values()}
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("*.md")}
    assert listed == there


def test_extras_that_are_named() -> None:
    for page in PAGES:
        named = re.findall(r"(?:kaseg|\.|`)\[([a-z0-9,-]+)\](?!\()", page.read_text(encoding="utf-8"))
        assert {part for group in named for part in group.split(",")} <= EXTRAS.keys(), page


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - FOR_DEVELOPERS))
def test_extras_are_documented_and_used(extra: str) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert f"[{extra}]" in pages or f"`{extra}`" in pages
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "kaseg").rglob("*.py"))
    for requirement in EXTRAS[extra]:
        package = re.split(r"[<>=~! ]", requirement)[0]
        module = MODULES.get(package, package.replace("-", "_"))
        assert re.search(rf"(import|from) {module}\b|\"{module}[\".]", code), f"nothing in kaseg uses {package}"


def _with(config: type, fields_of: dict[str, Any]) -> Callable[..., Any]:
    return lambda **given: config(**given | fields_of)


@pytest.mark.slow
@pytest.mark.parametrize("page, folder", [("README.md", "data"), ("docs/index.md", "path/to/folder")])
def test_snippets_that_train(page: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run one after the other as they stand, on a small dataset of the user's own, with one step a stage."""
    scenes = load_segmentation_dataset("scenes", split="train", num_scenes=4, height=64, width=64)
    for index, (split, kind) in enumerate(itertools.product(("train", "validation"), range(2))):
        for column, name in (("image", f"images/{kind}.jpg"), ("label", f"masks/{kind}.png")):
            file = tmp_path / folder / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            scenes[index][column].save(file)
    (tmp_path / folder / "classes.txt").write_text("\n".join(get_label_space("scenes").names))
    monkeypatch.chdir(tmp_path)
    small = {"crop_size": [64, 64], "per_device_train_batch_size": 2, "max_steps": 1, "report_to": "none"}
    first_stage = {"autoencoder_max_steps": 1, "autoencoder_epochs": 0}
    for name, fields_of in (("SegmentationConfig", small), ("KnowledgeAdaptationConfig", small | first_stage)):
        config = getattr(kaseg, name)
        monkeypatch.setattr(kaseg, name, _with(config, fields_of))
    names: dict[str, object] = {}
    snippets = [block for block in blocks(ROOT / page, "python") if "Trainer(" in block]
    assert len(snippets) == 2
    for snippet in snippets:
        # The one teacher of the Hub, and encoders that are too large for a test.
        small_teacher = re.sub(r'"nvidia/[^"]+"', '"kaseg/mobilenetv2-os16-camvid-teacher"', snippet)
        exec(re.sub("resnet50|mobilenetv2_100", "test_resnet", small_teacher), names)
    assert isinstance(names["student"], kaseg.KASegModel) and names["student"].config.num_labels == 9
