"""`export.json`: what an exported folder holds, how it was made and how well it agrees with the model."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kaseg.writing import write_json

RECORD_NAME = "export.json"
CONFIG_NAME = "config.json"
PROCESSOR_NAME = "preprocessor_config.json"


def write_record(folder: Path, model_files: list[str], facts: dict[str, Any]) -> None:
    """Write `export.json`, with size and SHA-256 of every model file."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in model_files}
    write_json(folder / RECORD_NAME, {**facts, "files": files})


def read_record(file: Path) -> dict[str, Any]:
    """What [`write_record`] wrote; a ValueError if it is no such record."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        complete = {"format", "dtype", "output", "files"} <= record.keys()
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(f"{file} is no record of an export: it was changed or cut off. Export the model again.")
    return record


def check_files(folder: Path, record: dict[str, Any]) -> None:
    """Compare the model files with the record: a FileNotFoundError if one is missing, a ValueError if one is damaged,
    cut off, or another one."""
    for name, expected in record["files"].items():
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing, which {RECORD_NAME} names. Copy the whole folder, or export again."
            )
        size = file.stat().st_size
        if size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise ValueError(
                f"{file} is damaged, cut off or another file: it has {size} bytes and not the content of {RECORD_NAME} "
                f"({expected['bytes']} bytes). Copy or fetch it again, or export again."
            )


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
