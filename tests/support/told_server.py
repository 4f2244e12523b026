"""A server as `cma-clip publish` sees it, made of files: it loads what lies whole at the repository's root."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cma_clip.command import Failure
from model.config import BundleConfig
from serve.check import read_config
from serve.publish.server import Answer
from serve.repository import Repository
from serve.sets import ENSEMBLE, STEP_NAME, STEPS, StepSet


class ToldServer:
    """Attributes:
    live: names of the steps that are loaded.
    serving: suffix of the set behind the ensemble.
    refuses: what it cannot load, by the beginning of its name.
    probabilities: label set -> PROBABILITIES [B, C] of the canaries; those of no other set are looked at.
    """

    url = "told:1"

    def __init__(self, repository: Repository) -> None:
        self.repository, self.serving = repository, repository.served().current
        self.live = {repository.steps(self.serving).name(step) for step in STEPS}
        self.refuses, self.said, self.probabilities = "", [], {}

    def check_control(self) -> None:
        self.said.append("check")

    def served(self) -> str:
        return self.serving

    def runtime(self, steps: StepSet) -> str:
        assert steps.name("engine") in self.live
        return "openvino"

    def load(self, name: str) -> None:
        self.said.append(f"load {name}")
        if self.refuses and name.startswith(self.refuses):
            raise Failure(f"{self.url} did not load {name}: no memory")
        if name != ENSEMBLE:
            whole(StepSet.of(self.repository.root / name), STEP_NAME.fullmatch(name)[1])
            self.live.add(name)
            return
        self.serving = self.repository.served().current
        for step in STEPS:
            if self.repository.steps(self.serving).name(step) not in self.live:
                self.load(self.repository.steps(self.serving).name(step))

    def unload(self, steps: StepSet) -> None:
        assert steps.suffix != self.serving, "requests would fail"
        self.said.append(f"unload {steps.name('engine')}")
        self.live -= {steps.name(step) for step in STEPS}

    def ask(self, products: Sequence[tuple[bytes, bytes]]) -> Answer:
        return self._answer(self.serving, len(products))

    def ask_steps(self, config, products: Sequence[tuple[bytes, bytes]]) -> Answer:
        names = [step.model_name for step in config.ensemble_scheduling.step]
        assert len(names) == 4 and self.live.issuperset(names)
        return self._answer(STEP_NAME.fullmatch(names[0])[2], len(products))

    def _answer(self, suffix: str, count: int) -> Answer:
        tasks = BundleConfig.read(self.repository.bundle(suffix)).tasks
        rows = self.probabilities.get(tasks.label_set_hash, np.full((count, tasks.num_columns), 0.5))
        return Answer(rows, {tasks.label_set_hash}, {task.name for task in tasks})


def whole(steps: StepSet, step: str) -> None:
    """A server could load this step: its configuration names it, and all that it reads is there."""
    config = read_config(steps.folder(step), "cpu")
    assert config.name == steps.name(step) and (steps.folder(step) / "1" / config.default_model_filename).is_file()
    assert BundleConfig.read(steps.bundle) and steps.tokenizer.is_file()
    assert step != "engine" or any((steps.folder(step) / "1").glob("model.*"))


def whole_root(repository: Repository) -> None:
    """A server without model control could start: every folder of the root can be loaded, the served set among them."""
    folders = [path for path in repository.root.iterdir() if path.is_dir() and path.name != ENSEMBLE]
    for folder in folders:
        whole(StepSet.of(folder), STEP_NAME.fullmatch(folder.name)[1])
    served = repository.steps(repository.served().current)
    assert {served.name(step) for step in STEPS} <= {folder.name for folder in folders}
