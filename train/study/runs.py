"""Runs of a study: each stage by the real launcher, stopped and gone on with like any other training."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from typing import Any

from safetensors.torch import load_file, save
from tqdm import tqdm

from cma_clip.command import Stopped
from cma_clip.files import file_sha256, write_atomically
from cma_clip.machine import commit, processor
from dataset.format import DatasetInfo
from train.children import Children, free_port
from train.stage_state import read_state
from train.study.measure import measure
from train.study.plan import Run

PACKAGES = ("torch", "deepspeed", "open_clip_torch", "triton")
RIVAL_PACKAGES = ("scikit-learn", "scipy", "numpy")
TOWERS = "towers.clip."


class Launcher(Children):
    """Runs commands as children that `stop` ends in order: they save and exit.

    Args:
        ranks: processes a run trains on.
        threads: of each rank on a CPU.
    """

    def __init__(self, ranks: int, threads: int) -> None:
        super().__init__()
        self.ranks, self.threads = ranks, threads

    def stage(self, run: Run, stage: str) -> None:
        """Train one stage, or what is left of it; raises as Children.work."""
        words = ["train.launch", f"--num_accelerators={self.ranks}", f"--master_port={free_port()}", "--"]
        words += ["--stage", stage, "--config", str(run.recipe), "--data", str(run.data)]
        self.work_for(run, f"stage {stage}", [*words, "--output", str(run.directory), *run.options])

    def work_for(self, run: Run, what: str, words: list[str]) -> None:
        """`python -m WORDS`; the output goes to the run's log.txt. Raises as Children.work."""
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        self.work(f"{run.name}, {what}", words, run.directory / "log.txt", env=threads)


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
        ValueError: the result is of other weights or data; or as Children.work.
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
    launcher.work_for(run, f"rival {run.rival}", words)
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
