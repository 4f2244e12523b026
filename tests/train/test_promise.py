"""The commands that decide anew what a bundle accepts, and that tell how often a promise is missed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tagged_files import TAGS, write_tagged
from tiny import tiny_bundle_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT
from model.acceptance import Acceptance, Rule
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from model.reference import Reference, TaskReference
from model.tasks import SingleLabel, TaskSet
from train.answers import Answers
from train.data import IN_ORDER, ProductDataset
from train.predict import answers_for
from train.promise import main, write_tasks
from train.score import main as score
from train.study.promises import main as how_often
from train.study.promises import point_estimate, resampled

COLOR = SingleLabel(name="color", labels=["green", "blue", "red"])  # the random network answers the last one


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagged(tmp_path_factory.mktemp("tagged") / "data", (COLOR, TAGS))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    tasks = [COLOR, TAGS.model_copy(update={"thresholds": [0.49, 0.5, 0.51]})]
    counted = {
        task.name: TaskReference(labels=dict.fromkeys(task.labels, 7), scores=[0] * 10, text_share=[0] * 10)
        for task in tasks
    }
    config = tiny_bundle_config(tasks=tasks).model_copy(update={"reference": Reference(products=21, tasks=counted)})
    save_bundle(tmp_path / "bundle", config, tiny_network(tasks=tasks))
    return tmp_path / "bundle"


def rules(bundle: Path) -> dict[str, Rule | None]:
    tasks = BundleConfig.read(bundle / "config.json").tasks
    return {task.name: task.acceptance.rule if task.acceptance else None for task in tasks}


def test_only_what_is_accepted_changes(tagged: Path, bundle: Path, capsys: pytest.CaptureFixture[str]):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    command = [str(bundle), "--data", str(tagged), "--precision", "color=0.5", "--precision", "0.8"]
    assert main([*command, "--dry-run"]) == 0
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert "nothing is changed" in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    # 16 products, of which half are red, are too few for anything.
    assert "color: that 50% of the accepted answers are right cannot be promised with 16 products" in said
    assert "tags: that 80% of the accepted answers are right cannot be promised with 12 products" in said
    assert rules(bundle) == {"color": Rule(precision=0.5), "tags": Rule(precision=0.8)}
    for name in ("model.safetensors", "tokenizer.json"):
        assert (bundle / name).read_bytes() == before[name]
    now = BundleConfig.read(bundle / "config.json").model_dump()
    was = BundleConfig.model_validate_json(before["config.json"]).model_dump()
    assert [task.pop("acceptance")["thresholds"] for task in now["tasks"]] == [[None] * 3, [None] * 3]
    assert now == was and now["reference"]["products"] == 21


def test_costs_on_a_split_are_what_score_then_counts(tagged: Path, bundle: Path, tmp_path: Path):
    costs = ["--cost-wrong", "2", "--cost-review", "1.5"]
    assert main([str(bundle), "--data", str(tagged), "--split", "test", *costs]) == 0
    loaded = load_bundle(bundle)
    color = loaded.config.tasks[0]
    assert color.acceptance.rule == Rule(cost_wrong=2, cost_review=1.5) and color.acceptance.products == 13
    assert score([str(bundle), "--data", str(tagged), "--output", str(tmp_path / "score")]) == 0
    metrics = json.loads((tmp_path / "score/metrics.json").read_text())
    counted = metrics["tasks"]["color"]
    assert counted["accepted"] == color.acceptance.accepted / 13 > 0
    assert counted["accepted_precision"] == color.acceptance.right / color.acceptance.accepted
    assert any("color: accepted where that costs less than to look" in note for note in metrics["notes"])
    # A random network says the same of all, and one of two is right: so it is worth it.
    dataset = ProductDataset(
        tagged, "test", loaded.config.preprocess, loaded.tokenizer, IN_ORDER, TaskSet(loaded.config.tasks)
    )
    answers = answers_for(loaded, dataset, 4)
    scores = color.scores(answers.logits_NC[:, :3].numpy())
    assert color.accepted(scores).sum() == color.acceptance.accepted


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--precision", "shape=0.9"], "--precision shape=…: no such task; the bundle has color, tags"),
        (["--precision", "1.5"], "precision: Input should be less than 1"),
        (["--cost-wrong", "5"], "give both or none"),
        (["--cost-wrong", "1", "--cost-review", "2"], "nobody needs to look"),
        (["--confidence", "0"], "confidence: Input should be greater than 0"),
    ],
)
def test_what_is_no_rule_changes_nothing(
    tagged: Path, bundle: Path, options: list[str], fault: str, capsys: pytest.CaptureFixture[str]
):
    before = (bundle / "config.json").read_bytes()
    assert main([str(bundle), "--data", str(tagged), *options]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert fault in said and said.count("\n") == 1
    assert (bundle / "config.json").read_bytes() == before


def test_the_products_trained_on_promise_nothing(tagged: Path, bundle: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([str(bundle), "--data", str(tagged), "--split", "train"])
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    before = (bundle / "config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_tasks(bundle, TaskSet([COLOR, TAGS]))
    assert (bundle / "config.json").read_bytes() == before


def test_how_often_a_promise_is_missed(tagged: Path, bundle: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(bundle, bundle.parent / "copy")
    command = [str(bundle), "--data", str(tagged), "--precision", "0.9", "--resamplings", "3"]
    assert how_often(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [["| color", "13", "0.9"], ["| tags", "10", "0.9"]]
    assert (bundle / "config.json").read_bytes() == (bundle.parent / "copy/config.json").read_bytes()


def test_resampled_against_counting_by_hand():
    """Of 100 equal scores 89 are right: whoever accepts any misses 90 %."""
    scores_NL, right_N = torch.tensor([[0.8, 0.1, 0.1]] * 100), torch.arange(100) < 89  # green, or it were blue
    targets_NL = torch.stack([right_N, ~right_N, torch.zeros(100, dtype=torch.bool)], dim=1)
    answers = Answers(
        COLOR, scores_NL, torch.from_numpy(COLOR.answered(scores_NL.numpy())), targets_NL, torch.arange(len(targets_NL))
    )
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 100, (50, 100)))
    enough = (right_N[drawn].sum(dim=1) >= 90).double().mean().item()
    assert 0.2 < enough < 0.7
    assert resampled(answers, Rule(), point_estimate, 50) == (pytest.approx(enough), pytest.approx(enough))

    def none(_: Answers, rule: Rule) -> Acceptance:
        return Acceptance(rule=rule, thresholds=[None] * 3, products=100)

    assert resampled(answers, Rule(), none, 5) == (0.0, 0.0)
