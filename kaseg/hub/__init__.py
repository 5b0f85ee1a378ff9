"""What goes into a repository on the Hub, and how."""

from __future__ import annotations

from kaseg.hub.checkpoint_folder import write_checkpoint_folder

__all__ = ["write_checkpoint_folder"]
