import io

import pytest
from transformers.utils import logging

from kaseg.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def count(**options: bool) -> None:
    with progress_bar("Scoring", 4, "images", **options) as bar:
        bar.update()
        bar.update(3)


def test_a_terminal_sees_the_count_and_the_rate_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not in a fixture: pytest sets the streams anew before the test itself.
    terminal, now = Terminal(), [100.0]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress_bar("Scoring", 4, "images") as bar:
        now[0] += 2
        bar.update()
        now[0] += 2
        bar.update(3)
    last = terminal.getvalue().rsplit("\r", 1)[-1]
    assert "Scoring: 100%" in last and "4/4" in last and "1.00 images/s" in last


def test_no_bar_without_a_terminal_nor_where_it_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    count()
    assert stream.getvalue() == ""
    monkeypatch.setattr("sys.stderr", terminal)
    count(disable=True)
    logging.disable_progress_bar()
    try:
        count()
    finally:
        logging.enable_progress_bar()
    assert terminal.getvalue() == ""
    count()
    assert "images/s" in terminal.getvalue()
