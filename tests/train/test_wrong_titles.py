"""What `mismatch` learns from and is judged by: exchanged products in training, wrong titles behind a split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from study_files import TASKS as LABELLED
from study_files import write_products
from tagged_files import write_tagged
from tiny import ROOT, run_stage, tiny_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT
from model.clip_towers import create_clip, preprocess_config
from model.config import BundleConfig
from model.preprocess import TitleTokenizer
from model.tasks import MISSING, Mismatch
from model.tokenizer import build_tokenizer
from serve.export.publish import export
from train.data import Batch, ProductDataset
from train.losses import ClassificationObjective, classification_losses
from train.main import main as train
from train.recipe import StageConfig
from train.score import main as score
from train.thresholds import few_false_alarms, fit_thresholds
from train.wrong_titles import judged_by

TASKS = LABELLED.with_mismatch()
PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)
COMPLETE, UNREADABLE = [0, 1, 2, 5, 6, 7, 8], 6
COLUMN = TASKS.num_columns - 1


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ProductDataset:
    data = write_products(tmp_path_factory.mktemp("study") / "data")
    return ProductDataset(data, "test", PREPROCESS, TOKENIZER, tasks=TASKS)


def test_a_split_whose_tasks_have_none_is_judged_as_it_is(split: ProductDataset):
    assert judged_by(split) is not split
    split_of_before = ProductDataset(Path(split.row_groups[0][0]).parents[1], "test", PREPROCESS, TOKENIZER)
    assert judged_by(split_of_before) is split_of_before


def test_first_comes_the_split_as_it_is(split: ProductDataset):
    judged = judged_by(split)
    assert len(split) == 9 and len(judged) == 18
    for index in range(9):
        before, found = split[index], judged[index]
        np.testing.assert_array_equal(found.targets[:COLUMN], before.targets[:COLUMN])
        np.testing.assert_array_equal(found.input_ids, before.input_ids)
        is_told = index in COMPLETE and index != UNREADABLE
        assert found.targets[COLUMN] == (0 if is_told else MISSING) and found.problem == before.problem


def test_then_every_product_under_the_title_of_the_one_half_a_split_away(split: ProductDataset):
    judged, told = judged_by(split), 0
    for index in range(9):
        donor = (index + 4) % 9
        found, own, other = judged[9 + index], split[index], TOKENIZER.encode(split.product(donor)["title"])
        np.testing.assert_array_equal(found.pixels, own.pixels)
        np.testing.assert_array_equal(found.input_ids, other)
        assert found.problem is None and (found.targets[:COLUMN] == MISSING).all()
        are_told = index in COMPLETE and index != UNREADABLE and len(other) > 2
        is_another = not np.array_equal(own.input_ids, other)
        assert found.targets[COLUMN] == (1 if are_told and is_another else MISSING)
        told += found.targets[COLUMN] == 1
    assert told > 0


def batch(size: int) -> Batch:
    ids = torch.randint(1, 8000, (size, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    ids[:, -1] = 8191
    present = torch.ones(size, 2, dtype=torch.bool)
    present[:5, 0], present[5:10, 1] = False, False
    targets = torch.zeros(size, TASKS.num_columns)
    targets[:, COLUMN] = MISSING
    pixels = torch.zeros(size, 64, 64, 3, dtype=torch.uint8)
    readable = torch.ones(size, dtype=torch.bool)
    readable[10:15] = False
    return Batch([str(n) for n in range(size)], ids, pixels, present, targets, readable, [])


def test_training_tells_of_complete_products_whether_they_were_exchanged():
    network, inputs = tiny_network(tasks=TASKS), batch(60)
    objective = ClassificationObjective(network, TASKS, StageConfig(mismatched=0.4)).train()
    torch.manual_seed(3)
    result = objective(inputs)
    seen: list[torch.Tensor] = []
    network.towers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(3)
    objective(inputs)
    other_title_B = (seen[0] != inputs.input_ids_BT).any(dim=1)
    # Images are all alike here, so which were exchanged only the loss can tell: between none and all of the rest.
    assert result.output is not None and 5 < other_title_B.sum() < 25 and not other_title_B[:10].any()
    targets = torch.full((60, TASKS.num_columns), MISSING)
    targets[15:, COLUMN] = other_title_B[15:].float()
    sums, counts = classification_losses(result.output.logits_BC, targets, TASKS)
    assert counts[-1] == 45
    assert result.parts["mismatch"].item() == pytest.approx((sums[-1] / 45).item(), rel=0.5)
    assert (
        "mismatch" in result.parts
        and ClassificationObjective(network, TASKS, StageConfig()).train()(inputs).parts["mismatch"] == 0
    )


def test_its_threshold_lets_one_right_title_of_a_hundred_be_called_wrong():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random(1000).astype(np.float32)).sort().values
    is_wrong = torch.zeros(1000, dtype=torch.bool)
    is_wrong[::2] = True
    threshold = few_false_alarms(scores, is_wrong)
    right = scores[~is_wrong]
    assert (right >= threshold).sum() == 5 and (right >= threshold - 1e-3).sum() > 5
    assert few_false_alarms(scores[:7], torch.ones(7, dtype=torch.bool)) == 0.5
    equal = few_false_alarms(torch.full((50,), 0.25), torch.zeros(50, dtype=torch.bool))
    assert 0.25 < equal < 0.2501
    assert few_false_alarms(torch.ones(50), torch.zeros(50, dtype=torch.bool)) == 1.0


def test_only_its_own_products_fit_it():
    logits, targets = torch.zeros(4, TASKS.num_columns), torch.full((4, TASKS.num_columns), MISSING)
    logits[:, COLUMN] = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    targets[:, COLUMN] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    fitted = fit_thresholds(logits, targets, TASKS)
    assert fitted[-1].thresholds == [pytest.approx(torch.tensor(-1.0).sigmoid().item(), abs=1e-6)]
    assert all(not task.thresholds for task in fitted[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mismatch", "true"], "mismatch: needs stages.warmup.mismatched above 0"),
        (
            ["--mismatch", "true", "--model.architecture", "late_fusion"],
            "mismatch: only cma_clip compares title and im",
        ),
    ],
)
def test_what_it_cannot_be_learned_from_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = [
        "--config",
        str(ROOT / "tests/support/tiny.yaml"),
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path / "run"),
    ]
    assert train(["--stage", "warmup", *paths, *options]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_stage_learns_it_a_score_judges_it_and_an_export_serves_it(tmp_path: Path):
    data, run = write_tagged(tmp_path / "data"), tmp_path / "run"
    options = [f"--stages.{name}.mismatched=0.5" for name in ("warmup", "end_to_end", "tuning")]
    for stage in ("contrastive", "warmup"):
        options.append(f"--stages.{stage}.batch_size=16")
        result = run_stage(stage, data, run, "--mismatch=true", *options, ranks=1)
        assert result.returncode == 0, result.stderr
    config = BundleConfig.read(run / "bundle/config.json")
    tasks = config.tasks
    assert isinstance(tasks[-1], Mismatch) and len(tasks[-1].thresholds) == 1
    assert score([str(run / "bundle"), "--data", str(data), "--output", str(tmp_path / "score")]) == 0
    metrics = json.loads((tmp_path / "score/metrics.json").read_text())["tasks"]["mismatch"]
    table = pq.read_table(tmp_path / "score/predictions.parquet")
    assert 0 <= metrics["auroc"] <= 1 and table.num_rows < metrics["products"] <= 2 * table.num_rows
    assert "mismatch_answer" in table.column_names and "mismatch_true" not in table.column_names
    export(run / "bundle", tmp_path / "deploy", refuse_mismatches=True)
    served = BundleConfig.read(tmp_path / "deploy/bundle.json")
    assert served.tasks == tasks.refusing() != tasks and served.tasks.label_set_hash == tasks.label_set_hash
    # What the server is to expect are the products of validation, and not again under wrong titles.
    assert config.reference is not None and served.reference == config.reference
    products = sum(pq.read_metadata(shard).num_rows for shard in (data / "split=validation").glob("*.parquet"))
    assert sum(config.reference.tasks["mismatch"].labels.values()) == config.reference.products == products
