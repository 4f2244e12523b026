"""How well `mismatch` tells exchanged titles and images, from scripted answers and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from study_files import TASKS, write_products
from tiny import tiny_bundle_config, tiny_config, tiny_network

from model.bundle import save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.preprocess import TitleTokenizer
from model.tasks import TaskSet
from model.tokenizer import build_tokenizer
from train.data import ProductDataset
from train.predict import Predictions
from train.study import irrelevant
from train.study.measure import measure
from train.study.perturbed import PerturbedDataset
from train.study.wrong_pairs import EXCHANGES, wrong_pairs

PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)
MISMATCH = TASKS.with_mismatch()
TOLD = TaskSet([*TASKS, MISMATCH[-1].model_copy(update={"thresholds": [0.5]})])


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(tmp_path_factory.mktemp("pairs") / "data")


def opened(products: Path, tasks: TaskSet) -> ProductDataset:
    return ProductDataset(products, "test", PREPROCESS, TOKENIZER, tasks=tasks)


def answers(split: ProductDataset) -> Predictions:
    """Exchanged pairs score 1, 0, 1, 0 … as logits, a product's own -1 each."""
    count, is_changed = len(split), isinstance(split, PerturbedDataset)
    logits = torch.full((count, TOLD.num_columns), -1.0)
    if is_changed:
        logits[:, -1] = (torch.arange(count) % 2 == 0).float()
    nothing = torch.full_like(logits, -1.0)
    return Predictions(logits, torch.full((count, 3), 0.5), nothing, torch.ones(count, 2, dtype=torch.bool), [])


def test_from_scripted_answers(products: Path):
    told = wrong_pairs(answers, opened(products, TOLD))
    assert list(told) == list(EXCHANGES)
    for values in told.values():
        count = values["products"]
        assert values["auroc"] == 1.0 and values["false_alarms"] == 0.0
        assert values["told"] == 1.0, "0 is a score of 0.5, which reaches the threshold"
        assert 1 <= count <= 7
    assert told["titles_shuffled"]["products"] == 7


def test_equal_scores_tell_nothing(products: Path):
    same = lambda split: answers(opened(products, TOLD)).of(range(len(split)))  # noqa: E731
    told = wrong_pairs(same, opened(products, TOLD))["titles_shuffled"]
    assert told == {"products": 7, "auroc": 0.5, "told": 0.0, "false_alarms": 0.0}


def test_a_network_that_does_not_tell_is_not_judged(products: Path):
    assert wrong_pairs(answers, opened(products, TASKS)) == {}


def test_command_and_study_judge_it_beside_the_other_tasks(
    products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_bundle(tmp_path / "bundle", tiny_bundle_config(tasks=TOLD), tiny_network(tasks=TOLD))
    assert irrelevant.main([str(tmp_path / "bundle"), "--data", str(products)]) == 0
    shown = capsys.readouterr().out
    assert "mismatch" in shown and "AUROC" in shown and "false alarms" in shown
    written = json.loads((tmp_path / "irrelevant-test/irrelevant.json").read_text())
    measured = measure(tmp_path / "bundle", products)
    assert written["mismatch"] == measured["mismatch"] and set(measured["test"]) == {"color", "tags"}
    assert written["perturbations"] == measured["irrelevant"]
    assert "mismatch" not in measure(tmp_path / "bundle", products, suite=False)
