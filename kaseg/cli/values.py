"""Values from YAML files and command lines, as the types that argument dataclasses ask for."""

from __future__ import annotations

import types
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import yaml

_NULL = ("null", "~")
_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")
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
    """A value from YAML, or text, as a field of type `kind` takes it.

    Text is read as the narrowest type that the field takes (bool, number, list or dictionary in YAML, then text), so
    that `1e-3`, which YAML takes for text, is a number where one is wanted. `null` is `None` where the field allows it.

    Raises:
        ValueError: the field does not take such a value.
    """
    if isinstance(value, str):
        return _from_text(value, kind)
    if isinstance(value, list | tuple):
        if kind.item is not None:
            return [convert(element, kind.item) for element in value]
    elif isinstance(value, dict):
        if kind.mapping:
            return value
    elif isinstance(value, bool):
        if bool in kind.scalars or any(value is literal for literal in kind.literals):
            return value
        if value is False and "no" in kind.choices:
            return "no"  # YAML reads a bare `no` as false
    elif value is None:
        if kind.nullable:
            return None
    elif isinstance(value, int | float):
        return _from_number(value, kind)
    raise ValueError(_expected(kind, value))


def _from_number(value: int | float, kind: ValueType) -> Any:
    if float in kind.scalars or (int in kind.scalars and isinstance(value, int)):
        return value
    if int in kind.scalars and value == int(value):
        return int(value)
    if str in kind.scalars:
        return str(value)
    if kind.item is not None:
        return [_from_number(value, kind.item)]
    raise ValueError(_expected(kind, value))


def _from_text(text: str, kind: ValueType) -> Any:
    word = text.strip().lower()
    if kind.nullable and (word in _NULL or (word == "none" and str not in kind.scalars)):
        return None
    for literal in kind.literals:
        if word == str(literal).lower():
            return literal
    if bool in kind.scalars and word in _TRUE + _FALSE:
        return word in _TRUE
    number = _number(word)
    if number is not None and kind.scalars & {int, float}:
        return _from_number(number, kind)
    if kind.item is not None or kind.mapping:
        return _container_from_text(text, kind)
    if str in kind.scalars or kind.choices:
        return text
    raise ValueError(_expected(kind, text))


def _container_from_text(text: str, kind: ValueType) -> Any:
    takes_text = str in kind.scalars
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        loaded = text
    if (isinstance(loaded, dict) and kind.mapping) or (isinstance(loaded, list) and kind.item is not None):
        return convert(loaded, kind)
    if takes_text:
        return text
    if kind.item is not None and not isinstance(loaded, dict | list):
        return [convert(part.strip(), kind.item) for part in text.split(",")]
    raise ValueError(_expected(kind, text))


def _number(word: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return None


def _expected(kind: ValueType, value: Any) -> str:
    null = " or null" if kind.nullable else ""
    return f"expected {kind.label}{null}, got {value!r}"
