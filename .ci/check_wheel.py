"""Check a built wheel: every file of hub_configs/ is inside, and each shipped checkpoint loads from the wheel, offline.

Usage: python .ci/check_wheel.py WHEEL (run from the repository root; needs kaseg's dependencies, not kaseg itself)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LOAD_ALL = """
import sys
from pathlib import Path

import kaseg

root = Path(sys.argv[1]).resolve()
assert root in Path(kaseg.__file__).resolve().parents, f"imported {kaseg.__file__}, not the wheel in {root}"
for name in kaseg.list_models():
    assert root in kaseg.checkpoint_path(name).resolve().parents, kaseg.checkpoint_path(name)
    kaseg.KASegModel.from_pretrained(name)
    print(f"  {name}: loads from the wheel")
"""


def main(wheel: str) -> None:
    """Raise SystemExit with the reason when the wheel lacks a file or a checkpoint in it does not load."""
    source = Path("hub_configs")
    expected = {f"kaseg/{path.as_posix()}" for path in source.rglob("*") if path.is_file()}
    if not any(name.endswith("/model.safetensors") for name in expected):
        sys.exit("hub_configs/ holds no model.safetensors, so the README's first example would not work from a wheel")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as unpacked:
        missing = sorted(expected - set(archive.namelist()))
        if missing:
            sys.exit(f"{wheel} lacks files of hub_configs/ (see [tool.hatch] in pyproject.toml): {missing}")
        archive.extractall(unpacked)
        environment = {**os.environ, "PYTHONPATH": unpacked, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", LOAD_ALL, unpacked], cwd=unpacked, env=environment, check=True)
    print(f"  {Path(wheel).name}: {len(expected)} files of hub_configs/ inside")


if __name__ == "__main__":
    main(sys.argv[1])
