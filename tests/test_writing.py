from __future__ import annotations

import json
import math
import multiprocessing

import pytest

from kaseg.writing import write_atomically, write_json


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
