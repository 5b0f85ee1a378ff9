"""Families of runs: one recipe for every student, objective and seed, so that what differs is what is compared."""

import dataclasses
import fnmatch
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME

from kaseg.close_names import did_you_mean
from kaseg.distillation.terms import parse_losses, parse_weight
from kaseg.experiments.parallel import do_in_parallel, in_worker
from kaseg.experiments.recipe import DataArguments, ModelArguments, TeacherArguments, build_arguments
from kaseg.experiments.run import check_model, check_same_recipe, distill, train
from kaseg.model_card.published_files import RECIPE_NAME
from kaseg.model_card.results import RESULTS_NAME
from kaseg.model_card.settings import recipe_of
from kaseg.progress import progress_bar
from kaseg.trainer import KnowledgeAdaptationConfig, SegmentationConfig

TEACHER = "teacher"
PLAIN_PARTS = (ModelArguments, DataArguments, SegmentationConfig)
ADAPTED_PARTS = (ModelArguments, DataArguments, TeacherArguments, KnowledgeAdaptationConfig)
# Prefixes of fields that the first stage does not read. Anything else may change it: the data and crops, the student's
# stride by its head.
_SECOND_STAGE_ALONE = (
    "seed",
    "adaptation_",
    "affinity_",
    "distillation_",
    "correct_teacher",
    "teacher_logits_stride",
    "squared_affinity_rows",
    "ignore_void_positions",
    "adapter_",
    "mix",
    "balanced_",
    "ema_decay",
)
_FOLDER_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class Run:
    """One training of a comparison: its student and objective (or "teacher"), seed, recipe (`fields`), and whether a
    teacher teaches (`distils`)."""

    student: str
    objective: str
    seed: int
    fields: Mapping[str, Any]
    distils: bool

    @property
    def name(self) -> str:
        """Folder of the run below that of the comparison."""
        return TEACHER if self.student == TEACHER else f"{self.student}/{self.objective}/seed-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """What is compared: students x objectives x seeds, all trained by one recipe, and the teacher they learn from.

    A distilled score never stands alone: where an objective distills, one that learns from the labels alone must be
    there too. Runs of one seed share initial weights, data order and augmentation: their differences are paired.

    Args:
        recipe: Fields that all runs share, with the keys of `kaseg train` and `kaseg distill`.
        objectives: Name -> fields of the objective; `None` trains on the labels alone, anything else distills.
        students: Name -> fields of the student.
        seeds: One run each.
        teacher: A checkpoint (Hub id, folder or shipped name), or fields that, on top of `recipe`, train one first
            (with the first seed unless they name one).
        share_autoencoder: Fit the first stage once for all runs that have the same fields but for the seed and what the
            second stage alone reads (weights and options of the terms), in the first of them. The spread over seeds
            then does not include that of the autoencoder.

    Raises:
        ValueError: a part of another form; a field or a name that is unknown, given twice or missing; a name that is no
            name of a folder. The message says which and where.
    """

    recipe: Mapping[str, Any]
    objectives: Mapping[str, Mapping[str, Any] | None]
    students: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"student": {}})
    seeds: Sequence[int] = (1,)
    teacher: str | Mapping[str, Any] | None = None
    share_autoencoder: bool = False

    def __post_init__(self) -> None:
        self._check_forms()
        if not self.objectives or not self.students or not self.seeds:
            raise ValueError("A comparison needs at least one objective, one student and one seed.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed more than once.")
        if TEACHER in self.students:
            raise ValueError(f"students: {TEACHER!r} is the teacher's own name; choose another.")
        distilling = [name for name, fields in self.objectives.items() if fields is not None]
        if distilling and len(distilling) == len(self.objectives):
            raise ValueError(
                f"objectives: {', '.join(distilling)} distill, but none learns from the labels alone; add one without "
                "fields (plain:), since a distilled score says nothing without it."
            )
        if distilling and self.teacher is None:
            raise ValueError(f"objectives: {', '.join(distilling)} need a teacher: name a checkpoint or its fields.")
        for where, fields in self._sections():
            _check_fields(where, fields)
        if self.teacher is not None and "teacher" in self.recipe:
            raise ValueError("recipe: teacher would go before the section teacher: leave one of the two out.")

    @property
    def plain(self) -> str | None:
        """The objective that learns from the labels alone and that others are compared with."""
        return next((name for name, fields in self.objectives.items() if fields is None), None)

    def runs(self, output_dir: str | Path, overrides: Mapping[str, Any] | None = None) -> list[Run]:
        """Every run below `output_dir`, in the order in which they are done: teacher first, then seed by seed, so that
        a family that is broken off holds whole pairs. The `overrides` of [`run_comparison`] go into no run's fields,
        but decide with them which runs fit an autoencoder that others can take; one that names another teacher leaves
        out that of the family."""
        runs, teacher = [], self.teacher
        if isinstance(teacher, Mapping) and "teacher" not in (overrides or {}):
            fields = {"seed": self.seeds[0], **self.recipe, **teacher}
            runs.append(Run(TEACHER, TEACHER, fields["seed"], fields, distils=False))
            teacher = str(Path(output_dir) / TEACHER)
        for seed in self.seeds:
            for student, student_fields in self.students.items():
                for objective, own in self.objectives.items():
                    fields = {**self.recipe, **student_fields, **(own or {}), "seed": seed}
                    if own is not None:
                        fields.setdefault("teacher", teacher)
                    runs.append(Run(student, objective, seed, fields, distils=own is not None))
        return _sharing(runs, output_dir, overrides or {}) if self.share_autoencoder else runs

    def _check_forms(self) -> None:
        forms: list[tuple[str, Any, tuple[type, ...], str]] = [
            ("recipe", self.recipe, (Mapping,), "fields and their values"),
            ("objectives", self.objectives, (Mapping,), "names, each with its fields or nothing"),
            ("students", self.students, (Mapping,), "names, each with its fields"),
            ("seeds", self.seeds, (list, tuple, range), "a list of whole numbers"),
            ("teacher", self.teacher, (str, Mapping, type(None)), "a checkpoint, or fields and their values"),
            ("share_autoencoder", self.share_autoencoder, (bool,), "true or false"),
        ]
        for where, value, types, wanted in forms:
            if not isinstance(value, types):
                raise ValueError(f"{where}: expected {wanted}, got {value!r}.")
        if not all(type(seed) is int for seed in self.seeds):
            raise ValueError(f"seeds: expected a list of whole numbers, got {list(self.seeds)!r}.")
        for where, section in (("objectives", self.objectives), ("students", self.students)):
            for name, fields in section.items():
                if not isinstance(fields, Mapping) and (where == "students" or fields is not None):
                    raise ValueError(f"{where}: {name}: expected fields and their values, got {fields!r}.")
                # They are names of folders.
                if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name):
                    raise ValueError(
                        f"{where}: {name!r} cannot be a name, as a folder is called by it: take letters, digits, and "
                        "-, _, + or . after the first."
                    )
            folded = [name.casefold() for name in section]
            if twice := [name for name in section if folded.count(name.casefold()) > 1]:
                raise ValueError(f"{where}: {' and '.join(twice)} would be one folder where case does not count.")

    def _sections(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "recipe", self.recipe
        for name, fields in self.objectives.items():
            yield f"objectives: {name}", fields or {}
        for name, fields in self.students.items():
            yield f"students: {name}", fields
        if isinstance(self.teacher, Mapping):
            yield "teacher", self.teacher


def run_comparison(
    comparison: Comparison,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    only: str = "*",
    announce: Callable[[str], None] = print,
    jobs: int = 1,
) -> list[tuple[Run, dict[str, Any]]]:
    """Do every run that is not done yet; what was stopped goes on where it was.

    Args:
        comparison, output_dir: What to run, and where: each run has a folder of its own below.
        overrides: Fields that go before those of the comparison: where things lie and how runs are watched (`data_dir`,
            `backbone_weights`, `torch_compile`, ...). `unlabelled_dir` goes to the runs that have one.
        only: Pattern (`fnmatch`) of the runs to do, such as `os16/*/seed-1`; others are left for another time.
        announce: Called with a line before each run; with several `jobs`, also after it.
        jobs: Runs at a time, each in a process of its own, whose output goes to `run.log` in the run's folder.

    Returns:
        [`finished_runs`].

    Raises:
        ValueError: `jobs` is below 1, `only` matches no run, or, before any run is begun, a folder holds a finished
            run with another recipe, a field of one has a value that it cannot have, or one needs the teacher or the
            autoencoder of a run that is neither done nor matched by `only`.
        ChildProcessError: with several `jobs`, some runs failed or were killed; the others were done.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    _check_fields("overrides", overrides or {})
    runs = comparison.runs(output_dir, overrides)
    chosen = [run for run in runs if fnmatch.fnmatch(run.name, only)]
    if not chosen:
        names = [run.name for run in runs]
        hint = did_you_mean(only, names, otherwise=f" For example: {names[-1]!r}.")
        raise ValueError(
            f"No run is called {only!r}.{hint} Names are STUDENT/OBJECTIVE/seed-SEED: students "
            f"{', '.join(comparison.students)}; objectives {', '.join(comparison.objectives)}; seeds "
            f"{', '.join(map(str, comparison.seeds))}."
        )
    if "unlabelled_dir" in (overrides or {}) and not any("unlabelled_dir" in run.fields for run in chosen):
        raise ValueError(
            f"overrides: unlabelled_dir would change nothing, as no run called {only!r} has one: give it to an "
            "objective or to the recipe."
        )
    _check_values(chosen, output_dir, overrides)
    _check_what_others_make(chosen, runs, output_dir, overrides)
    finished_runs(comparison, output_dir, overrides)  # whose recipes are checked before hours of others
    with progress_bar("Runs", len(chosen), "runs") as bar:
        if jobs > 1:
            work = functools.partial(_do_in_worker, output_dir=output_dir, overrides=overrides, jobs=jobs)
            is_ready = functools.partial(_is_ready, chosen=chosen, output_dir=Path(output_dir), overrides=overrides)
            do_in_parallel(chosen, work, is_ready, jobs, announce, lambda run: run.name, bar.update)
        else:
            for number, run in enumerate(chosen, 1):
                announce(f"{number}/{len(chosen)} {run.name}")
                _do(run, output_dir, overrides)
                bar.update()
    return finished_runs(comparison, output_dir, overrides)


def finished_runs(
    comparison: Comparison, output_dir: str | Path, overrides: Mapping[str, Any] | None = None
) -> list[tuple[Run, dict[str, Any]]]:
    """The runs in `output_dir` that are finished, in order, each with what its `results.json` holds; a ValueError if
    one was done with another recipe."""
    finished = []
    for run in comparison.runs(output_dir, overrides):
        folder = Path(output_dir) / run.name
        if (folder / RESULTS_NAME).is_file():
            check_same_recipe(folder / RECIPE_NAME, recipe_of(*_arguments(run, output_dir, overrides)))
            finished.append((run, json.loads((folder / RESULTS_NAME).read_text())))
    return finished


def _do(run: Run, output_dir: str | Path, overrides: Mapping[str, Any] | None) -> None:
    # Compiled code of the run before would count against the limit of recompilations.
    torch._dynamo.reset()
    (distill if run.distils else train)(*_arguments(run, output_dir, overrides))


def _do_in_worker(run: Run, output_dir: str | Path, overrides: Mapping[str, Any] | None, jobs: int) -> None:
    in_worker(functools.partial(_do, run, output_dir, overrides), Path(output_dir) / run.name / "run.log", jobs)


def _needed(run: Run, overrides: Mapping[str, Any] | None, of_teacher: str) -> Iterator[tuple[Path, Path, str]]:
    """Folders of runs that this one reads of, the file (`of_teacher`, in the teacher's) that is there once it can, and
    what it does with them, in words."""
    fields = {**run.fields, **(overrides or {})}
    if run.distils:
        teacher = Path(str(fields["teacher"]))
        yield teacher, teacher / of_teacher, "learns from the teacher that is trained"
        if fields.get("autoencoder"):
            autoencoder = Path(fields["autoencoder"])
            yield autoencoder.parent, autoencoder / TRAINER_STATE_NAME, "uses the autoencoder that is fitted"


def _is_ready(run: Run, chosen: Sequence[Run], output_dir: Path, overrides: Mapping[str, Any] | None) -> bool:
    """Whether what other runs of `chosen` make for this one is there; what none of them makes is not waited for."""
    made = {output_dir / other.name for other in chosen}
    return all(file.is_file() for folder, file, _ in _needed(run, overrides, RESULTS_NAME) if folder in made)


def _reads_code(fields: Mapping[str, Any]) -> bool:
    """Whether a run with these fields fits an autoencoder, or reads one that it is given: whether the trainer's
    `needs_code` will be true."""

    def value(name: str) -> Any:
        return fields.get(name, getattr(KnowledgeAdaptationConfig, name))

    def counts(name: str) -> bool:
        try:
            return parse_weight(value(name), name) != 0
        except ValueError:  # which the run's own arguments tell, by its name
            return True

    return bool(value("use_autoencoder")) and (counts("adaptation_weight") or counts("affinity_weight"))


def _sharing(runs: Sequence[Run], output_dir: str | Path, overrides: Mapping[str, Any]) -> list[Run]:
    """The runs, where all but the first of those with the same first stage take that one's autoencoder. Runs that,
    with the `overrides`, read no code neither fit one nor take one."""
    first: dict[str, Path] = {}
    shared = []
    for run in runs:
        if run.distils and "autoencoder" not in run.fields and _reads_code({**run.fields, **overrides}):
            stage = {k: v for k, v in run.fields.items() if not k.startswith(_SECOND_STAGE_ALONE)}
            folder = Path(output_dir) / run.name / "autoencoder"
            fitted = first.setdefault(json.dumps(stage, sort_keys=True, default=str), folder)
            if fitted != folder:
                run = dataclasses.replace(run, fields={**run.fields, "autoencoder": str(fitted)})
        shared.append(run)
    return shared


def _arguments(run: Run, output_dir: str | Path, overrides: Mapping[str, Any] | None) -> list[Any]:
    # Where the images without masks lie is said for the runs that have them; the others would learn from them, too.
    own = {k: v for k, v in (overrides or {}).items() if k != "unlabelled_dir" or k in run.fields}
    fields = {**run.fields, **own, "output_dir": str(Path(output_dir) / run.name)}
    return build_arguments(ADAPTED_PARTS if run.distils else PLAIN_PARTS, fields)


def _check_values(runs: Sequence[Run], output_dir: str | Path, overrides: Mapping[str, Any] | None) -> None:
    """Builds the arguments of all runs, so that a value which the last cannot have is found before the first."""
    checked = set()
    for run in runs:
        kind = (run.student, run.objective)  # which differ in nothing but the seed
        if kind in checked:
            continue
        checked.add(kind)
        try:
            model_args, data_args, *teacher_args, args = _arguments(run, output_dir, overrides)
            check_model(model_args)
            more_images = any(part.unlabelled_dir is not None for part in teacher_args)
            args.check_unlabelled(more_images or (run.distils and data_args.max_labelled_samples is not None))
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from None


def _check_what_others_make(
    chosen: Sequence[Run], runs: Sequence[Run], output_dir: str | Path, overrides: Mapping[str, Any] | None
) -> None:
    """Refuses runs that learn from another one of the family which is neither done nor about to be. Otherwise a missing
    teacher would be looked up on the Hub, or found missing after hours of other runs."""
    names = {Path(output_dir) / run.name: run.name for run in runs}
    to_do = [run for run in chosen if not (Path(output_dir) / run.name / RESULTS_NAME).is_file()]
    made = {run.name for run in to_do}
    for run in to_do:
        for folder, file, does in _needed(run, overrides, CONFIG_NAME):
            name = names.get(folder)
            if name is not None and name not in made and not file.is_file():
                raise ValueError(
                    f"{run.name} {does} in {file.parent}, where there is no finished one yet. Do that run first "
                    f"(--only {name}), or leave --only out."
                )


def _check_fields(where: str, fields: Mapping[str, Any]) -> None:
    known = {item.name for part in ADAPTED_PARTS for item in dataclasses.fields(part) if item.init}
    reserved = {"output_dir": "every run has its own", "seed": "they are listed under seeds"}
    for name in fields:
        if name in reserved and not (where == "teacher" and name == "seed"):
            raise ValueError(f"{where}: {name} cannot be set here; {reserved[name]}.")
        if name not in known:
            raise ValueError(f"{where}: unknown field {name!r}.{did_you_mean(name, sorted(known), cutoff=0.7)}")
    if where == TEACHER:
        own = {item.name for part in PLAIN_PARTS for item in dataclasses.fields(part)}
        if others := sorted(fields.keys() - own):
            raise ValueError(
                f"teacher: {', '.join(others)} would change nothing, as a teacher learns from labels alone."
            )
    # Otherwise a misspelled loss would only be found when its run begins.
    try:
        parse_losses(fields.get("distillation_losses") or {})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
