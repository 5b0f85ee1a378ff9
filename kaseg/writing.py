"""Files and folders that are written wholly or not at all."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name of a temporary file to write, which takes the place of `path` at the end, or vanishes on an error.

    Several processes may write the same file at the same time, on machines that share a disk, too. Folders that are
    missing are made.

    Raises:
        OSError: If it cannot be written (disk full, no permission); the message names `path`.
    """
    temporary = path.with_name(f".{_writer()}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) so that a killed process leaves either the old content or the new one."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes `content`; NaN and infinity, which JSON does not have, become null."""
    write_atomically(path, json.dumps(_as_json(content), indent=2, allow_nan=False) + "\n")


@contextmanager
def whole_folder(target: Path, last: str) -> Iterator[Path]:
    """Gives a folder to write into that takes the target's place if all goes well and vanishes if not; `last` is the
    name of the file that says that all others are there, and appears after them.

    The target must not exist or be empty, else a FileExistsError is raised. An empty folder stays: it may be a link, a
    mount point, or where somebody stands.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already and not empty. Choose another folder, or remove it.")
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = target.is_dir()
    name = f".{target.name}.{_writer()}.tmp"
    temporary = target / name if inside else target.with_name(name)
    temporary.mkdir()
    try:
        yield temporary
        if inside:
            for file in sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name)):
                os.replace(file, target / file.name)
            temporary.rmdir()
        else:
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _writer() -> str:
    """A part of a temporary name that no other writer has: in containers, every process may have the number 1."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
