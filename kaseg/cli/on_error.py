"""What commands do about input that cannot be used."""

from __future__ import annotations

from enum import StrEnum


class OnError(StrEnum):
    """Stop with an error, or leave the bad ones out and list them."""

    RAISE = "raise"
    SKIP = "skip"
