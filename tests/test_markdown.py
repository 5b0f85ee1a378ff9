import re

import pytest

from kaseg.markdown import code, escaped, table

WORDS = ["a|b", "a\nb", "a\r\nb", r"a\|b", "**a**", "[a](b)", "<b>a</b>", "`a`", "{a} %s", "naïve 道路", "-a", "a b"]


def cells(line: str) -> list[str]:
    """The cells of a row as GitHub's Markdown splits them."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("as_text", [escaped, code, str])
def test_a_row_stays_a_row_of_its_cells(word: str, as_text) -> None:
    lines = table(("class", "IoU"), [(as_text(word), 0.5), (1, 2)]).split("\n")
    assert lines[:2] == ["| class | IoU |", "|---|---|"] and lines[3] == "| 1 | 2 |"
    assert len(lines) == 4 and cells(lines[2])[1] == "0.5"


@pytest.mark.parametrize("word", WORDS)
def test_plain_text_reads_as_it_was_written(word: str) -> None:
    shown = escaped(word)
    assert not re.search(r"(?<!\\)(\\\\)*[*`<\[]", shown), "begins markup"
    assert re.sub(r"\\([\\`*<>\[\]])", r"\1", shown) == " ".join(word.splitlines())


def test_code_with_a_backtick_in_it() -> None:
    assert code("a") == "`a`" and code("a`b") == "`` a`b ``"
