import dataclasses
import json
import shutil

import pytest
import torch

from kaseg.experiments import comparison as comparison_module
from kaseg.experiments.comparison import Comparison, Run, _arguments, _is_ready, finished_runs, run_comparison
from kaseg.experiments.report import write_report

RECIPE = {
    "dataset": "scenes",
    "max_train_samples": 8,
    "max_eval_samples": 2,
    "backbone": "test_resnet",
    "pretrained_backbone": False,
    "output_stride": 32,
    "per_device_train_batch_size": 2,
    "crop_size": [64, 64],
    "max_steps": 2,
}
WATCHING = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
ADAPTED = {"latent_channels": 8, "autoencoder_epochs": 0.0, "autoencoder_max_steps": 1}
OF_UNLABELLED = {"knowledge_distillation": {"weight": 1.0, "images": "unlabelled"}}


def _comparison(**kwargs) -> Comparison:
    parts = {"recipe": RECIPE, "objectives": {"plain": None, "adapted": ADAPTED}, "teacher": {"output_stride": 16}}
    return Comparison(**{**parts, **kwargs})


def _names(comparison: Comparison) -> list[str]:
    return [run.name for run in comparison.runs("out")]


class TestRuns:
    def test_teacher_first_then_whole_pairs_seed_by_seed(self) -> None:
        comparison = _comparison(seeds=(3, 1), students={"os32": {}, "os16": {"output_stride": 16}})
        assert _names(comparison) == [
            "teacher",
            *(f"{s}/{o}/seed-3" for s in ("os32", "os16") for o in ("plain", "adapted")),
            *(f"{s}/{o}/seed-1" for s in ("os32", "os16") for o in ("plain", "adapted")),
        ]

    def test_fields_go_from_recipe_over_student_to_objective(self) -> None:
        students = {"os16": {"output_stride": 16, "adaptation_weight": 5.0}}
        comparison = _comparison(students=students, objectives={"plain": None, "ka": {"adaptation_weight": 7.0}})
        teacher, plain, adapted = comparison.runs("out")
        assert teacher.fields == {**RECIPE, "output_stride": 16, "seed": 1} and not teacher.distils
        assert plain.fields == {**RECIPE, **students["os16"], "seed": 1} and not plain.distils
        assert adapted.fields["adaptation_weight"] == 7.0 and adapted.fields["output_stride"] == 16
        assert adapted.fields["teacher"] == "out/teacher" and adapted.distils

    def test_the_first_run_fits_the_autoencoder_for_those_like_it(self) -> None:
        objectives = {
            "plain": None,
            "kd": {"adaptation_weight": 0.0, "affinity_weight": 0.0, "distillation_losses": {"hint": 1.0}},
            "resized": {"use_autoencoder": False},
            "both": ADAPTED,
            "affinity": {**ADAPTED, "adaptation_weight": 0.0},
            "finer": {**ADAPTED, "teacher_logits_stride": 4, "correct_teacher": True},
            "wide": {**ADAPTED, "latent_channels": 16},
        }
        comparison = _comparison(seeds=(1, 2), objectives=objectives, share_autoencoder=True)
        found = {run.name: run.fields.get("autoencoder") for run in comparison.runs("out")}
        both, wide = "out/student/both/seed-1/autoencoder", "out/student/wide/seed-1/autoencoder"
        assert {name: folder for name, folder in found.items() if folder} == {
            "student/affinity/seed-1": both,
            "student/both/seed-2": both,
            "student/affinity/seed-2": both,
            "student/finer/seed-1": both,
            "student/finer/seed-2": both,
            "student/wide/seed-2": wide,
        }

    @pytest.mark.parametrize(
        "other",
        [{"output_stride": 16}, {"head": "lraspp"}, {"crop_size": [32, 32]}, {"max_train_samples": 4}, {"bf16": True}],
        ids=str,
    )
    def test_runs_that_may_fit_another_one_do_not_share_an_autoencoder(self, other) -> None:
        """An LR-ASPP student's map lies at stride 8, whatever output_stride is."""
        comparison = _comparison(students={"one": {}, "other": other}, share_autoencoder=True)
        assert all("autoencoder" not in run.fields for run in comparison.runs("out"))

    def test_a_shared_autoencoder_that_is_not_there_yet_is_an_error(self, tmp_path) -> None:
        comparison = _comparison(seeds=(1, 2), share_autoencoder=True, teacher="kaseg/some-teacher")
        with pytest.raises(
            ValueError, match=r"student/adapted/seed-2 uses the autoencoder .*seed-1/autoencoder.*first"
        ):
            run_comparison(comparison, tmp_path, only="student/adapted/seed-2")
        # Nor is anything done that comes before it.
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "overrides, shared",
        [
            ({"use_autoencoder": False}, {}),
            ({"adaptation_weight": 0, "affinity_weight": 0.0}, {}),
            ({"adaptation_weight": "0", "affinity_weight": "0.0"}, {}),
            # The first objective that would fit one no longer does, and the next one in line takes its place.
            ({"adaptation_weight": 0.0}, {"both/seed-2": "both/seed-1"}),
            ({"affinity_weight": 1.0}, dict.fromkeys(("both/seed-1", "one/seed-2", "both/seed-2"), "one/seed-1")),
            ({"report_to": "none"}, dict.fromkeys(("both/seed-1", "one/seed-2", "both/seed-2"), "one/seed-1")),
        ],
        ids=str,
    )
    def test_an_autoencoder_that_overrides_leave_out_is_not_shared(self, overrides, shared) -> None:
        one = {**ADAPTED, "affinity_weight": 0.0}
        objectives = {"plain": None, "one": one, "both": ADAPTED}
        comparison = _comparison(seeds=(1, 2), objectives=objectives, share_autoencoder=True)
        found = {run.name: run.fields.get("autoencoder") for run in comparison.runs("out", overrides)}
        assert {name: folder for name, folder in found.items() if folder} == {
            f"student/{name}": f"out/student/{first}/autoencoder" for name, first in shared.items()
        }

    def test_a_teacher_that_is_not_trained_yet_is_an_error(self, tmp_path) -> None:
        """`runs/teacher` could be the name of a repository on the Hub."""
        message = r"student/adapted/seed-1 learns from the teacher .*/teacher,.*\(--only teacher\)"
        for jobs in (1, 2):
            with pytest.raises(ValueError, match=message):
                run_comparison(_comparison(), tmp_path, only="student/*", jobs=jobs)
        assert not any(tmp_path.iterdir())

    def test_a_named_teacher_is_not_trained_and_an_objective_may_have_its_own(self) -> None:
        other = {**ADAPTED, "teacher": "kaseg/other"}
        comparison = _comparison(objectives={"plain": None, "a": ADAPTED, "b": other}, teacher="kaseg/one")
        assert _names(comparison) == [f"student/{name}/seed-1" for name in ("plain", "a", "b")]
        assert [run.fields.get("teacher") for run in comparison.runs("out")] == [None, "kaseg/one", "kaseg/other"]

    def test_a_teacher_named_for_all_runs_leaves_the_familys_out(self) -> None:
        runs = _comparison().runs("out", {"teacher": "kaseg/one"})
        assert [run.name for run in runs] == ["student/plain/seed-1", "student/adapted/seed-1"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objectives": {"adapted": ADAPTED}}, "none learns from the labels alone"),
        ({"teacher": None}, "need a teacher"),
        ({"teacher": {"head": "fpn", "adaptation_weight": 3}}, "teacher: adaptation_weight would change nothing"),
        ({"recipe": {"teacher": "kaseg/one"}}, "recipe: teacher would go before the section teacher"),
        ({"seeds": (1, 2, 1)}, "more than once"),
        ({"seeds": ()}, "at least one"),
        ({"students": {"teacher": {}}}, "own name"),
        ({"recipe": {**RECIPE, "learning_rat": 1.0}}, "recipe: unknown field 'learning_rat'.*'learning_rate'"),
        ({"students": {"a": {"backbon": "x"}}}, "students: a: unknown field 'backbon'"),
        ({"recipe": {**RECIPE, "seed": 3}}, "recipe: seed cannot be set here; they are listed under seeds"),
        ({"objectives": {"plain": None, "x": {"output_dir": "o"}}}, "objectives: x: output_dir cannot"),
        (
            {"objectives": {"plain": None, "x": {"distillation_losses": {"hnt": 1.0}}}},
            "objectives: x: distillation_losses: unknown loss 'hnt'.*'hint'",
        ),
        ({"students": ["a", "b"]}, r"students: expected names, each with its fields, got \['a', 'b'\]"),
        ({"students": {"a": 16}}, "students: a: expected fields and their values, got 16"),
        ({"objectives": {"plain": None, "kd": 3}}, "objectives: kd: expected fields and their values, got 3"),
        ({"seeds": 1}, "seeds: expected a list of whole numbers, got 1"),
        ({"seeds": "123"}, "seeds: expected a list of whole numbers, got '123'"),
        ({"seeds": (1, 1.5)}, r"seeds: expected a list of whole numbers, got \[1, 1.5\]"),
        ({"seeds": (1, True)}, "seeds: expected a list of whole numbers"),
        ({"teacher": 3}, "teacher: expected a checkpoint, or fields and their values, got 3"),
        ({"share_autoencoder": "nope"}, "share_autoencoder: expected true or false, got 'nope'"),
        ({"objectives": {"plain": None, "../../evil": ADAPTED}}, "objectives: '../../evil' cannot be a name"),
        ({"students": {"": {}}}, "students: '' cannot be a name"),
        ({"students": {"..": {}}}, "students: '..' cannot be a name"),
        ({"students": {"a\\b": {}}}, "cannot be a name"),
        ({"students": {"A": {}, "a": {}}}, "students: A and a would be one folder"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _comparison(**change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objectives": {"plain": None, "x": {"adaptation_weight": -1.0}}}, "student/x/seed-1: .*adaptation_weight"),
        ({"objectives": {"plain": None, "x": {"distillation_schedule": "foo"}}}, "student/x/seed-1: .*foo"),
        ({"students": {"a": {"output_stride": 17}}}, "a/plain/seed-1: output_stride must be one of .*17"),
        ({"students": {"a": {"mix": "cutmix", "mix_of": "unlabelled"}}}, "a/plain/seed-1: .*there are none"),
        (
            {"objectives": {"plain": None, "x": {"distillation_losses": OF_UNLABELLED}}},
            "student/x/seed-1: .*there are no images without",
        ),
        ({"students": {"a": {"backbone": "mobilenet_nonsense"}}}, "a/plain/seed-1: timm has no encoder named.*Close"),
    ],
)
def test_values_are_checked_before_anything_is_trained(tmp_path, change: dict, message: str) -> None:
    for jobs in (1, 2):
        with pytest.raises(ValueError, match=message):
            run_comparison(_comparison(**change), tmp_path / "out", WATCHING, jobs=jobs)
    assert not (tmp_path / "out").exists()


def test_a_run_waits_for_the_teacher_that_it_reads_alone(tmp_path) -> None:
    *_, adapted = runs = _comparison().runs(tmp_path)
    assert not _is_ready(adapted, runs, tmp_path, None)
    assert _is_ready(adapted, runs, tmp_path, {"teacher": "kaseg/some-teacher"})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole small family, done in two goes."""
    output_dir = tmp_path_factory.mktemp("family")
    comparison = _comparison()
    lines: list[str] = []
    first = run_comparison(comparison, output_dir, WATCHING, only="teacher", announce=lines.append)
    assert [run.name for run, _ in first] == ["teacher"] and lines == ["1/1 teacher"]
    return comparison, output_dir, run_comparison(comparison, output_dir, WATCHING, announce=lines.append)


def test_every_run_is_done_with_its_own_recipe(done) -> None:
    comparison, output_dir, finished = done
    assert [run.name for run, _ in finished] == [run.name for run in comparison.runs(output_dir)]
    for run, results in finished:
        assert results["seed"] == run.seed and results["steps"] == 2
        assert ("teacher" in results["recipe"]) == run.distils == (run.objective == "adapted")
    by_name = {run.name: results for run, results in finished}
    pair = [by_name[f"student/{name}/seed-1"] for name in ("plain", "adapted")]
    assert pair[0]["parameters"] == pair[1]["parameters"]


def test_what_is_done_is_not_done_again(done, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison, output_dir, finished = done
    monkeypatch.setattr("kaseg.experiments.run.build_model", lambda *a: pytest.fail("trained again"))
    assert run_comparison(comparison, output_dir, WATCHING, announce=lambda line: None) == finished


def test_several_at_a_time_come_to_the_same_and_what_fails_beside_them_is_named(done, tmp_path) -> None:
    _, output_dir, finished = done
    teacher = shutil.copytree(output_dir / "teacher", tmp_path / "one")
    lost = {**ADAPTED, "teacher": str(tmp_path / "gone")}
    comparison = _comparison(
        seeds=(1, 2),
        teacher=str(teacher),
        share_autoencoder=True,
        objectives={"plain": None, "adapted": ADAPTED, "lost": lost},
    )
    lines: list[str] = []
    # The second, which would take the autoencoder of the first, is not begun.
    message = r"2 of 6 failed:\n- student/lost/seed-1: CheckpointError.*run\.log.*\n- student/lost/seed-2: not begun"
    with pytest.raises(ChildProcessError, match=message):
        run_comparison(comparison, tmp_path, WATCHING, announce=lines.append, jobs=2)
    found = finished_runs(comparison, tmp_path, WATCHING)
    assert sorted(line for line in lines if line.endswith("done")) == sorted(f"{run.name}: done" for run, _ in found)
    names = [f"student/{objective}/seed-{seed}" for seed in (1, 2) for objective in ("plain", "adapted")]
    assert [run.name for run, _ in found] == names
    beside, expected = (next(r for run, r in runs if run.name == names[0]) for runs in (found, finished))
    assert beside["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    threads = torch.get_num_threads()  # the processor is shared
    shared = expected["hardware"].replace(f"{threads} thread", f"{max(1, threads // 2)} thread")
    assert beside["hardware"] == shared
    assert "eval_mean_iou" in (tmp_path / "student/plain/seed-1/run.log").read_text()
    fitted = tmp_path / "student/adapted/seed-1/autoencoder"
    assert fitted.is_dir() and not (tmp_path / "student/adapted/seed-2/autoencoder").exists()

    # A teacher that is a checkpoint is reported, too.
    rows = write_report(comparison, tmp_path, examples=0)
    results = json.loads((teacher / "results.json").read_text())
    assert next((row["objective"], row["mean_iou"]) for row in rows) == ("teacher", results["mean_iou"])
    elsewhere = dataclasses.replace(comparison, teacher="kaseg/another")
    assert write_report(elsewhere, tmp_path, {"teacher": str(teacher)}, examples=0) == rows
    assert len(rows) == 3 and json.loads((tmp_path / "summary.json").read_text())["finished"] == 4
    (teacher / "results.json").write_text(json.dumps({**results, "split": "test"}))
    assert len(write_report(comparison, tmp_path, examples=0)) == 2, "another split says nothing here"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "overrides", [{"use_autoencoder": False}, {"adaptation_weight": 0.0, "affinity_weight": 0.0}], ids=str
)
def test_no_run_asks_for_an_autoencoder_that_none_fits(tmp_path, monkeypatch, overrides, jobs) -> None:
    """Neither is it waited for with several jobs, nor is the run of one seed refused."""
    begun = []

    def do_all(tasks, work, is_ready, jobs, announce, name_of, progress) -> None:
        begun.extend(run.name for run in tasks if is_ready(run))

    monkeypatch.setattr("kaseg.experiments.comparison.do_in_parallel", do_all)
    monkeypatch.setattr("kaseg.experiments.comparison._do", lambda run, *args: begun.append(run.name))
    given = []
    build = comparison_module.build_arguments
    monkeypatch.setattr(comparison_module, "build_arguments", lambda *args: given.append(args[1]) or build(*args))
    comparison = _comparison(seeds=(1, 2), teacher="kaseg/one", share_autoencoder=True)
    overrides = {**WATCHING, **overrides}
    run_comparison(comparison, tmp_path, overrides, announce=lambda line: None, jobs=jobs)
    assert begun == [f"student/{name}/seed-{seed}" for seed in (1, 2) for name in ("plain", "adapted")]
    run_comparison(comparison, tmp_path, overrides, only="student/adapted/seed-2", announce=lambda line: None)
    assert begun[-1] == "student/adapted/seed-2"
    assert not any(fields.get("autoencoder") for fields in given)


def test_only_what_matches(done) -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_comparison(done[0], done[1], WATCHING, jobs=0)
    with pytest.raises(ValueError, match=r"'os16/\*'.*: students student; objectives plain, adapted; seeds 1\."):
        run_comparison(done[0], done[1], WATCHING, only="os16/*")
    with pytest.raises(ValueError, match=r"Did you mean 'student/plain/seed-1'.*"):
        run_comparison(done[0], done[1], WATCHING, only="student/plain/seed1")
    with pytest.raises(ValueError, match="overrides: unknown field 'data_dri'"):
        run_comparison(done[0], done[1], {"data_dri": "x"})


def test_where_unlabelled_images_lie_is_said_for_the_runs_that_have_them() -> None:
    comparison = _comparison(
        objectives={"plain": None, "few": ADAPTED, "many": {**ADAPTED, "unlabelled_dir": "photos"}}
    )
    found = {}
    for run in comparison.runs("out"):
        parts = _arguments(run, "out", {**WATCHING, "unlabelled_dir": "elsewhere"})
        found[run.objective] = [part.unlabelled_dir for part in parts if hasattr(part, "unlabelled_dir")]
    assert found["few"] == [None] and found["many"] == ["elsewhere"]
    with pytest.raises(ValueError, match="unlabelled_dir would change nothing, as no run called 'student/few/"):
        run_comparison(comparison, "out", {"unlabelled_dir": "elsewhere"}, only="student/few/*")


def test_a_finished_run_of_another_recipe_is_found_before_others_are_begun(done, tmp_path) -> None:
    comparison, output_dir, _ = done
    folder = shutil.copytree(output_dir, tmp_path / "out")
    edited = dataclasses.replace(comparison, seeds=(*comparison.seeds, 99), recipe={**RECIPE, "max_steps": 3})
    with pytest.raises(ValueError, match=r"holds a run with another recipe.*max_steps \(2 -> 3\)"):
        run_comparison(edited, folder, WATCHING, only="student/plain/seed-99")
    assert not (folder / "student/plain/seed-99").exists()


def test_report(done) -> None:
    comparison, output_dir, _ = done
    rows = write_report(comparison, output_dir, examples=1)
    summary = json.loads((output_dir / "summary.json").read_text())
    assert summary["rows"] == rows and summary["finished"] == summary["planned"] == 3
    assert [(row["student"], row["objective"], len(row["seeds"])) for row in rows] == [
        ("teacher", "teacher", 1),
        ("student", "plain", 1),
        ("student", "adapted", 1),
    ]
    page = (output_dir / "summary.html").read_text()
    # Three figures; the image, its label and the masks of the teacher and of two students.
    assert page.count("data:image/png;base64,") == 3 + 2 + 3
    assert (output_dir / "accuracy_against_cost.png").stat().st_size > 1000
    assert "| student | adapted |" in (output_dir / "summary.md").read_text()
    assert "data:image" in page and "<script" not in page and "http" not in page


def test_runs_of_another_recipe_are_not_reported(done) -> None:
    comparison, output_dir, _ = done
    edited = _comparison(recipe={**RECIPE, "max_steps": 3})
    with pytest.raises(ValueError, match=r"teacher holds a run with another recipe.*max_steps \(2 -> 3\)"):
        write_report(edited, output_dir, WATCHING, examples=0)
    assert len(finished_runs(comparison, output_dir, {"logging_steps": 7})) == 3


def test_nothing_to_report(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no run of this comparison is finished"):
        write_report(_comparison(), tmp_path)
    assert finished_runs(_comparison(), tmp_path) == []
    assert Run("teacher", "teacher", 1, {}, False).name == "teacher"
