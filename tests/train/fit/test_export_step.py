"""When a step of `fit` counts as done."""

from __future__ import annotations

from pathlib import Path

from tiny import TASKS, tiny_bundle_config

from model.acceptance import Acceptance, Rule
from model.tasks import TaskSet
from train.fit.steps import answers_of


def test_what_is_served_is_old_after_another_promise(tmp_path: Path):
    """A bundle whose weights are served already, but which accepts other answers, is exported again."""
    color, pattern = TASKS
    promise = Acceptance(rule=Rule(), thresholds=[0.5, 0.6, None], products=100)
    others = [
        TASKS,
        TaskSet([color.model_copy(update={"acceptance": promise}), pattern]),
        TaskSet([color.model_copy(update={"thresholds": [0.9]}), pattern]),
        TASKS.with_mismatch(),
    ]
    found = []
    for place, tasks in enumerate(others):
        config = tiny_bundle_config(tasks=tasks).model_copy(update={"weights_sha256": "0" * 64})
        (tmp_path / f"{place}.json").write_text(config.model_dump_json())
        found.append(answers_of(tmp_path / f"{place}.json"))
    assert all(found[one] != found[two] for one in range(4) for two in range(one))
    (tmp_path / "same.json").write_text((tmp_path / "1.json").read_text())
    assert answers_of(tmp_path / "same.json") == found[1]
    # That a mismatch refuses the others is said at the export, and no reason to export again.
    refusing = tiny_bundle_config(tasks=others[3].refusing()).model_copy(update={"weights_sha256": "0" * 64})
    (tmp_path / "refusing.json").write_text(refusing.model_dump_json())
    assert answers_of(tmp_path / "refusing.json") == found[3]
