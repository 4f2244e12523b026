"""Ranks of training as the launcher would start them, without its 10 s: forked from a process that has all imported."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from server_process import free_ports

from train.children import Children

ROOT = Path(__file__).parents[2]
# What every rank inherits; the forkserver imports it once: also what DeepSpeed imports as an engine is made, in 2 s.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
ranks = multiprocessing.get_context("forkserver")
ranks.set_forkserver_preload(["train.main", "deepspeed.runtime.zero.muon.muon_optimizer"])


class Ranks:
    """The ranks of one run of train/main.py; `folder` takes what they print.

    Args:
        script: another one than train/main.py.
        own: per rank, what it is given instead of `arguments`.
        cwd: where they run.
        variables: added to the environment.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        count: int = 2,
        script: str = "train/main.py",
        own: Sequence[Sequence[object]] | None = None,
        cwd: Path = ROOT,
        **variables: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_ports(1)[0]
        common = {"WORLD_SIZE": str(count), "LOCAL_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        common["OMP_NUM_THREADS"] = "1"  # more threads than cores wait for each other
        self.processes: list[BaseProcess] = []
        for rank in range(count):
            given = [str(word) for word in (own[rank] if own else arguments)]
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(self.port)}
            target = (script, given, folder, cwd, common | place | variables)
            self.processes.append(ranks.Process(target=_run, args=target, name=f"rank {rank}"))
        for process in self.processes:
            process.start()

    def wait(self, timeout: float = 300) -> list[int]:
        """Exit codes of the ranks; like the launcher, it sends SIGTERM to the others where one has failed."""
        end, is_told = time.monotonic() + timeout, False
        while any(process.is_alive() for process in self.processes):
            assert time.monotonic() < end, self.said()
            if any(process.exitcode for process in self.processes) and not is_told:
                is_told, end = True, min(end, time.monotonic() + 30)
                for process in self.processes:
                    process.terminate()
            time.sleep(0.02)
        return [process.exitcode for process in self.processes if process.exitcode is not None]

    def said(self, stream: str = "stderr") -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob(f"{stream}-*")))


real_wait = Children._wait


def forked(children: Children, words: list[str], log: Path, output: Path, *more: object) -> int:
    """What `Children._wait` may be in tests: a stage's ranks without the launcher, and other commands as they are."""
    if words[0] != "train.launch":
        return real_wait(children, words, log, output, *more)  # type: ignore[arg-type]
    ranks = Ranks(words[words.index("--") + 1 :], log.parent / f"said-{log.stem}", cwd=Path.cwd())
    code = max(ranks.wait(), key=abs)
    log.write_text(ranks.said())
    output.write_text(ranks.said("stdout"))
    return code


def _run(script: str, arguments: list[str], folder: Path, cwd: Path, variables: dict[str, str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started alone
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))  # the library read the variable long ago
    os.chdir(cwd)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / f"{stream}-{variables['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.argv = [script, f"--local_rank={variables['LOCAL_RANK']}", *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")
