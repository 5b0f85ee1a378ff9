"""Work that follows a result: its failure neither loses the result nor hides where it is."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def best_effort(what: str, kept: str = "") -> Iterator[None]:
    """Turns a failure of the work inside (`what` is made, such as `"the model card"`) into a warning, and what follows
    goes on; `kept` says where the result itself is, in a sentence."""
    try:
        yield
    except Exception as error:
        said = str(error).strip() or "no message"
        logger.warning("Failed: %s (%s: %s). %s", what, type(error).__name__, said, kept)
        logger.debug("Traceback of the failure of %s:", what, exc_info=True)


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Adds a note to errors of the work inside, a sentence that says where the result is; the commands print it."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
