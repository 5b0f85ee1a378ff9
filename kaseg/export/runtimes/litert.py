"""Exported models on LiteRT."""

from pathlib import Path
from typing import Any

import numpy as np

from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.packages import require
from kaseg.export.runtimes.base import ExportedModel, check_threads

LITERT_NAME = "model.tflite"


class KASegLiteRTModel(ExportedModel):
    """A LiteRT export on the CPU (XNNPACK), as Android and iOS run it; one image of a fixed size at a time.

    Args:
        folder, config, record: As [`~kaseg.export.runtimes.base.ExportedModel`] has them.
        threads: Threads of inference; by default LiteRT's choice.
    """

    format = "litert"

    def __init__(self, folder: Path, config: KASegConfig, record: dict[str, Any], threads: int | None = None) -> None:
        super().__init__(folder, config, record)
        check_threads(threads)
        litert = require("ai_edge_litert.interpreter", "to run LiteRT models")
        try:
            # The interpreter lives as long as its signature needs it.
            self._interpreter = litert.Interpreter(str(folder / LITERT_NAME), num_threads=threads)
            self._run = self._interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{folder / LITERT_NAME} is no LiteRT model that can be run ({first_line}). Export it again."
            ) from error
        (self._input_name,) = self._run.get_input_details()

    def run(self, inputs: np.ndarray) -> np.ndarray:
        (output,) = self._run(**{self._input_name: inputs}).values()
        return output
