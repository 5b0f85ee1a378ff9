"""What to say of a name that is not known.

The file is flat and imports nothing of kaseg, so that it can lie in a Hub repository beside the model files.
"""

import difflib
from collections.abc import Callable, Iterable


def did_you_mean(
    name: str, known: Iterable[str], cutoff: float = 0.6, key: Callable[[str], str] = str, otherwise: str = ""
) -> str:
    """Names up to three known names that are close to one that is not: `" Did you mean 'a' or 'b'?"`, or `otherwise`.

    Args:
        cutoff: Least likeness in 0..1, as in `difflib.get_close_matches`; names of fields have long words in common and
            need a higher one.
        key: What of a name is compared.
    """
    by_key = {key(item): item for item in known}
    close = difflib.get_close_matches(key(name), list(by_key), n=3, cutoff=cutoff)
    return f" Did you mean {' or '.join(repr(by_key[item]) for item in close)}?" if close else otherwise
