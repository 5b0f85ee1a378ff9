import json
import math
import multiprocessing
from pathlib import Path

import pytest

from kaseg.writing import whole_file, whole_folder, write_atomically, write_json


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_does_not_have_becomes_null_wherever_it_stands(number, tmp_path):
    content = {"a": number, "b": [1.5, number, {"c": (number, 2)}], "text": "NaN"}
    write_json(tmp_path / "new/results.json", content)
    text = (tmp_path / "new/results.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse) == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "text": "NaN"}


def _write_often(path) -> None:
    for _ in range(500):
        write_atomically(path, "recipe")


def test_processes_of_one_run_write_the_same_file(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path / "recipe.yaml",)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_writers_do_not_go_by_the_number_of_their_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers that share a disk every one is number 1."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    with whole_file(tmp_path / "map") as first, whole_file(tmp_path / "map") as second:
        first.write_text("whole")
        second.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["map"]
    (tmp_path / ".export.1.tmp").mkdir()  # of one that was killed
    with whole_folder(tmp_path / "export", last="b") as folder:
        (folder / "b").write_text("")
    assert (tmp_path / "export" / "b").is_file()


def test_a_failed_writer_leaves_the_old_file_and_names_its_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    write_atomically(path, "é")
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "é" and list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match="cannot write .*new/scores.json/a"):
        write_atomically(path / "a", "")


def test_the_last_file_of_a_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[str] = []
    monkeypatch.setattr("os.replace", lambda source, target: placed.append(target.name) or source.rename(target))
    with whole_folder(tmp_path, last="b") as folder:
        for name in "abc":
            (folder / name).write_text(name)
    assert placed == ["a", "c", "b"]
    with pytest.raises(FileExistsError, match="not empty"), whole_folder(tmp_path, last="b"):
        pass
