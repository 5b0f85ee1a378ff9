"""Exported models on OpenVINO."""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.packages import require
from kaseg.export.runtimes.base import ExportedModel, check_threads

OPENVINO_NAME = "openvino_model.xml"


class KASegOpenVINOModel(ExportedModel):
    """An OpenVINO export, compiled for low latency.

    OpenVINO computes in bfloat16 by itself where the processor can; here the type that was exported and checked is the
    one that is used: float32 (also for what is not quantized in int8), or bfloat16 for exports of that type.

    Args:
        folder, config, record: As [`~kaseg.export.runtimes.base.ExportedModel`] has them.
        threads: Threads of inference; by default OpenVINO's choice, one per core.
        device: OpenVINO's name of the device, such as `"CPU"` or `"GPU"`.
    """

    format = "openvino"

    def __init__(
        self, folder: Path, config: KASegConfig, record: dict[str, Any], threads: int | None = None, device: str = "CPU"
    ) -> None:
        super().__init__(folder, config, record)
        self.compiled = compile_model(folder / OPENVINO_NAME, record["dtype"], threads, device)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        return self.compiled([inputs])[0].copy()


def openvino_core() -> Any:
    """The `openvino.Core` that all of kaseg shares.

    There is one per process, never freed: each one's CPU plugin replaces the stack on which signals are handled and
    puts the one before back at its end. Freed in the order in which they were made, two of them leave a stack that is
    gone, and the next signal (a data loader's worker that ends, say) kills the process.
    """
    return _core_of(require("openvino", "to run OpenVINO models"))


@cache
def _core_of(package: ModuleType) -> Any:
    return package.Core()


def compile_model(file: Path, dtype: str, threads: int | None = None, device: str = "CPU") -> Any:
    """An `openvino.CompiledModel` of a file; a ValueError if `threads` is below 1, the device is not there, or the file
    is no OpenVINO model or a damaged one."""
    check_threads(threads)
    core = openvino_core()
    if device.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
        raise ValueError(f"OpenVINO sees no device {device!r} here; it sees {', '.join(core.available_devices)}.")
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bf16" else "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(str(file), device, settings)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"{file} is no OpenVINO model that can be run ({lines[-1].strip()}). Export it again."
        ) from error
