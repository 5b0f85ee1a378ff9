from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest

from kaseg.cli.values import convert, type_of


class Strategy(Enum):
    NO = "no"
    STEPS = "steps"


class NoTextForm:
    pass


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (int, "30_000", 30_000),
        (int, 3.0, 3),
        (int, "1e3", 1000),
        (int, "010", 10),
        (str, "010", "010"),
        (str, "1_000", "1_000"),
        (str, "true", "true"),
        (str, "a: b", "a: b"),
        (str, "", ""),
        (str | None, "2026-01-01", "2026-01-01"),
        (list[str], "1.5", ["1.5"]),
        (float, "1e-3", 0.001),
        (float, 5, 5),
        (float, "5", 5),
        (bool, True, True),
        (bool, "no", False),
        (str, "5", "5"),
        (str, 2024, "2024"),
        (str | None, "null", None),
        (str | None, "none", "none"),
        (int | None, "none", None),
        (int | None, None, None),
        (list[int], "336,448", [336, 448]),
        (list[int], "[336, 448]", [336, 448]),
        (list[int], ["336", 448], [336, 448]),
        (list[int], 336, [336]),
        (list[int], "336", [336]),
        (list[float] | None, "1,2.5", [1, 2.5]),
        (list[float] | None, "null", None),
        (list[str], "a, b", ["a", "b"]),
        (list[str], "a", ["a"]),
        (None | str | list[str], "a,b", "a,b"),
        (None | str | list[str], "[a, b]", ["a", "b"]),
        (None | str | list[str], ["a", "b"], ["a", "b"]),
        (dict[str, Any] | str | None, "power: 0.9", {"power": 0.9}),
        (dict[str, Any] | str | None, '{"power": 0.9}', {"power": 0.9}),
        (dict[str, Any] | str | None, "config.json", "config.json"),
        (dict | None, {"a": 1}, {"a": 1}),
        (Strategy | str, "steps", "steps"),
        (Strategy | str, False, "no"),
        (str | bool, "all", "all"),
        (str | bool, "true", True),
        (str | Literal[False] | None, "false", False),
        (str | Literal[False] | None, False, False),
    ],
)
def test_convert(annotation: Any, given: Any, expected: Any) -> None:
    value = convert(given, type_of(annotation))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (int, "x"),
        (int, ""),
        (int, "1:30"),
        (int, 1.5),
        (int, True),
        (int, "null"),
        (int, [1]),
        (int, None),
        (float, "a lot"),
        (float, {"a": 1}),
        (bool, 1),
        (bool, "maybe"),
        (str, False),
        (list[int], "1,x"),
        (list[int], "{a: 1}"),
        (list[int], ["1", None]),
        (dict | None, "text"),
        (dict | None, "[1]"),
        (dict | None, "{"),
    ],
)
def test_convert_refuses(annotation: Any, given: Any) -> None:
    with pytest.raises(ValueError, match="expected .*, got "):
        convert(given, type_of(annotation))


def test_text_form_and_labels() -> None:
    assert not type_of(NoTextForm | None).has_text_form
    assert type_of(NoTextForm | str).has_text_form
    assert type_of(bool | None).is_switch
    assert not type_of(bool | str).is_switch
    labels = [type_of(kind).label for kind in (bool, int, float | None, list[int], dict | str, Strategy | str)]
    assert labels == ["BOOL", "INT", "FLOAT", "LIST OF INT", "DICT", "no|steps"]
