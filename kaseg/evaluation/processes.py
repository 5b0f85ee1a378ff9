"""Work shared by the processes of a distributed run (torchrun, accelerate launch); a plain run is one process."""

import atexit
import os
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that work together."""

    rank: int = 0  # its number, 0..count - 1
    count: int = 1

    @classmethod
    def join(cls, use_cpu: bool = False) -> Self:
        """Joins the processes that a launcher has started, if one has: the process group is made on the first call, for
        models on the CPU, although there are GPUs, with `use_cpu`."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState  # chooses the backend and this process's GPU

            state = PartialState(cpu=use_cpu)
            # A process that ends with a group in use is aborted, if threads of the group still run.
            atexit.register(state.destroy_process_group)
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The indices of this process's samples among `total`: every `count`-th."""
        return range(self.rank, total, self.count)

    def gather(self, value: T) -> list[T]:
        """Gives the values of all processes in the order of their ranks; all must call it. Values are pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


def local_device() -> str | None:
    """The GPU of this process in a distributed run on GPUs, else `None`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return None
