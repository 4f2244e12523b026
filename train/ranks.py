"""Who this process is among the ranks, where it computes, and what the ranks tell each other."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from cma_clip.command import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, Failure, Stopped
from cma_clip.machine import commit, usable_cores

# What gloo and NCCL say of a rank that has gone.
LOST = ("closed by peer", "reset by peer", "Connection refused", "Broken pipe", "timed out", "Timed out", "NCCL")
# The launcher looks once a second: the exit code of the rank at fault comes before that of those it left.
AFTER_THE_LOST_S = 3.0


class AllRefuse(ValueError):
    """Every rank raises it, with the same words."""


class Ranks(NamedTuple):
    """The ranks as one of them sees them; with a world size of 1 there is nobody to talk to."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, mine: Tensor) -> list[Tensor]:
        """Every rank's tensor of this shape, in the ranks' order."""
        if self.world_size == 1:
            return [mine]
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine.contiguous())
        return parts

    def mean(self, mine: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(mine)
        return mine / self.world_size

    def any(self, *mine: bool | Tensor) -> list[bool]:
        """Of each flag whether any rank raised it: one collective, and one wait for the device, for all of them."""
        known = [0.0 if isinstance(flag, Tensor) else float(flag) for flag in mine]
        flags = torch.tensor(known).to(self.device, non_blocking=True)
        for place, flag in enumerate(mine):
            if isinstance(flag, Tensor):
                flags[place] = flag
        if self.world_size > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def largest(self, *mine: float) -> list[float]:
        """Of each value the largest among the ranks."""
        values = torch.tensor([float(value) for value in mine], device=self.device)
        if self.world_size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def tell(self, mine: Any) -> list[Any]:
        """What every rank has to say, in the ranks' order."""
        return [mine] if self.world_size == 1 else tell(mine)

    def of_first(self, mine: Iterable[Tensor]) -> None:
        """Fill these tensors with what the first rank has in them."""
        if self.world_size > 1:
            for tensor in mine:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def launched() -> int:
    """How many ranks the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_ranks() -> int:
    """How many of them on this machine."""
    return int(os.environ.get("LOCAL_SIZE", "1"))


def is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def on_gpu() -> bool:
    """What DeepSpeed computes on; DS_ACCELERATOR=cpu keeps it off a GPU that is there."""
    return get_accelerator().device_name() != "cpu"


@contextmanager
def meet() -> Iterator[Ranks]:
    """The ranks together, from their first word to their last.

    Raises:
        ValueError: the port at which they would meet is taken.
    """
    if not on_gpu() and "OMP_NUM_THREADS" not in os.environ:
        # Its part of the cores; torch would give every rank all of them.
        torch.set_num_threads(max(1, usable_cores() // local_ranks()))
    device = _device()
    try:
        deepspeed.init_distributed(verbose=False)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ValueError(
            f"the ranks cannot meet at port {os.environ.get('MASTER_PORT')}: it is taken, perhaps by another run;"
            " give this one its own: deepspeed --master_port N train/main.py …"
        ) from None
    dist.barrier()
    _unlink_buffer()
    yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    dist.barrier()
    # Left to the interpreter's exit, gloo's threads now and then abort a rank that has finished.
    dist.destroy_process_group()


def _unlink_buffer() -> None:
    """DeepSpeed on a CPU leaves its buffer in shared memory when it ends, 64 MB a rank (ops/csrc/cpu/comm/shm.cpp).

    All ranks have mapped it by now, and what is mapped needs no name.
    """
    names = (os.getuid(), os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"), dist.get_rank())
    Path("/dev/shm", "_".join(map(str, ("deepspeed_allreduce_buffer", *names)))).unlink(missing_ok=True)


def _device() -> torch.device:
    """This rank's, by LOCAL_RANK, which every launcher sets."""
    if not on_gpu():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    get_accelerator().set_device(index)
    return torch.device(get_accelerator().device_name(index))


@contextmanager
def one_voice() -> Iterator[None]:
    """What all ranks would say the same is said by the first; the others leave with its exit code.

    Before the ranks have met, all find the same fault; later each may find its own.

    Raises:
        Failure: in place of the backend's error where another rank has ended.
    """
    try:
        yield
    except Stopped:
        if is_first_rank():
            raise
        raise SystemExit(EXIT_STOPPED) from None
    except (ValueError, OSError) as error:
        if not is_first_rank() and (isinstance(error, AllRefuse) or not dist.is_initialized()):
            raise SystemExit(EXIT_BAD_INPUT) from None
        if dist.is_initialized():
            print(file=sys.stderr)  # the first rank's progress bar may hold the line
        raise
    except RuntimeError as error:
        if not (dist.is_initialized() and any(word in str(error) for word in LOST)):
            raise
        time.sleep(AFTER_THE_LOST_S)
        print(file=sys.stderr)
        raise Failure(
            "another rank has ended or cannot be reached; the same command goes on from the last checkpoint"
        ) from None


def tell(mine: Any) -> list[Any]:
    """What every rank has to say, in the ranks' order."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told


def raise_together(faults: Sequence[Exception | None]) -> None:
    """Where there are faults, which all ranks know alike, all end: the first says the first of them."""
    fault = next(filter(None, faults), None)
    if fault is None:
        return
    if not is_first_rank():
        raise SystemExit(EXIT_BAD_INPUT if isinstance(fault, ValueError) else EXIT_FAILED)
    raise fault


def trained_by(ranks: Ranks) -> dict[str, str | int | None]:
    """What a bundle says of the machine: ranks, their device, versions."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else platform.machine()
    return {"ranks": ranks.world_size, "device": device, "torch": torch.__version__, "commit": commit()}
