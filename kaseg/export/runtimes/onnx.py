"""Exported models on ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.packages import require
from kaseg.export.runtimes.base import ExportedModel, check_threads

ONNX_NAME = "model.onnx"


class KASegOnnxModel(ExportedModel):
    """An ONNX export on ONNX Runtime, with all its graph optimizations.

    Args:
        folder, config, record: As [`~kaseg.export.runtimes.base.ExportedModel`] has them.
        threads: Threads within an operator; by default ONNX Runtime's choice, one per core.
        providers: Execution providers in order of preference, such as
            `["CUDAExecutionProvider", "CPUExecutionProvider"]`. Default: the CPU.
        file: Name of the model's file in the folder.

    Example:

    ```python
    model = KASegOnnxModel.from_pretrained("exported", threads=2)
    processor = KASegImageProcessor.from_pretrained("exported")
    outputs = model(**processor(image, return_tensors="pt"))
    mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])[0]
    ```
    """

    format = "onnx"

    def __init__(
        self,
        folder: Path,
        config: KASegConfig,
        record: dict[str, Any],
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        file: str = ONNX_NAME,
    ) -> None:
        super().__init__(folder, config, record)
        self.session = open_session(folder / file, threads, providers)
        self._input_name = self.session.get_inputs()[0].name

    def run(self, inputs: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self._input_name: inputs})[0]


def open_session(file: Path, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """An `onnxruntime.InferenceSession` of a file; a ValueError if `threads` is below 1, this installation lacks a
    provider, or the file is no ONNX model or a damaged one."""
    check_threads(threads)
    ort = require("onnxruntime", "to run ONNX models")
    missing = [provider for provider in providers if provider not in ort.get_available_providers()]
    if missing:
        raise ValueError(
            f"This installation of ONNX Runtime lacks {', '.join(missing)}; it has "
            f"{', '.join(ort.get_available_providers())}. For NVIDIA GPUs: pip install onnxruntime-gpu."
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(str(file), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors have no base class but Exception
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{file} is no ONNX model that ONNX Runtime can run ({first_line}). Export it again."
        ) from error
