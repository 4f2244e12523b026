"""How answers to validation are counted, by hand, and what a bundle keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_bundle_config

from model.config import BundleConfig
from model.reference import BINS, MOST_LABELS, NONE, OTHER, Reference, TaskReference, bin_of, grouped, histogram

EMPTY = [0] * BINS
COLOR = TaskReference(labels={"red": 3, "blue": 1, "green": 0}, scores=EMPTY, text_share=EMPTY)
PATTERN = TaskReference(labels={"plain": 0, "dots": 0, NONE: 4}, scores=EMPTY, text_share=EMPTY)
REFERENCE = Reference(products=4, tasks={"color": COLOR, "pattern": PATTERN})


def test_bins_are_closed_below_and_the_last_takes_one_and_a_little_more():
    assert [bin_of(value) for value in (0, 0.0999, 0.1, 0.3, 0.6, 0.7, 0.999, 1, 1.00001)] == [
        0,
        0,
        1,
        3,
        6,
        7,
        9,
        9,
        9,
    ]
    assert histogram([0.05, 0.95, 1.0]) == [1, *[0] * 8, 2]
    edges = np.linspace(0, 1, BINS + 1)
    drawn = np.random.default_rng(0).uniform(size=1000)
    assert histogram(drawn) == np.histogram(drawn, edges)[0].tolist()


def test_few_labels_are_counted_each_and_of_many_the_rare_ones_together():
    few = {f"l{n}": n for n in range(MOST_LABELS)}
    assert grouped(few) == few
    many = {f"l{n}": n for n in range(MOST_LABELS + 5)}
    shown = grouped(many)
    assert len(shown) == MOST_LABELS and sum(shown.values()) == sum(many.values())
    assert shown[OTHER] == sum(range(6)) and list(shown)[:2] == ["l6", "l7"]
    counted = TaskReference(labels=shown, scores=EMPTY, text_share=EMPTY)
    assert counted.shown("l5") == OTHER and counted.shown("l6") == "l6"


def test_a_bundle_keeps_it_and_one_of_before_has_none(tmp_path: Path):
    before = tiny_bundle_config()
    assert before.reference is None and "reference" not in json.loads(before.model_dump_json())
    config = before.model_copy(update={"reference": REFERENCE})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert BundleConfig.read(tmp_path / "config.json") == config
    assert config.tasks.label_set_hash == before.tasks.label_set_hash


@pytest.mark.parametrize(
    ("tasks", "fault"),
    [
        ({"color": COLOR}, "reference counts color, the tasks are color, pattern"),
        ({"color": PATTERN, "pattern": PATTERN}, r"reference: task color has no label dots, plain"),
    ],
)
def test_one_of_other_tasks_is_refused(tmp_path: Path, tasks: dict[str, TaskReference], fault: str):
    other = Reference(products=4, tasks=tasks)
    (tmp_path / "config.json").write_text(
        tiny_bundle_config().model_copy(update={"reference": other}).model_dump_json()
    )
    with pytest.raises(ValueError, match=fault) as caught:
        BundleConfig.read(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
