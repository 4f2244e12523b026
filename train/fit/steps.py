"""The steps of a plan: each a command that anybody may run by itself, as a child that can be stopped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from cma_clip.command import NoMemory
from cma_clip.files import write_atomically
from dataset.format import DatasetInfo
from model.config import BundleConfig
from serve.sets import served_set
from train.children import Children, free_port
from train.fit.plan import LOGS, RECIPE_FILE, RIVALS, SCORE, Plan, duration
from train.rivals.table import RIVALS as ALL_RIVALS
from train.stage_state import read_state

TAIL_BYTES = 4096
SHOWN = 100  # characters of the line that a step writes over and over


@dataclass(frozen=True)
class Step:
    """Attributes:
    words: what follows `python -m`.
    is_done: the step has nothing left to do.
    tells: its output is for people, but for what it says of the next command.
    """

    name: str
    words: list[str]
    is_done: bool = False
    tells: bool = False


def steps(plan: Plan, output: Path, deploy: Path) -> Iterator[Step]:
    """In their order; each is looked at when its turn comes."""
    if plan.prepare:
        yield Step("prepare", ["train.prepare", *plan.prepare], (plan.data / "dataset.json").exists(), tells=True)
    data, bundle = str(plan.data), output / "bundle"
    judged = ["--split", "test" if "test" in DatasetInfo.read(plan.data).splits else "validation"]
    if "rivals" in plan.seconds:
        is_done = all((output / RIVALS / name / "metrics.json").exists() for name in ALL_RIVALS)
        yield Step("rivals", ["train.rivals", "--data", data, *judged, "--output", str(output / RIVALS)], is_done)
    for stage in plan.epochs:
        state = read_state(output / stage)
        launch = ["train.launch", f"--num_accelerators={plan.ranks}", f"--master_port={free_port()}", "--quiet", "--"]
        of = str(plan.pretrain) if plan.pretrain and stage == "contrastive" else data
        options = ["--stage", stage, "--config", str(output / RECIPE_FILE), "--data", of, "--output", str(output)]
        yield Step(stage, [*launch, *options], bool(state and state.finished))
    metrics, config = output / SCORE / "metrics.json", bundle / "config.json"
    is_done = metrics.exists() and metrics.stat().st_mtime > config.stat().st_mtime
    yield Step("score", ["train.score", str(bundle), "--data", data, *judged, "--output", str(output / SCORE)], is_done)
    if "export" in plan.seconds:
        served = served_set(deploy).bundle
        is_done = served.exists() and answers_of(served) == answers_of(config)
        yield Step("export", ["serve.export", str(bundle), "--deploy", str(deploy)], is_done, tells=True)


def answers_of(config: Path) -> tuple[object, ...]:
    """What decides a bundle's answers: its weights, and what is answered and accepted."""
    bundle = BundleConfig.read(config)
    return bundle.weights_sha256, *((task.name, task.labels, task.thresholds, task.acceptance) for task in bundle.tasks)


def run(plan: Plan, output: Path, deploy: Path, children: Children) -> None:
    """Do what is left; raises as Children.work."""
    logs = output / LOGS
    logs.mkdir(exist_ok=True)
    left = sum(plan.seconds.values())
    for number, step in enumerate(steps(plan, output, deploy), start=1):
        expected = plan.seconds[step.name]
        left -= expected
        head = f"[{number}/{len(plan.seconds)}] {step.name}:"
        if step.is_done:
            print(head, "done before", flush=True)
            continue
        more = f", then about {duration(left)} more" if left >= 1 else ""
        print(head, f"about {duration(expected)}{more}", flush=True)
        began, said, status = time.monotonic(), logs / f"{step.name}.txt", Status(logs / f"{step.name}.log")
        threads = {"OMP_NUM_THREADS": str(plan.threads)} if step.name in plan.epochs else {}
        work = partial(children.work, step.name, step.words, status.log, said, threads, status.show)
        try:
            work()
        except NoMemory as failure:
            status.clear()
            less = halve(output / RECIPE_FILE, step.name, failure)
            print(head, f"no memory for it on the device: once more, with {less} products at once", flush=True)
            work()
        finally:
            status.clear()
        print(head, f"took {duration(time.monotonic() - began)}", flush=True)
        for line in said.read_text(errors="replace").splitlines() if step.tells else ():
            if not line.startswith("next:"):
                print(f"  {line}")


def halve(recipe: Path, stage: str, failure: NoMemory) -> int:
    """Halve what a rank takes at once, in this stage and those after it; returns how many products that is now.

    Raises:
        NoMemory: the failure, where it is one product already.
    """
    head, _, text = recipe.read_text().partition("\n")
    settings = yaml.safe_load(text)
    stages = settings["stages"]
    for name in [*stages][[*stages].index(stage) :]:
        own = stages[name]
        half = min(own["micro_batch_size"], own["batch_size"]) // 2
        if name == stage and not half:
            raise failure
        own["micro_batch_size"] = max(1, half)
    write_atomically(recipe, f"{head}\n{yaml.safe_dump(settings, sort_keys=False)}")
    return stages[stage]["micro_batch_size"]


class Status:
    """The last line of a log, shown in place on a terminal."""

    def __init__(self, log: Path) -> None:
        self.log, self.is_terminal = log, sys.stderr.isatty()

    def show(self) -> None:
        if not self.is_terminal or not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        print(f"\r\x1b[K  {last.strip()[:SHOWN]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
