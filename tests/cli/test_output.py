from __future__ import annotations

from kaseg.cli.output import progress_bar


def test_the_rate_counts_from_the_start() -> None:
    progress = progress_bar(rate="frames")
    now = 0.0
    progress.get_time = lambda: now
    task = progress.add_task("Segmenting", total=4)
    assert progress.columns[-1](progress.tasks[0]).plain == ""
    now = 2.0
    progress.advance(task)
    now = 2.001
    progress.advance(task)
    assert progress.columns[-1](progress.tasks[0]).plain == "1.0 frames/s"
    now = 4.0
    progress.advance(task, 2)
    now = 50.0
    assert progress.columns[-1](progress.tasks[0]).plain == "1.0 frames/s"
