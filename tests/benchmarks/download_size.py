"""Megabytes that `pip install .` and each extra download on Linux (x86-64, Python 3.11), as the package index says.

    pip install uv && python tests/benchmarks/download_size.py [--torch-backend cpu]

Nothing is installed: uv resolves the dependencies into a lock file that holds the sizes of all wheels. CUDA is what
only the build of PyTorch for GPUs needs; `--torch-backend cpu` takes PyTorch's own index instead, without it.
"""

import argparse
import subprocess
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("export", "openvino-int8", "video", "demo")
CUDA = ("nvidia-", "cuda-", "triton")


def sizes(folder: Path, extra: str | None, backend: str | None) -> dict[str, float]:
    """Megabytes of the wheel of each package."""
    lock = folder / "pylock.toml"
    command = ["uv", "pip", "compile", "-q", "--no-header", "--python-version", "3.11"]
    command += ["--python-platform", "x86_64-manylinux_2_28", str(ROOT / "pyproject.toml"), "-o", str(lock)]
    command += [] if extra is None else ["--extra", extra]
    command += [] if backend is None else ["--torch-backend", backend]
    lock.unlink(missing_ok=True)
    subprocess.run(command, check=True, cwd=folder)
    found = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]:
        wheels = package.get("wheels") or [package["sdist"]]
        found[package["name"]] = max(wheels, key=_fits).get("size", 0) / 1e6
    return found


def _fits(wheel: dict[str, str]) -> tuple[bool, bool]:
    name = wheel.get("name") or wheel["url"].rsplit("/", 1)[-1]
    any_platform = "none-any" in name or ("manylinux" in name and "x86_64" in name)
    return any(tag in name for tag in ("cp311-cp311", "abi3", "py3-none", "py2.py3-none")), any_platform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-backend")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        base = sizes(Path(folder), None, args.torch_backend)
        cuda = sum(size for name, size in base.items() if name.startswith(CUDA))
        torch = base["torch"]
        rest = sum(base.values()) - cuda - torch
        print(f"all {sum(base.values()):.0f} MB: torch {torch:.0f}, CUDA {cuda:.0f}, the rest {rest:.0f}")
        for extra in EXTRAS:
            more = sizes(Path(folder), extra, args.torch_backend)
            print(f"[{extra}] {sum(size for name, size in more.items() if name not in base):.0f} MB more")


if __name__ == "__main__":
    main()
