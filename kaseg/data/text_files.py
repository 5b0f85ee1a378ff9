"""Text files that users write: lists of samples and of classes."""

import codecs
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or, with its byte-order mark, UTF-16, which editors on Windows write; a ValueError
    names a file in another encoding, and the place."""
    content = path.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line} is not in UTF-8. Save the file in UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{path}: it holds null characters, as UTF-16 without a mark does. Save the file in UTF-8.")
    return text
