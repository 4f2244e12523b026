"""Ranks of training as the launcher would start them, without its 10 s: forked from a process that has all imported."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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


def forked(
    _: Children, words: list[str], log: Path, output: Path | None, env: Mapping[str, str], look: Callable[[], None]
) -> int:
    """What `Children._wait` may be in tests: the same command, a stage's ranks without the launcher."""
    if words[0] == "train.launch":
        options, own = words[: words.index("--")], words[words.index("--") + 1 :]
        count = next(int(option.partition("=")[2]) for option in options if option.startswith("--num_accelerators="))
        folder = log.parent / f"said-{own[own.index('--stage') + 1]}"
        started = Ranks(own, folder, count, cwd=Path.cwd(), **env)
        code = max(started.wait(), key=abs)
        with log.open("a") as file:
            file.write(started.said())
        if output:
            output.write_text(started.said("stdout"))
        return code
    child = ranks.Process(target=_run_module, args=(words, output or log, log, Path.cwd(), dict(env)), name=words[0])
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _run(script: str, arguments: list[str], folder: Path, cwd: Path, variables: dict[str, str]) -> None:
    _begin(folder / f"stdout-{variables['RANK']}", folder / f"stderr-{variables['RANK']}", cwd, variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))  # the library read the variable long ago
    sys.argv = [script, f"--local_rank={variables['LOCAL_RANK']}", *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def _run_module(words: list[str], stdout: Path, stderr: Path, cwd: Path, variables: dict[str, str]) -> None:
    _begin(stdout, stderr, cwd, variables)
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _begin(stdout: Path, stderr: Path, cwd: Path, variables: dict[str, str]) -> None:
    """As in a process that was started alone."""
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(variables)
    os.chdir(cwd)
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
