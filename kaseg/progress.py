"""Progress bars of what may take long."""

from typing import Any


def progress_bar(description: str, total: int | None, unit: str, disable: bool = False) -> Any:
    """A tqdm bar on standard error for `total` steps (`None`: not known) with the rate since the start, counted in
    `unit` (`"images"`), and the time left; use it in a `with` statement.

    There is none where standard error is no terminal, nor where the bars of transformers are turned off
    (`transformers.utils.logging.disable_progress_bar()`, or the environment variable `HF_HUB_DISABLE_PROGRESS_BARS`),
    nor with `disable`.
    """
    from transformers.utils.logging import tqdm

    # Without smoothing: images may come in batches, and the rate of the last few steps would say little.
    return tqdm(
        desc=description, total=total, unit=f" {unit}", smoothing=0, dynamic_ncols=True, disable=disable or None
    )
