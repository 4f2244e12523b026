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
from train.study.perturbed import PERTURBATIONS, PerturbedDataset
from train.study.wrong_pairs import told_apart

PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)
MISMATCH = TASKS.with_mismatch()
TOLD = TaskSet([*TASKS, MISMATCH[-1].model_copy(update={"thresholds": [0.5]})])


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(tmp_path_factory.mktemp("pairs") / "data")


def answers(*mismatch: float) -> Predictions:
    """Answers whose last column, of the task that tells, holds these logits."""
    logits_NC = torch.full((len(mismatch), TOLD.num_columns), -1.0)
    logits_NC[:, -1] = torch.tensor(mismatch)
    present_N2 = torch.ones(len(mismatch), 2, dtype=torch.bool)
    return Predictions(logits_NC, torch.full((len(mismatch), 3), 0.5), torch.full_like(logits_NC, -1.0), present_N2, [])


def test_from_scripted_answers():
    told = told_apart(answers(-1, -2, 0.5, -3), answers(0, 2, -2.5, 1), TOLD)
    # Of 16 pairs (own, exchanged) 12 stand in the right order: -2.5 is above -3 alone, 0 below 0.5.
    assert told == {"products": 4, "auroc": 12 / 16, "told": 3 / 4, "false_alarms": 1 / 4}, "0 reaches the threshold"


def test_equal_scores_tell_nothing():
    told = told_apart(answers(-1, -1, -1), answers(-1, -1, -1), TOLD)
    assert told == {"products": 3, "auroc": 0.5, "told": 0.0, "false_alarms": 0.0}


def test_a_network_that_does_not_tell_is_not_judged():
    assert told_apart(answers(0), answers(1), TASKS) == {}


def test_the_suite_judges_it_on_exchanges_and_classifies_each_perturbation_once(products: Path):
    classified: list[str] = []

    def answer(split: ProductDataset) -> Predictions:
        is_changed = isinstance(split, PerturbedDataset)
        classified.append(split.change if is_changed else "untouched")
        return answers(*[float(is_changed)] * len(split))

    dataset = ProductDataset(products, "test", PREPROCESS, TOKENIZER, tasks=TOLD)
    found = irrelevant.suite(answer, TOLD, dataset, answer(dataset))
    assert classified == ["untouched", *(name.partition("_")[2] for name in PERTURBATIONS)]
    exchanges = ["titles_shuffled", "titles_contradicting", "titles_of_a_near_product", "pictures_shuffled"]
    assert list(found.mismatch) == exchanges and {values["auroc"] for values in found.mismatch.values()} == {1.0}
    assert found.mismatch["titles_shuffled"]["products"] == 7
    assert set(found.perturbations["titles_shuffled"]) == {"color", "tags"}


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
