"""Ways to run a model: eager PyTorch and its variants, ONNX Runtime, OpenVINO."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo import config as dynamo_config

from kaseg.benchmark.models import Logits
from kaseg.modeling_kaseg import KASegModel

Run = Callable[[], object]
Size = tuple[int, int]

ENGINES = {
    "eager": "PyTorch, float32, as it is built",
    "fused": "eager, BatchNorm folded into the convolutions (ours only)",
    "channels_last": "eager, channels-last, ours fused",
    "bf16": "channels_last in bfloat16",
    "compile": "channels_last through torch.compile",
    "onnxruntime": "ONNX Runtime, float32",
    "openvino": "OpenVINO, float32",
    "int8": "OpenVINO, int8 by NNCF, calibrated on noise: good for speed alone",
}
_FILE = {"onnxruntime": "model.onnx", "openvino": "openvino.xml", "int8": "int8.xml"}
_CALIBRATION_IMAGES = 4
_MOST_COMPILED = 10_000


class EngineUnavailable(RuntimeError):
    """An engine that this machine or this model does not have; the message says why."""


def write_files(engine: str, model: Logits, size: Size, folder: Path) -> None:
    """Writes the file that an engine reads for one image of `size` (height, width), unless it is there."""
    if engine not in _FILE or (folder / _FILE[engine]).exists():
        return
    from kaseg.export.graph import export_program
    from kaseg.export.options import ExportOptions
    from kaseg.export.to_onnx import write_onnx
    from kaseg.export.to_openvino import quantize_openvino, write_openvino

    folder.mkdir(parents=True, exist_ok=True)
    try:
        if engine == "onnxruntime":
            options = ExportOptions(size=size)
            write_onnx(export_program(_fused(copy.deepcopy(model)), 3, options), folder / _FILE[engine], options)
        elif engine == "openvino":
            write_files("onnxruntime", model, size, folder)
            write_openvino(folder / _FILE["onnxruntime"], folder / _FILE[engine], compress_to_fp16=False)
        else:
            write_files("openvino", model, size, folder)
            noise = np.random.default_rng(0)
            images = [noise.standard_normal((1, 3, *size), np.float32) for _ in range(_CALIBRATION_IMAGES)]
            quantize_openvino(folder / _FILE["openvino"], folder / _FILE[engine], images)
    except Exception as error:  # onnx and nncf have errors of no common base
        raise EngineUnavailable(_first_line(error)) from error


def open_engine(engine: str, model: Logits, size: Size, folder: Path, threads: int) -> Run:
    """Makes a function that runs a float32 model, which is left as it is, once on one image of `size` (height, width).

    What some engines read lies in `folder`. `threads` are those of ONNX Runtime and OpenVINO; PyTorch has its own
    setting.

    Raises:
        EngineUnavailable: A package is missing, or the model has no such form.
        ValueError: There is no such engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    write_files(engine, model, size, folder)
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, *size), np.float32))
    try:
        if engine in _FILE:
            return _open_file(engine, folder / _FILE[engine], pixels.numpy(), threads)
        return _open_torch(engine, copy.deepcopy(model), pixels)
    except EngineUnavailable:
        raise
    except Exception as error:  # compilers and engines raise whatever they run into
        raise EngineUnavailable(_first_line(error)) from error


def _open_file(engine: str, file: Path, pixels: np.ndarray, threads: int) -> Run:
    if engine == "onnxruntime":
        from kaseg.export.runtimes.onnx import open_session

        session = open_session(file, threads)
        return lambda: session.run(None, {"pixel_values": pixels})
    from kaseg.export.runtimes.openvino import compile_model

    compiled = compile_model(file, "float32", threads)
    return lambda: compiled([pixels])


def _open_torch(engine: str, model: Logits, pixels: torch.Tensor) -> Run:
    if engine == "fused" and not isinstance(model.model, KASegModel):
        raise EngineUnavailable("only our models have fuse()")
    network: Any = model if engine == "eager" else _fused(model)
    if engine not in ("eager", "fused"):
        network = network.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    if engine == "bf16":
        network, pixels = network.to(torch.bfloat16), pixels.to(torch.bfloat16)
    if engine == "compile":
        network = torch.compile(network, dynamic=False)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return network(pixels)

    # All models share the code of Logits.forward, and beyond eight compiled versions of it the rest would run eagerly.
    with dynamo_config.patch(recompile_limit=_MOST_COMPILED, accumulated_recompile_limit=_MOST_COMPILED):
        run()  # a compiler that is missing shows now
    return run


def _fused(model: Logits) -> Logits:
    if isinstance(model.model, KASegModel):
        model.model.fuse()
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
