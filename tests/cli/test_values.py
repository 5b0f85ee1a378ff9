from enum import Enum
from typing import Any, Literal

import pytest

from kaseg.cli.values import convert, type_of


class Strategy(Enum):
    NO = "no"
    STEPS = "steps"


class NoTextForm:
    pass


# Annotation, and pairs of what is given and what it becomes.
VALUES: list[tuple] = [
    (int, ("30_000", 30_000), (3.0, 3), ("1e3", 1000), ("010", 10)),
    (float, ("1e-3", 0.001), (5, 5), ("5", 5)),
    (bool, (True, True), ("no", False)),
    (str, ("010", "010"), ("1_000", "1_000"), ("true", "true"), ("a: b", "a: b"), ("", ""), ("5", "5"), (2024, "2024")),
    (str | None, ("2026-01-01", "2026-01-01"), ("null", None), ("none", "none")),
    (int | None, ("none", None), (None, None)),
    (list[int], ("336,448", [336, 448]), ("[336, 448]", [336, 448]), (["336", 448], [336, 448])),
    (list[int], (336, [336]), ("336", [336])),
    (list[float] | None, ("1,2.5", [1, 2.5]), ("null", None)),
    (list[str], ("1.5", ["1.5"]), ("a, b", ["a", "b"]), ("a", ["a"])),
    (None | str | list[str], ("a,b", "a,b"), ("[a, b]", ["a", "b"]), (["a", "b"], ["a", "b"])),
    (dict[str, Any] | str | None, ("power: 0.9", {"power": 0.9}), ('{"power": 0.9}', {"power": 0.9})),
    (dict[str, Any] | str | None, ("config.json", "config.json")),
    (dict | None, ({"a": 1}, {"a": 1})),
    (Strategy | str, ("steps", "steps"), (False, "no")),
    (str | bool, ("all", "all"), ("true", True)),
    (str | Literal[False] | None, ("false", False), (False, False)),
]
REFUSED: list[tuple] = [
    (int, "x", "", "1:30", 1.5, True, "null", [1], None),
    (float, "a lot", {"a": 1}),
    (bool, 1, "maybe"),
    (str, False),
    (list[int], "1,x", "{a: 1}", ["1", None]),
    (dict | None, "text", "[1]", "{"),
]


@pytest.mark.parametrize(
    ("annotation", "given", "expected"), [(kind, *pair) for kind, *pairs in VALUES for pair in pairs]
)
def test_convert(annotation: Any, given: Any, expected: Any) -> None:
    value = convert(given, type_of(annotation))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("annotation", "given"), [(kind, value) for kind, *values in REFUSED for value in values])
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
