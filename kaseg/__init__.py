"""kaseg: knowledge adaptation for efficient semantic segmentation, the Hugging Face way."""

from __future__ import annotations

from .configuration_kaseg import KASegConfig
from .modeling_kaseg import KASegModel


__version__ = "0.1.0"
