"""A page that segments photos and the webcam in the visitor's browser; it needs no server but one for files."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from kaseg.configuration_kaseg import KASegConfig
from kaseg.data.label_spaces import palette_for
from kaseg.export.card import license_of
from kaseg.export.record import RECORD_NAME, check_files, read_record
from kaseg.export.runtimes.onnx import ONNX_NAME
from kaseg.writing import whole_folder

NPM_PACKAGE = "onnxruntime-web"
NPM_VERSIONS = "1"  # the page calls what is the same in all of them
# What the page loads of it: the interface and the engine, 14 MB.
_ENGINE_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = Path(__file__).with_name("browser_page")
_CARD = """---
title: {quoted}
sdk: static
{license}custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: cross-origin
---

# {title}

Segments photos and the webcam in the visitor's browser, by {model}. The headers let the engine use several threads.
On your own computer: `python -m http.server --directory .`, then http://localhost:8000.
"""


def write_static_demo(
    export_folder: str | Path, output_dir: str | Path, onnxruntime_web: str | Path | None = None
) -> dict[str, int]:
    """Write the page, the model and the engine into a folder that any server of files, or a static Space, can show. The
    page takes all its files from this folder and sends nothing anywhere. It computes on the CPU (WebAssembly).

    Args:
        export_folder: Folder of an export to ONNX with masks in the graph, uint8 images and any size.
        output_dir: The folder; it must not exist or be empty.
        onnxruntime_web: Folder of the npm package onnxruntime-web. Default: `npm pack` fetches it (33 MB), and the two
            files that are needed (14 MB) are taken out.

    Returns:
        Name -> size in bytes of each file.

    Raises:
        OSError: no such export or package, npm is not installed or could not fetch it, or the folder is not empty.
        ValueError: another kind of export, or a damaged file.
    """
    export_folder, output_dir = Path(export_folder), Path(output_dir)
    record = _check_export(export_folder)
    config = KASegConfig.from_pretrained(export_folder)
    model = (record["model"] or "KASegModel").rstrip("/")
    title = model.rpartition("/")[2]
    settings = {
        "title": title,
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "palette": [list(map(int, color)) for color in config.palette or palette_for(config.num_labels)],
    }
    license = license_of(export_folder)
    quoted = json.dumps(title, ensure_ascii=False)  # as YAML has it, whatever the folder is called
    card = _CARD.format(title=title, quoted=quoted, model=model, license=f"license: {license}\n" if license else "")
    with whole_folder(output_dir, last="index.html") as folder, tempfile.TemporaryDirectory() as scratch:
        engine = _engine_files(Path(scratch), onnxruntime_web)
        for file in (*sorted(_PAGE.iterdir()), export_folder / ONNX_NAME, *engine):
            shutil.copyfile(file, folder / file.name)
        (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {file.name: file.stat().st_size for file in sorted(output_dir.iterdir())}


def _check_export(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} holds no export of kaseg (no {RECORD_NAME}). Make one: kaseg export MODEL --output mask."
        )
    record = read_record(folder / RECORD_NAME)
    wanted = {"format": "onnx", "output": "mask", "image_dtype": "uint8", "size": None}
    others = [f"{name}={record.get(name)!r}" for name, value in wanted.items() if record.get(name) != value]
    if others:
        raise ValueError(
            f"The page takes exports to ONNX with masks in the graph, uint8 images and any size; {folder} has "
            f"{', '.join(others)}. Make one: kaseg export MODEL --output mask."
        )
    check_files(folder, record)
    return record


def _engine_files(scratch: Path, package: str | Path | None) -> list[Path]:
    """The files of onnxruntime-web, out of a folder or, unpacked into `scratch`, out of what npm fetches."""
    if package is not None:
        files = [Path(package) / "dist" / name for name in _ENGINE_FILES]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{', '.join(missing)} missing: give the folder of the npm package {NPM_PACKAGE}.")
        return files
    if shutil.which("npm") is None:
        raise FileNotFoundError(
            f"npm is not installed, which fetches {NPM_PACKAGE}. Install Node.js, or give the folder of the package "
            "(--onnxruntime-web)."
        )
    command = ["npm", "pack", f"{NPM_PACKAGE}@{NPM_VERSIONS}", "--silent", "--pack-destination", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise OSError(
            f"npm could not fetch {NPM_PACKAGE} ({reason}). Try again, or give the folder of the package "
            "(--onnxruntime-web)."
        )
    (archive,) = scratch.glob("*.tgz")
    files = []
    with tarfile.open(archive) as packed:
        for name in _ENGINE_FILES:
            try:
                source = packed.extractfile(f"package/dist/{name}")
            except KeyError:
                source = None
            if source is None:
                raise OSError(
                    f"The newest {NPM_PACKAGE} ({archive.name}) has no dist/{name}: give the folder of an older one "
                    "(--onnxruntime-web)."
                )
            files.append(scratch / name)
            with source, files[-1].open("wb") as target:
                shutil.copyfileobj(source, target)
    return files
