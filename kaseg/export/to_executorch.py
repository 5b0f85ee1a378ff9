"""ExecuTorch files out of `torch.export` programs."""

from pathlib import Path
from typing import Any

import torch

from kaseg.export.packages import require


def write_executorch(program: torch.export.ExportedProgram, file: Path) -> None:
    """Write the program as a `.pte` for ExecuTorch, with what XNNPACK (phones and other CPUs) can do given to it."""
    purpose = "to write ExecuTorch programs"
    exir = require("executorch.exir", purpose)
    partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", purpose).XnnpackPartitioner()
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner]).to_executorch()
    file.write_bytes(lowered.buffer)


def load_executorch(file: Path) -> Any:
    """The program's `forward`, a function of one tensor."""
    runtime = require("executorch.runtime", "to run ExecuTorch programs").Runtime.get()
    # The method borrows from the program, which must live as long.
    program = runtime.load_program(str(file))
    method = program.load_method("forward")
    return lambda inputs, _program=program: method.execute([inputs])[0]
