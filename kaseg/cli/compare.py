"""`kaseg compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common

if TYPE_CHECKING:
    from ..experiments.comparison import Comparison

_SECTIONS = ("recipe", "teacher", "students", "objectives", "seeds", "share_autoencoder")


def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of the comparison.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of all its runs and of the report.")],
    data_dir: common.DataDir = None,
    backbone_weights: Annotated[Path | None, typer.Option(help="Local file of encoder weights.")] = None,
    set_fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field for all runs, such as torch_compile=true."),
    ] = None,
    only: Annotated[str, typer.Option(metavar="PATTERN", help="Do these runs only, e.g. 'os16/*/seed-1'.")] = "*",
    report_only: Annotated[bool, typer.Option("--report-only", help="Do no run; report those that are done.")] = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Runs at a time, as where small students leave a GPU idle; each writes run.log in its folder."
        ),
    ] = 1,
    examples: Annotated[int, typer.Option(min=0, help="Evaluation images on the page.")] = 4,
) -> None:
    """Train a family of runs by one recipe and compare them: students x objectives x seeds, and their teacher.

    FILE has the sections recipe (fields that all runs share), objectives (name: fields of kaseg distill, or nothing to
    learn from the labels alone), and, if wanted, students (name: fields), seeds (list), teacher (a checkpoint, or
    fields of one to train first) and share_autoencoder (true: it is fitted once for all seeds). The same command goes
    on with what was stopped and skips what is done.
    """
    from ..best_effort import noting
    from ..experiments.comparison import run_comparison
    from ..experiments.report import write_report
    from ..experiments.summary import to_markdown
    from .output import console

    comparison = read_comparison(file)
    overrides = _overrides(set_fields or [])
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    if backbone_weights is not None:
        overrides["backbone_weights"] = str(backbone_weights)
    if not report_only:
        run_comparison(comparison, output_dir, overrides, only, announce=lambda line: console.rule(line), jobs=jobs)
    with noting(f"The runs that are done are in {output_dir}; kaseg compare --report-only reports them."):
        rows = write_report(comparison, output_dir, overrides, examples)
    console.print(to_markdown(rows), soft_wrap=True)
    page = output_dir / "summary.html"
    console.print(f"Report: {page if page.is_file() else output_dir / 'summary.md'}", soft_wrap=True)


def read_comparison(path: Path) -> Comparison:
    """Reads the YAML file of a comparison; a typer.BadParameter if the file is missing or not YAML, a section is
    unknown, missing or of the wrong form, a field is unknown or has the wrong type, or the parts do not fit
    together."""
    from ..experiments.comparison import Comparison
    from .recipes import read_recipe

    sections = read_recipe(path, set(_SECTIONS), {}, "FILE")
    for name in ("recipe", "objectives"):
        if name not in sections:
            raise typer.BadParameter(f"{path}: section {name!r} is missing.", param_hint="FILE")
    parts = {name: section for name, section in sections.items() if section is not None}
    for name in ("recipe", "teacher"):
        if name in parts:
            parts[name] = _typed(parts[name], f"{path}: {name}")
    for name in ("objectives", "students"):
        if isinstance(parts.get(name), dict):
            parts[name] = {n: _typed(fields, f"{path}: {name}: {n}") for n, fields in parts[name].items()}
    if isinstance(parts.get("students"), dict):
        parts["students"] = {n: {} if fields is None else fields for n, fields in parts["students"].items()}
    try:
        return Comparison(**{"recipe": {}, "objectives": {}, **parts})
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="FILE") from None


def _overrides(settings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r} is not FIELD=VALUE.", param_hint="--set")
        values[name.replace("-", "_")] = value
    return _typed(values, "--set")


def _typed(fields: Any, where: str) -> Any:
    """The fields as their dataclasses take them. Unknown ones, and what is no mapping, are left to [`Comparison`],
    which says what is wrong with them."""
    from ..experiments.comparison import ADAPTED_PARTS
    from .flags import convert_field, options_of

    if not isinstance(fields, dict):
        return fields
    options = options_of(ADAPTED_PARTS)
    return {n: convert_field(v, options[n], f"{where}: {n}") if n in options else v for n, v in fields.items()}
