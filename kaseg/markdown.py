"""Users' words in Markdown: names of classes, folders and settings stay what they are."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. Cells may hold Markdown; what would end a cell or a row is escaped."""
    return "\n".join([_row(header), "|" + "---|" * len(header), *map(_row, rows)])


def escaped(text: Any) -> str:
    """Text that is to be read as it is: no emphasis, link, code or HTML."""
    return re.sub(r"([\\`*<>\[\]])", r"\\\1", _one_line(text))


def code(text: Any) -> str:
    """Text in a code span."""
    text = _one_line(text)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _one_line(text: Any) -> str:
    return " ".join(str(text).splitlines())
