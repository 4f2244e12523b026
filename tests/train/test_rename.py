"""Other names, the same answers: what a renamed bundle says, and what cannot be renamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_bundle_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT
from model.acceptance import Acceptance, Rule
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from model.reference import NONE, Reference, TaskReference
from model.tasks import Condition, Mismatch, MultiLabel, SingleLabel
from train.rename import main

COLOR = SingleLabel(
    name="color",
    labels=["red", "gray", "blue"],
    thresholds=[0.25],
    temperature=0.5,
    acceptance=Acceptance(rule=Rule(), thresholds=[0.5] * 3, products=9),
)
TAGS = MultiLabel(name="tags", labels=["new", "sale"])
TASKS = [COLOR, TAGS, Mismatch()]


def reference() -> Reference:
    tasks = {}
    for task in TASKS:
        labels = {label: place + 1 for place, label in enumerate(task.labels)} | ({NONE: 5} if task is TAGS else {})
        tasks[task.name] = TaskReference(labels=labels, scores=[1] * 10, text_share=[2] * 10)
    return Reference(products=9, tasks=tasks)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rename") / "bundle"
    config = tiny_bundle_config(tasks=TASKS).model_copy(update={"reference": reference()})
    save_bundle(directory, config, tiny_network(tasks=TASKS))
    return directory


def test_names_change_and_nothing_else(bundle: Path, tmp_path: Path):
    output = tmp_path / "renamed"
    options = ["--label", "color", "gray", "grey", "--label", "tags", "sale", "reduced", "--task", "color", "colour"]
    assert main([str(bundle), "--output", str(output), *options]) == 0
    before, after = (BundleConfig.read(path / "config.json") for path in (bundle, output))
    assert [(task.name, task.labels) for task in after.tasks] == [
        ("colour", ["red", "grey", "blue"]),
        ("tags", ["new", "reduced"]),
        ("mismatch", ["mismatch"]),
    ]
    colour = after.tasks[0]
    assert (colour.thresholds, colour.temperature, colour.acceptance) == ([0.25], 0.5, COLOR.acceptance)
    assert after.tasks.label_set_hash != before.tasks.label_set_hash
    assert after.reference.tasks["colour"].labels == {"red": 1, "grey": 2, "blue": 3}
    assert after.reference.tasks["tags"].labels == {"new": 1, "reduced": 2, NONE: 5}
    for name in ("model.safetensors", "tokenizer.json"):
        assert (output / name).read_bytes() == (bundle / name).read_bytes()
    kept = {"tasks", "reference"}
    assert after.model_dump(exclude=kept) == before.model_dump(exclude=kept)


def test_its_answers_are_the_same(bundle: Path, tmp_path: Path):
    assert main([str(bundle), "--output", str(tmp_path / "renamed"), "--label", "color", "gray", "grey"]) == 0
    generator, preprocess = torch.Generator().manual_seed(0), BundleConfig.read(bundle / "config.json").preprocess
    size, end = preprocess.image_size, preprocess.vocab_size - 1
    pixels = torch.randint(0, 256, (3, size, size, 3), generator=generator, dtype=torch.uint8)
    inputs = torch.tensor([[1, 2, end]] * 3, dtype=torch.int32), pixels, torch.ones(3, 2, dtype=torch.bool)
    answers = [load_bundle(path).network(*inputs).logits_BC for path in (bundle, tmp_path / "renamed")]
    assert torch.equal(*answers)


def test_conditions_follow_the_names_that_they_name(tmp_path: Path):
    tags = TAGS.model_copy(update={"only_if": Condition(task="color", labels=["gray", "blue"])})
    sizes = SingleLabel(name="size", labels=["gray", "large"], only_if=Condition(task="tags", labels=["sale"]))
    tasks = [tags, COLOR, sizes]
    save_bundle(tmp_path / "bundle", tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    options = ["--label", "color", "gray", "grey", "--task", "color", "colour", "--label", "tags", "sale", "reduced"]
    assert main([str(tmp_path / "bundle"), "--output", str(tmp_path / "renamed"), *options]) == 0
    after = BundleConfig.read(tmp_path / "renamed/config.json").tasks
    assert [task.only_if for task in after] == [
        Condition(task="colour", labels=["grey", "blue"]),
        None,
        Condition(task="tags", labels=["reduced"]),
    ]
    assert after[2].labels == ["gray", "large"]  # another task's label of that name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to rename"),
        (["--label", "size", "a", "b"], "the bundle has color, tags"),
        (["--label", "mismatch", "mismatch", "b"], "the bundle has color, tags"),
        (["--label", "color", "pink", "b"], "color has no label 'pink'"),
        (["--label", "color", "red", "blue"], "'blue' is there; to make two labels one, train again"),
        (["--label", "color", "red", " "], "the new name is empty"),
        (["--task", "color", "1st"], "name"),
        (["--task", "color", "title"], "data sets have a column of that name"),
        (["--task", "color", "tags"], "task names repeat"),
    ],
)
def test_what_cannot_be_renamed_costs_one_line_and_leaves_nothing(bundle, tmp_path, capsys, options, says):
    assert main([str(bundle), "--output", str(tmp_path / "renamed"), *options]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_place_that_is_taken_and_a_bundle_that_is_not_whole_are_refused(bundle, tmp_path, capsys):
    options = ["--label", "color", "gray", "grey"]
    assert main([str(bundle), "--output", str(bundle), *options]) == EXIT_BAD_INPUT
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_bytes((bundle / "config.json").read_bytes())
    assert main([str(tmp_path / "half"), "--output", str(tmp_path / "renamed"), *options]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "is there; name a new directory" in said and "model.safetensors: no such file" in said
