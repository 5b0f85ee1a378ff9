"""Values from YAML files and command lines, as the types that argument dataclasses ask for."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import yaml

_LONGEST_CHOICE = 14


@dataclass(frozen=True)
class ValueType:
    """What a field takes, read off its annotation; a union takes what its members take.

    Attributes:
        scalars: Which of `bool`, `int`, `float` and `str` are taken.
        nullable: Whether `None` is taken.
        choices: The values of an enum; taken as text, which the dataclass turns into members.
        literals: The values of a `Literal`.
        item: The type of a list's items, `None` if lists are not taken.
        mapping: Whether dictionaries are taken.
    """

    scalars: frozenset[type] = frozenset()
    nullable: bool = False
    choices: tuple[str, ...] = ()
    literals: tuple[Any, ...] = ()
    item: ValueType | None = None
    mapping: bool = False

    @property
    def has_text_form(self) -> bool:
        """Whether any value but `None` can be written down."""
        return bool(self.scalars or self.choices or self.literals or self.item or self.mapping)

    @property
    def is_switch(self) -> bool:
        """Whether the field is a plain boolean."""
        return self.scalars == {bool} and not (self.choices or self.literals or self.item or self.mapping)

    @property
    def label(self) -> str:
        """A short name for help texts, such as `INT` or `no|steps|epoch`."""
        choices = "|".join(self.choices)
        if choices:
            return choices if len(choices) <= _LONGEST_CHOICE else "TEXT"
        if self.item is not None and str not in self.scalars:
            return f"LIST OF {self.item.label}"
        if self.mapping and not self.scalars - {str}:
            return "DICT"
        for scalar, name in ((str, "TEXT"), (float, "FLOAT"), (int, "INT"), (bool, "BOOL")):
            if scalar in self.scalars:
                return name
        return "YAML"


def type_of(annotation: Any) -> ValueType:
    """Reads an annotation. Members of a union that have no text form, such as other dataclasses, are left out."""
    scalars: set[type] = set()
    choices: list[Any] = []
    literals: list[Any] = []
    nullable = mapping = False
    item = None
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for member in members:
        base = get_origin(member) or member
        if member is types.NoneType:
            nullable = True
        elif base is Literal:
            literals.extend(get_args(member))
        elif base in (bool, int, float, str):
            scalars.add(base)
        elif base in (list, tuple):
            item = type_of(get_args(member)[0]) if get_args(member) else ValueType(frozenset({str}))
        elif base is dict:
            mapping = True
        elif isinstance(base, type) and issubclass(base, Enum):
            choices.extend(str(choice.value) for choice in base)
    return ValueType(frozenset(scalars), nullable, tuple(choices), tuple(literals), item, mapping)


def convert(value: Any, kind: ValueType) -> Any:
    """A value from YAML, or text, as a field of type `kind` takes it; a ValueError if it does not. Text is taken as the
    first of its readings that the field takes: a number (`1e-3` is text for YAML), YAML's, the text as it is, a list
    with commas."""
    for reading in _readings(value) if isinstance(value, str) else [value]:
        try:
            return _take(reading, kind)
        except ValueError:
            continue
    if isinstance(value, int | float) and not isinstance(value, bool) and str in kind.scalars:
        return str(value)
    if isinstance(value, str) and kind.item is not None:
        return [convert(part.strip(), kind.item) for part in value.split(",")]
    raise ValueError(f"expected {kind.label}{' or null' if kind.nullable else ''}, got {value!r}")


def _readings(text: str) -> Iterator[Any]:
    for read in (int, float):
        with suppress(ValueError):
            yield read(text)
    with suppress(yaml.YAMLError):
        loaded = yaml.safe_load(text)
        # Not YAML's numbers, among which are 010 (8) and 1:30 (90), nor its null that is no text at all.
        if text.strip() and type(loaded) not in (int, float, str):
            yield loaded
    yield text
    if text.strip().lower() == "none":
        yield None


def _take(value: Any, kind: ValueType) -> Any:
    """The value itself, up to a change of form that loses nothing; a ValueError if the field does not take it."""
    if any(value is literal or (isinstance(value, str) and value == literal) for literal in kind.literals):
        return value
    match value:
        case None if kind.nullable:
            return None
        case bool() if bool in kind.scalars:
            return value
        case False if "no" in kind.choices:
            return "no"  # YAML reads a bare `no` as false
        case bool():
            pass
        case int() | float() if float in kind.scalars or (int in kind.scalars and isinstance(value, int)):
            return value
        case float() if int in kind.scalars and value.is_integer():
            return int(value)
        case int() | float() if kind.item is not None:
            return [_take(value, kind.item)]
        case str() if str in kind.scalars or kind.choices:
            return value
        case list() | tuple() if kind.item is not None:
            return [convert(element, kind.item) for element in value]
        case dict() if kind.mapping:
            return value
    raise ValueError(f"{value!r} is not taken")
