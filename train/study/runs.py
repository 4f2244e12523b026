"""Runs of a study: each stage by the real launcher, stopped and gone on with like any other training."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from cma_clip.command import Stopped
from cma_clip.files import file_sha256, write_atomically
from cma_clip.machine import commit, processor
from dataset.format import DatasetInfo
from train.stage_state import read_state
from train.study.measure import measure
from train.study.plan import Run

PACKAGES = ("torch", "deepspeed", "open_clip_torch", "triton")
TOWERS = "towers.clip."


class Launcher:
    """Runs commands as children that `stop` ends in order: they save and exit.

    Args:
        ranks: processes a run trains on.
        threads: of each rank on a CPU.
    """

    def __init__(self, ranks: int, threads: int) -> None:
        self.ranks, self.threads = ranks, threads
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()

    def stage(self, run: Run, stage: str) -> None:
        """Train one stage, or what is left of it; the output goes to the run's log.txt.

        Raises:
            Stopped: by `stop`.
            ValueError: it failed; with its last line.
        """
        launcher = Path(sys.executable).with_name("deepspeed")
        command = [str(launcher), f"--num_accelerators={self.ranks}", f"--master_port={_free_port()}", "train/main.py"]
        command += ["--stage", stage, "--config", str(run.recipe), "--data", str(run.data)]
        command += ["--output", str(run.directory), *run.options]
        log = run.directory / "log.txt"
        with log.open("ab") as file:
            code = self._wait(command, file)
        if code and self.stopping.is_set():
            raise Stopped("what is done is kept")
        if code:
            lines = log.read_text(errors="replace").splitlines()
            said = next((line for line in reversed(lines) if line.startswith("error: ")), f"exit code {code}")
            raise ValueError(f"{run.name}, stage {stage}: {said.removeprefix('error: ')} (all of it: {log})")

    def stop(self, *_: object) -> None:
        """End all children and start no more."""
        self.stopping.set()
        for child in list(self.children):
            os.killpg(child.pid, signal.SIGTERM)

    def _wait(self, command: list[str], log: Any) -> int:
        if self.stopping.is_set():
            raise Stopped("what is done is kept")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": str(self.threads)}
        with subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as child:
            self.children.add(child)
            if self.stopping.is_set():  # it came between the question above and the start
                self.stop()
            child.wait()
            self.children.discard(child)
        return child.returncode


def train(run: Run, launcher: Launcher, say: Callable[[str], None]) -> dict[str, float]:
    """All stages that are not finished; returns the minutes that each took in all its sittings."""
    run.directory.mkdir(parents=True, exist_ok=True)
    times = run.directory / "minutes.json"
    minutes: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for stage in run.stages:
        state = read_state(run.directory / stage)
        if state and state.finished:
            continue
        began = time.monotonic()
        try:
            launcher.stage(run, stage)
        finally:
            minutes[stage] = minutes.get(stage, 0.0) + (time.monotonic() - began) / 60
            write_atomically(times, json.dumps(minutes) + "\n")
        say(f"{run.name}: {stage} done after {minutes[stage]:.1f} min")
    return minutes


def pretrained_towers(run: Run, launcher: Launcher, say: Callable[[str], None]) -> Path:
    """Train the towers and write them as a weight file that `model.pretrained` takes."""
    path = towers_file(run)
    if not path.exists():
        train(run, launcher, say)
        weights = load_file(run.directory / "contrastive/best/model.safetensors")
        clip = {name.removeprefix(TOWERS): tensor for name, tensor in weights.items() if name.startswith(TOWERS)}
        write_atomically(path, save(clip))
    return path


def towers_file(run: Run) -> Path:
    """Where `pretrained_towers` leaves the weights of this run."""
    return run.directory / "clip.safetensors"


def result_of(run: Run, towers: Path | None) -> dict[str, Any] | None:
    """The result that is there already.

    Raises:
        ValueError: it was made with other settings, data or towers.
    """
    path = run.directory / "result.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    now = stamp(run, towers)
    if result["stamp"] != now:
        raise ValueError(
            f"{path}: made with other settings, data or towers ({result['stamp']}, now {now});"
            " take another --output, or remove it"
        )
    return result


def stamp(run: Run, towers: Path | None) -> str:
    return run.stamp(DatasetInfo.read(run.data).hash, file_sha256(towers) if towers else None)


def complete(run: Run, towers: Path | None, launcher: Launcher, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and measure a run, or give the result that is there."""
    result = result_of(run, towers)
    if result is None:
        minutes = train(run, launcher, say)
        began = time.monotonic()
        result = judge(run, minutes, stamp(run, towers))
        result["minutes"] += (time.monotonic() - began) / 60
        write_atomically(run.directory / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def judge(run: Run, minutes: dict[str, float], stamp: str) -> dict[str, Any]:
    """Measure what the stages left on the test split."""
    last = run.directory / run.stages[-1] / "best"
    measured = measure(last, run.data)
    stages = {stage: stage_summary(run, stage, minutes[stage]) for stage in run.stages}
    if "end_to_end" in stages and run.stages[-1] != "end_to_end":
        before = measure(run.directory / "end_to_end/best", run.data, suite=False)
        stages["end_to_end"]["test"] = before["test"]
    stages[run.stages[-1]]["test"] = measured["test"]
    weights = load_file(last / "model.safetensors")
    return {
        "data_set": run.study,
        "variant": run.variant,
        "seed": run.seed,
        "stamp": stamp,
        "commit": commit(),
        "minutes": sum(minutes.values()),
        "hardware": processor(),
        "versions": {package: version(package) for package in PACKAGES},
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "weights": file_sha256(last / "model.safetensors"),
        "stages": stages,
        **measured,
    }


def stage_summary(run: Run, stage: str, minutes: float) -> dict[str, Any]:
    """Best epoch and learning curve of a stage, from its log."""
    directory = run.directory / stage
    state = read_state(directory)
    assert state is not None
    batch_size = getattr(run.resolved().stages, stage).batch_size
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    curve = [
        {key: value for key, value in line.items() if key not in ("time", "kind", "update", "best")}
        | {"products_seen": line["update"] * batch_size}
        for line in lines
        if line["kind"] == "validation"
    ]
    return {
        "epoch": state.best_epoch,
        "validation_loss": state.best_loss,
        "minutes": minutes,
        "curve": curve,
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
