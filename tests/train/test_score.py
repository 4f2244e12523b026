"""Judging a bundle: what is written, by which thresholds, and what is refused."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from data_set_files import good_rows, rejects, write_csv
from tagged_files import COLOR, TAGS, write_tagged
from tiny import ROOT, environment, tiny_bundle_config, tiny_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT
from cma_clip.machine import commit
from dataset import shards
from dataset.format import DatasetInfo
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from model.tasks import Condition, MultiLabel, SingleLabel, Task, TaskSet
from train.data import ProductDataset
from train.main import main as train_main
from train.predict import Predictions, loss_and_metrics, predict
from train.prepare.__main__ import main as prepare
from train.ranks import Ranks
from train.report.__main__ import main as report_main
from train.score import main
from train.thresholds import fit_thresholds

RECIPE = ROOT / "tests/support/tiny.yaml"


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagged(tmp_path_factory.mktemp("tagged") / "data")


def random_bundle(directory: Path, thresholds: list[float]) -> Path:
    tasks = [COLOR, TAGS.model_copy(update={"thresholds": thresholds})]
    save_bundle(directory, tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    return directory


def judged(bundle: Path, data: Path, output: Path) -> dict[str, dict]:
    assert main([str(bundle), "--data", str(data), "--output", str(output), "--batch_size", "5"]) == 0
    return json.loads((output / "metrics.json").read_text())["tasks"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_by_label_agree_with_every_answer(tagged: Path, tmp_path: Path):
    metrics = judged(random_bundle(tmp_path / "bundle", [0.5, 0.49, 0.51]), tagged, tmp_path / "score")
    rows = pq.read_table(tmp_path / "score/predictions.parquet").to_pylist()
    labelled = [row for row in rows if row["tags_true"] is not None]
    assert (len(rows), len(labelled), metrics["tags"]["products"]) == (13, 10, 10)
    for line in table(tmp_path / "score/classes-tags.csv"):
        answered = [row for row in labelled if line["label"] in row["tags_answer"]]
        right = [row for row in answered if line["label"] in row["tags_true"]]
        assert int(line["answered"]) == len(answered)
        assert int(line["products"]) == sum(line["label"] in row["tags_true"] for row in labelled)
        assert line["precision"] == (str(len(right) / len(answered)) if answered else "")
    confusion = table(tmp_path / "score/confusion-color.csv")
    for line in confusion:
        true = line.pop("true label / answer")
        for answer, count in line.items():
            assert int(count) == sum((row["color_true"], row["color_answer"]) == (true, answer) for row in rows)
    assert len(confusion) == 3 and not (tmp_path / "score/confusion-tags.csv").exists()


def asked_of(directory: Path, *colors: str) -> Path:
    """A bundle of which tags are asked of these colors; its network takes all three for equally likely."""
    asked = TAGS.model_copy(
        update={"thresholds": [0.0, 0.0, 1.0], "only_if": Condition(task="color", labels=list(colors))}
    )
    save_bundle(directory, tiny_bundle_config(tasks=[COLOR, asked]), tiny_network(tasks=[COLOR, asked]))
    return directory


def test_a_task_that_is_not_asked_of_all_is_judged_where_it_answers_all_the_same(tagged: Path, tmp_path: Path, capsys):
    """Of 13 products 7 are red, 6 of them with tags known, and 6 blue."""
    metrics = judged(asked_of(tmp_path / "bundle", "red", "green"), tagged, tmp_path / "score")
    rows = pq.read_table(tmp_path / "score/predictions.parquet").to_pylist()
    red = [row for row in rows if row["color_true"] == "red" and row["tags_true"] is not None]
    blue = [row for row in rows if row["color_true"] == "blue"]
    assert (len(red), len(blue)) == (6, 6) and all(row["tags_accepted"] for row in rows)
    assert metrics["tags"]["products"] == 12 and metrics["tags"]["accepted"] == 1
    right = sum({*row["tags_answer"]} <= {*row["tags_true"]} for row in red)
    assert metrics["tags"]["accepted_precision"] == right / 12
    assert (metrics["tags"]["not_applicable"], metrics["tags"]["told_not_applicable"]) == (6, 0)
    assert "tags: told not applicable 0 times, n/a rightly; 0.0% of 6 are found" in capsys.readouterr().out
    report = (tmp_path / "score/report.html").read_text()
    assert "told not applicable 0 times" in report and "it is not applicable" in report


def test_where_all_is_told_not_to_apply_nothing_is_answered_and_nothing_judged(tagged: Path, tmp_path: Path, capsys):
    bundle = asked_of(tmp_path / "bundle", "green")
    metrics = judged(bundle, tagged, tmp_path / "score")
    rows = pq.read_table(tmp_path / "score/predictions.parquet").to_pylist()
    assert {(tuple(row["tags_answer"]), row["tags_accepted"], row["tags_refused"]) for row in rows} == {
        ((), False, "not_applicable")
    }
    assert (metrics["tags"]["products"], metrics["tags"]["accuracy"]) == (0, None)
    assert "tags: told not applicable 13 times, 100.0% rightly; 100.0% of 13 are found" in capsys.readouterr().out
    # Held against one that answers all of them: none of those is right.
    before = random_bundle(tmp_path / "before", [0.0, 0.0, 1.0])
    page = tmp_path / "report.html"
    command = [str(bundle), "--data", str(tagged), "--before", str(before), "--output", str(page)]
    assert report_main(command) == 0 and page.is_file()


def test_multi_label_answers_are_judged_by_the_bundles_thresholds(tagged: Path, tmp_path: Path):
    everything = judged(random_bundle(tmp_path / "all", [0.0, 0.0, 0.0]), tagged, tmp_path / "score-all")
    nothing = judged(random_bundle(tmp_path / "none", [1.0, 1.0, 1.0]), tagged, tmp_path / "score-none")
    # of 10 products with tags 5 are new, 4 on sale, 3 neither, none is never
    assert everything["tags"]["micro_f1"] == pytest.approx(2 * 9 / (30 + 9))
    assert everything["tags"]["macro_f1"] == pytest.approx((2 * 5 / 15 + 2 * 4 / 14 + 0) / 3)
    assert nothing["tags"]["micro_f1"] == 0.0
    assert nothing["tags"]["accuracy"] == pytest.approx(3 / 10)
    for key in ("mean_average_precision", "recall_at_90_precision", "calibration_error"):
        assert everything["tags"][key] == nothing["tags"][key], key


def test_another_score_is_replaced_and_nothing_else(tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle, taken = random_bundle(tmp_path / "bundle", []), tmp_path / "taken"
    judged(bundle, tagged, tmp_path / "score")
    judged(bundle, tagged, tmp_path / "score")
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main([str(bundle), "--data", str(tagged), "--output", str(taken)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds something else than a score" in error
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("tags", "difference"),
    [
        (MultiLabel(name="tags", labels=["new", "sale"]), "tags has 'never'"),
        (MultiLabel(name="tags", labels=["new", "sale", "old"]), "tags has 'never' and lacks 'old'"),
        (MultiLabel(name="tags", labels=["sale", "new", "never"]), "tags has its labels in another order"),
        (SingleLabel(name="tags", labels=["new", "sale"]), "tags is multi_label in place of single_label"),
        (SingleLabel(name="size", labels=["s", "m"]), "tasks color, tags in place of color, size"),
    ],
)
def test_other_tasks_are_refused_with_the_difference(
    tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tags: Task, difference: str
):
    tasks, bundle = [COLOR, tags], tmp_path / "bundle"
    save_bundle(bundle, tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    assert main([str(bundle), "--data", str(tagged), "--output", str(tmp_path / "score")]) == 2
    error = capsys.readouterr().err
    assert f"its tasks or labels are not those of the bundle {bundle}: {difference}; --labels-of {bundle} " in error
    assert not (tmp_path / "score").exists()


def test_a_table_of_its_own_is_scored_with_the_labels_of_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Its labels are fewer, in another case and order, and one that the bundle does not know costs its row."""
    bundle, rows = random_bundle(tmp_path / "bundle", [0.5, 0.5, 0.5]), good_rows(tmp_path, 6)
    for row, color in zip(rows, ["BLUE", "red", "Red", "mauve", "", "red"], strict=True):
        row[3] = color
    table, output = write_csv(tmp_path / "shop.csv", rows), tmp_path / "data"
    columns = ["--id-column", "sku", "--image-column", "photo", "--title-column", "name"]
    options = ["--csv", str(table), *columns, "--labels-of", str(bundle), "--output", str(output)]
    assert prepare(["catalog", *options, "--merge-case"]) == 0
    assert f"next: cma-clip score {bundle} --data {output}" in capsys.readouterr().out
    info = DatasetInfo.read(output)
    assert info.tasks.label_set_hash == TaskSet([COLOR, TAGS]).label_set_hash and set(info.splits) == {"test"}
    assert info.splits["test"].label_counts["color"] == {"red": 3, "blue": 1, "green": 0}
    assert rejects(output) == {(4, "sku3"): "ROW_UNUSABLE: color: label 'mauve' is not among the 3 known ones"}
    assert judged(bundle, output, tmp_path / "score")["color"]["products"] == 4
    for task in ("color:multi_label", "size:single_label"):
        assert prepare(["catalog", *options, "--task", task]) == 2
        assert f"--task {task}: no task of {bundle}, which has color:single_label" in capsys.readouterr().err


def test_one_row_group_after_the_other_is_held_while_a_split_is_scored(tagged: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 2)
    data, held = write_tagged(tmp_path / "data"), []
    read = ProductDataset._read

    def counted(self, group, columns=None):
        held.append((len(self._cache), columns))
        return read(self, group, columns)

    monkeypatch.setattr(ProductDataset, "_read", counted)
    judged(random_bundle(tmp_path / "bundle", []), data, tmp_path / "score")
    whole, narrow = ([n for n, columns in held if bool(columns) == is_narrow] for is_narrow in (False, True))
    # Twice: for the answers, and for what the report shows of the products.
    assert len(whole) == len(narrow) == 14 and max(whole) <= 2
    assert all("image" not in columns for _, columns in held if columns)


def test_thresholds_that_accept_everything_or_nothing_are_said(
    tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tasks = [COLOR.model_copy(update={"thresholds": [1.0]}), TAGS.model_copy(update={"thresholds": [0.5] * 3})]
    save_bundle(tmp_path / "bundle", tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    judged(tmp_path / "bundle", tagged, tmp_path / "score")
    notes = json.loads((tmp_path / "score/metrics.json").read_text())["notes"]
    assert notes == ["color: no validation score reaches 90% precision, so none below 1.0 is accepted"]
    assert "note: color: no validation score reaches 90% precision" in capsys.readouterr().out
    judged(random_bundle(tmp_path / "everything", []), tagged, tmp_path / "score")
    assert "note: color: no validation product has its label, so every answer is accepted" in capsys.readouterr().out


def test_numbers_gone_wrong_are_told_by_the_loss(tagged: Path):
    """Training stops at a loss that is no number; what is measured beside it must not stop it before."""
    nothing = torch.full((4, 6), float("nan"))
    targets = torch.tensor([[1.0, 0, 0, 1, 0, 0]]).repeat(4, 1)
    answers = Predictions(nothing, torch.ones(4, 2), targets, torch.ones(4, 2).bool(), [])
    loss, _ = loss_and_metrics(answers, fit_thresholds(nothing, targets, TaskSet([COLOR, TAGS])))
    assert loss != loss


def test_training_with_class_weights_keeps_thresholds_and_the_loss_it_lowers(
    tagged: Path, tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
):
    weights = tmp_path / "clip.pt"
    torch.save(tiny_network(tiny_config()).towers.clip.state_dict(), weights)
    options = ("--class_weights", "inverse_frequency", "--model.pretrained", str(weights))
    output = tmp_path / "run"
    arguments = ["--stage", "warmup", "--config", str(RECIPE), "--data", str(tagged), "--output", str(output)]
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    command = [sys.executable, "-m", "train.main", *arguments, *options]
    result = subprocess.run(command, cwd=ROOT, env=environment() | alone, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    config = BundleConfig.read(output / "bundle/config.json")
    answers = validation_answers(output / "bundle", tagged)
    weight = torch.tensor([1.0, 1.0, 1.0, 18 / 9, 18 / 6, 1.0])
    loss, _ = loss_and_metrics(answers, config.tasks, weight)
    assert config.provenance["validation_loss"] == pytest.approx(loss, rel=1e-4)
    trained_by = config.provenance["trained_by"]
    assert trained_by == {"ranks": 1, "device": platform.machine(), "torch": torch.__version__, "commit": commit()}
    assert config.provenance["validation_loss"] != pytest.approx(loss_and_metrics(answers, config.tasks)[0], rel=1e-2)
    assert [len(task.thresholds) for task in config.tasks] == [1, 3] and config.tasks[1].thresholds[2] == 0.5
    lines = [json.loads(line) for line in (output / "warmup/log.jsonl").read_text().splitlines()]
    best = [line for line in lines if line.get("best")][-1]
    # A threshold is some product's own score, which another batch size may round to the other side of it.
    below = [task.model_copy(update={"thresholds": [t - 1e-5 for t in task.thresholds]}) for task in config.tasks]
    metrics = loss_and_metrics(answers, TaskSet(below), weight)[1]
    assert best["tags/micro_f1"] == pytest.approx(metrics["tags"]["micro_f1"])
    scored = judged(output / "bundle", tagged, tmp_path / "score")
    assert scored["tags"]["products"] == 10
    # going on without the weights would be another training
    capsys.readouterr()
    assert train_main([*arguments, "--model.pretrained", str(weights)]) == EXIT_BAD_INPUT
    assert "(class_weights: inverse_frequency -> none)" in capsys.readouterr().err


def validation_answers(directory: Path, data: Path) -> Predictions:
    bundle = load_bundle(directory)
    dataset = ProductDataset(data, "validation", bundle.config.preprocess, bundle.tokenizer)
    return predict(
        lambda batch: bundle.network(batch.input_ids_BT, batch.pixels_BHWC, batch.present_B2),
        dataset,
        4,
        Ranks(0, 1, torch.device("cpu")),
        workers=0,
    )


def test_a_batch_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for size in ("0", "-1"):
        assert main([str(tmp_path), "--data", str(tmp_path), "--batch_size", size]) == 2
        assert capsys.readouterr().err == f"error: --batch_size {size}: expected 1 or more\n"


def test_the_loss_weighs_multi_label_tasks_as_training_does():
    tasks = TaskSet([COLOR, TAGS]).with_mismatch()
    torch.manual_seed(0)
    logits, targets = torch.randn(8, tasks.num_columns), torch.zeros(8, tasks.num_columns)
    targets[:, 0] = 1
    answers = Predictions(logits, torch.full((8, 3), 0.5), targets, torch.ones(8, 2, dtype=torch.bool), [])
    once, five_times = (loss_and_metrics(answers, tasks, None, weight)[0] for weight in (1.0, 5.0))
    color, tags = len(COLOR.labels), len(TAGS.labels)
    columns = slice(color, color + tags)
    of_tags = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, columns], targets[:, columns]).item()
    of_color = torch.nn.functional.cross_entropy(logits[:, :color], targets[:, :color]).item()
    assert once == pytest.approx(of_color + of_tags, rel=1e-5), "a mismatch has no part in it"
    assert five_times == pytest.approx(of_color + 5 * of_tags, rel=1e-5)
