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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from tqdm import tqdm

from cma_clip.command import Stopped
from cma_clip.files import file_sha256, write_atomically
from cma_clip.machine import commit, processor
from dataset.format import DatasetInfo
from train.stage_state import read_state
from train.study.measure import measure
from train.study.plan import Run

PACKAGES = ("torch", "deepspeed", "open_clip_torch", "triton")
RIVAL_PACKAGES = ("scikit-learn", "scipy", "numpy")
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
        """Train one stage, or what is left of it.

        Raises:
            Stopped, ValueError: as `work`.
        """
        words = ["train.launch", f"--num_accelerators={self.ranks}", f"--master_port={_free_port()}", "--"]
        words += ["--stage", stage, "--config", str(run.recipe), "--data", str(run.data)]
        self.work(run, f"stage {stage}", [*words, "--output", str(run.directory), *run.options])

    def work(self, run: Run, what: str, words: list[str]) -> None:
        """`python -m WORDS`; the output goes to the run's log.txt.

        Raises:
            Stopped: by `stop`.
            ValueError: it failed; with its last line.
        """
        log = run.directory / "log.txt"
        code = None if self.stopping.is_set() else self._wait([sys.executable, "-m", *words], log)
        if code != 0 and self.stopping.is_set():
            raise Stopped("what is done is kept")
        if code:
            lines = log.read_text(errors="replace").splitlines()
            said = next((line for line in reversed(lines) if line.startswith("error: ")), f"exit code {code}")
            raise ValueError(f"{run.name}, {what}: {said.removeprefix('error: ')} (all of it: {log})")

    def stop(self, *_: object) -> None:
        """End all children and start no more."""
        self.stopping.set()
        for child in list(self.children):
            os.killpg(child.pid, signal.SIGTERM)

    def _wait(self, command: list[str], log: Path) -> int:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "OMP_NUM_THREADS": str(self.threads)}
        with (
            log.open("ab") as file,
            subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True) as child,
        ):
            self.children.add(child)
            if self.stopping.is_set():  # it came while the child was started
                self.stop()
            child.wait()
            self.children.discard(child)
        return child.returncode


def train(run: Run, launcher: Launcher) -> dict[str, float]:
    """All stages that are not finished; returns the minutes that each took in all its sittings."""
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
        tqdm.write(f"{run.name}: {stage} done after {minutes[stage]:.1f} min")
    return minutes


def train_towers(run: Run, launcher: Launcher) -> None:
    """Train the towers and write them as a weight file that `model.pretrained` takes, unless it is there."""
    if not run.weights.exists():
        run.directory.mkdir(parents=True, exist_ok=True)
        train(run, launcher)
        weights = load_file(run.directory / "contrastive/best/model.safetensors")
        clip = {name.removeprefix(TOWERS): tensor for name, tensor in weights.items() if name.startswith(TOWERS)}
        write_atomically(run.weights, save(clip))


def complete(run: Run, launcher: Launcher) -> None:
    """Train, or fit, and measure a run that has no result.

    Raises:
        ValueError: it has one that was made with other settings, data or towers; or as Launcher.stage.
    """
    path = run.directory / "result.json"
    stamp = run.stamp(DatasetInfo.read(run.data).hash, file_sha256(run.towers) if run.towers else None)
    if not path.exists():
        run.directory.mkdir(parents=True, exist_ok=True)
        minutes = train(run, launcher)
        began = time.monotonic()
        measured = fit_and_judge(run, launcher) if run.rival else judge(run, minutes)
        result = origin(run) | measured | {"stamp": stamp}
        result["minutes"] = sum(minutes.values()) + (time.monotonic() - began) / 60
        write_atomically(path, json.dumps(result, indent=1) + "\n")
    elif (before := json.loads(path.read_text())["stamp"]) != stamp:
        raise ValueError(
            f"{path}: made with other settings, data or towers ({before}, now {stamp});"
            " take another --output, or remove it"
        )


def measure_again(run: Run, launcher: Launcher) -> None:
    """Measure a finished run anew, by the bundles that it left; what its result says of the training stays.

    Nothing is trained, but a rival, which leaves no bundle, is fitted again. Settings are not compared: recipes gain
    keys from version to version, and the result's weights say which training it was.

    Raises:
        Stopped: by the launcher's `stop`.
        ValueError: the result is of other weights or data; or as Launcher.work.
    """
    if launcher.stopping.is_set():
        raise Stopped("what is done is kept")
    path = run.directory / "result.json"
    result = json.loads(path.read_text())
    if not _is_of(result, run):
        raise ValueError(f"{path}: of other weights or data than are there now; put those back, or remove it")
    if run.rival:
        result |= fit_and_judge(run, launcher)
    else:
        measured, tests = judge_bundles(run)
        result |= measured | {"stages": _with_tests(result["stages"], tests)}
    again = {name: value for name, value in origin(run).items() if name in ("commit", "hardware", "versions")}
    write_atomically(path, json.dumps(result | {"measured_again": again}, indent=1) + "\n")


def _is_of(result: dict[str, Any], run: Run) -> bool:
    """Whether the run's weights, if it has any, and its data are still those that the result was measured with."""
    data_hash = DatasetInfo.read(run.data).hash
    if run.rival:
        return result["stamp"] == run.stamp(data_hash, None)
    last = run.directory / run.stages[-1]
    state = read_state(last)
    is_same_data = state is not None and state.data_hash == data_hash
    return is_same_data and file_sha256(last / "best/model.safetensors") == result["weights"]


def origin(run: Run) -> dict[str, Any]:
    """Where a result comes from; with what is measured it has the form of train.study.results.RunResult."""
    packages = RIVAL_PACKAGES if run.rival else PACKAGES
    return {
        "data_set": run.study,
        "variant": run.variant,
        "seed": run.seed,
        "commit": commit(),
        "hardware": processor(),
        "versions": {package: version(package) for package in packages},
    }


def fit_and_judge(run: Run, launcher: Launcher) -> dict[str, Any]:
    """Fit a rival in a process of its own, which can be stopped at any time, and measure it on the test split."""
    path = run.directory / "measured.json"
    words = ["train.study.rival", str(run.rival), "--data", str(run.data), "--output", str(path)]
    launcher.work(run, f"rival {run.rival}", words)
    return {"deterministic": True, "stages": {}, **json.loads(path.read_text())}


def judge(run: Run, minutes: dict[str, float]) -> dict[str, Any]:
    """Measure what the stages left on the test split."""
    measured, tests = judge_bundles(run)
    stages: dict[str, Any] = {stage: stage_summary(run, stage) | {"minutes": minutes[stage]} for stage in run.stages}
    weights = run.directory / run.stages[-1] / "best/model.safetensors"
    return {
        "parameters": sum(tensor.numel() for tensor in load_file(weights).values()),
        "weights": file_sha256(weights),
        "stages": _with_tests(stages, tests),
        **measured,
    }


def judge_bundles(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that is measured of the last stage's bundle, and stage -> `test` of it and of the end_to_end's."""
    measured = measure(run.directory / run.stages[-1] / "best", run.data)
    tests: dict[str, Any] = {run.stages[-1]: measured["test"]}
    if "end_to_end" in run.stages[:-1]:
        tests["end_to_end"] = measure(run.directory / "end_to_end/best", run.data, suite=False)["test"]
    return measured, tests


def _with_tests(stages: dict[str, Any], tests: dict[str, Any]) -> dict[str, Any]:
    return stages | {stage: stages[stage] | {"test": test} for stage, test in tests.items()}


def stage_summary(run: Run, stage: str) -> dict[str, Any]:
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
    return {"epoch": state.best_epoch, "validation_loss": state.best_loss, "curve": curve}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
