"""A task joins a trained bundle: the others answer the same bit for bit, and it as the network it was trained in."""

from __future__ import annotations

import csv
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from cached_networks import FORMS, PACE, form_of
from data_set_files import rows_of
from tiny import tiny_bundle_config, tiny_network

from model.bundle import Bundle, load_bundle, save_bundle
from model.cma_clip import CMAClip
from model.config import BundleConfig
from model.preprocess import TitleTokenizer
from model.tasks import Mismatch, MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from serve.export.parity import random_inputs
from train.add.__main__ import main
from train.add.joined import bundle_without
from train.add.labels import read_labels
from train.add.regrouped import network_of, regrouped
from train.add.remove import main as remove
from train.cache.make import make_cache

SLEEVE = SingleLabel(name="sleeve", labels=["long", "short", "none"])


def shaken(network: CMAClip, tasks: int) -> CMAClip:
    """With weights that no two tasks share."""
    with torch.no_grad():
        for part in filter(None, (network.modality_heads, network.wide)):
            for own in (tensor for place in range(tasks) for tensor in part.of_task(place)):
                own.copy_(torch.randn_like(own) / 4)
    return network.eval()


def inputs_of(config: BundleConfig) -> list[torch.Tensor]:
    inputs = [torch.from_numpy(array) for array in random_inputs(config, 7, 16, seed=1)]
    inputs[2][0], inputs[2][1] = torch.tensor([True, False]), torch.tensor([False, True])
    return inputs


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_other_tasks_answer_the_same_bit_for_bit(form: str):
    tasks = [SingleLabel(name="color", labels=["a", "b", "c"]), MultiLabel(name="tags", labels=["x", "y"])]
    tasks += [Mismatch()] if form == "robust" else []
    config = tiny_bundle_config(FORMS[form], TaskSet(tasks))
    network = shaken(tiny_network(FORMS[form], tasks), len(tasks))
    assert isinstance(network, CMAClip)
    alone = shaken(network_of(config, network, [SLEEVE]), 1)
    own = [(network, place) for place in range(len(tasks))]
    grown = regrouped(config, network, [*tasks, SLEEVE], [*own, (alone, 0)])
    inputs, columns = inputs_of(config), TaskSet(tasks).num_columns
    before, after, new = (each(*inputs) for each in (network, grown, alone))
    assert torch.equal(after.logits_BC[:, :columns], before.logits_BC)
    assert torch.equal(after.text_share_BK[:, :-1], before.text_share_BK)
    assert torch.equal(after.text_share_BK[:, -1:], new.text_share_BK)
    torch.testing.assert_close(after.logits_BC[:, columns:], new.logits_BC)
    assert before.logits_BC.std() > 0.05 and new.logits_BC.std() > 0.05

    # In the place of another one, and taken out again.
    replaced = regrouped(config, network, [SLEEVE, *tasks[1:]], [(alone, 0), *own[1:]])
    logits = replaced(*inputs).logits_BC
    torch.testing.assert_close(logits[:, :3], new.logits_BC)
    assert torch.equal(logits[:, 3:5], before.logits_BC[:, 3:5])
    bundle = Bundle(
        config.model_copy(update={"tasks": TaskSet([*tasks, SLEEVE])}),
        grown,
        TitleTokenizer(build_tokenizer(config.preprocess.vocab_size), config.preprocess),
    )
    left, without = bundle_without(bundle, "sleeve")
    assert list(left.tasks) == tasks and left.provenance == {"removed": [{"task": "sleeve"}]}
    assert torch.equal(without(*inputs).logits_BC, before.logits_BC)
    assert without.state_dict().keys() == network.state_dict().keys()


def write_table(path: Path, rows: list[list[str]], header: tuple[str, str] = ("id", "kind_of")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def labels(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new attribute that titles tell: whether the pattern's name is in the first half of the alphabet."""
    rows = rows_of(data, "train") + rows_of(data, "validation") + rows_of(data, "test")
    table = [[row["id"], "early" if row["pattern"] < "f" else "late"] for row in rows if row["pattern"]]
    return write_table(tmp_path_factory.mktemp("labels") / "labels.csv", table[:-3] + [["unknown", "late"]])


@pytest.fixture(scope="module")
def added(bundle_dir: Path, data: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    options = ["--data", str(data), "--csv", str(labels), "--task", "kind_of:single_label", "--epochs", "6"]
    options += ["--cache", str(folder / "cache"), "--output", str(folder / "bundle")]
    with redirect_stdout((folder / "said").open("w")):
        assert main([str(bundle_dir), *options]) == 0
    return folder


def test_a_bundle_takes_up_a_task(added: Path, bundle_dir: Path, products: list[tuple[str, bytes]]):
    assert "note: 1 labelled ids are no products of" in (added / "said").read_text()
    old, new = load_bundle(bundle_dir), load_bundle(added / "bundle")
    assert [task.name for task in new.config.tasks] == ["color", "pattern", "kind_of"]
    assert list(new.config.tasks)[:2] == list(old.config.tasks)
    before, after = old.classify(products[:9]), new.classify(products[:9])
    assert [{name: answer[name] for name in ("color", "pattern")} for answer in after] == before
    task = new.config.tasks[2]
    assert task.labels == ["early", "late"] and task.acceptance and task.thresholds
    (said,) = new.config.provenance["added"]
    assert said["task"] == "kind_of" and said["products"] > 100 and said["trained_by"]["ranks"] == 1
    assert new.config.reference and old.config.reference
    counted = new.config.reference.tasks["kind_of"]
    assert sum(counted.labels.values()) == sum(counted.text_share) == 40
    assert {**new.config.reference.tasks, "kind_of": None} == {**old.config.reference.tasks, "kind_of": None}
    state = new.network.state_dict()
    for name, tensor in old.network.state_dict().items():
        assert torch.equal(tensor, state[name][: len(tensor)] if name.startswith("modality_heads.") else state[name])


def test_the_cache_serves_the_next_one(added: Path, bundle_dir: Path, data: Path, tmp_path: Path, capsys):
    """And a column of the data set; --replace."""
    options = [str(bundle_dir), "--data", str(data), "--cache", str(added / "cache"), "--output", str(tmp_path / "new")]
    assert main([*options, "--task", "pattern", "--replace", "--epochs", "1", "--batch_size", "16"]) == 0
    said = capsys.readouterr().out
    assert f"{added / 'cache'}: already there" in said and "pattern: 160 labelled products in the train split" in said
    assert "validation split of" in said and "test split of" in said
    old, new = load_bundle(bundle_dir), load_bundle(tmp_path / "new")
    assert new.config.tasks.label_set_hash == old.config.tasks.label_set_hash
    assert new.config.tasks[0] == old.config.tasks[0]
    assert torch.equal(new.network.modality_heads.hidden_weight[0], old.network.modality_heads.hidden_weight[0])
    assert not torch.equal(new.network.modality_heads.hidden_weight[1], old.network.modality_heads.hidden_weight[1])


def test_a_removed_one_leaves_the_bundle_as_it_was(added: Path, bundle_dir: Path, tmp_path: Path, capsys):
    assert remove([str(added / "bundle"), "--task", "kind_of", "--output", str(tmp_path / "bundle")]) == 0
    old, new = (json.loads((path / "config.json").read_text()) for path in (bundle_dir, tmp_path / "bundle"))
    assert {**new, "provenance": 0} == {**old, "provenance": 0}  # the weights' sha256 too
    assert remove([str(added / "bundle"), "--task", "size", "--output", str(tmp_path / "other")]) == 2
    assert "--task size: the bundle has color, pattern, kind_of" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_it_may_have_a_condition(added: Path, bundle_dir: Path, data: Path, labels: Path, tmp_path: Path, capsys):
    options = ["--data", str(data), "--cache", str(added / "cache"), "--csv", str(labels), "--epochs", "1"]
    options += ["--task", "kind_of:single_label", "--only-if", "pattern", "plain", "striped"]
    assert main([str(bundle_dir), *options, "--output", str(tmp_path / "new")]) == 0
    assert "note: kind_of: its promise is decided by products that it is asked of" in capsys.readouterr().out
    task = load_bundle(tmp_path / "new").config.tasks[2]
    assert task.only_if and (task.only_if.task, task.only_if.labels) == ("pattern", ["plain", "striped"])
    assert remove([str(tmp_path / "new"), "--task", "pattern", "--output", str(tmp_path / "no")]) == 2
    assert "task kind_of: only if pattern in plain, striped: no such task" in capsys.readouterr().err


def test_a_network_with_a_wide_part_takes_one_up_too(data: Path, tmp_path: Path):
    network, model, tasks = form_of("robust", data)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(model, tasks), shaken(network, len(tasks)))
    make_cache(tmp_path / "bundle", data, "vectors", tmp_path / "cache", PACE)
    options = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "new")]
    rows = rows_of(data, "train") + rows_of(data, "validation")
    kinds = [[row["id"], "plain" if row["pattern"] == "plain" else "other"] for row in rows]
    table = write_table(tmp_path / "kinds.csv", kinds)
    assert (
        main(
            [str(tmp_path / "bundle"), *options, "--csv", str(table), "--task", "kind_of:multi_label", "--epochs", "2"]
        )
        == 0
    )
    old, new = load_bundle(tmp_path / "bundle"), load_bundle(tmp_path / "new")
    assert [task.kind for task in new.config.tasks] == ["single_label", "single_label", "mismatch", "multi_label"]
    inputs, columns = inputs_of(old.config), old.config.tasks.num_columns
    with torch.no_grad():
        after, before = (each.network(*inputs).logits_BC[:, :columns].numpy() for each in (new, old))
    after, before = old.config.tasks.scores(after), old.config.tasks.scores(before)
    assert np.abs(after - before).max() < 1e-6  # a matrix product of more columns may add in another order
    assert new.network.wide.strengths[:, 3].min() > 0 and new.network.wide.words[:, columns].any()


def test_what_does_not_fit_is_one_line(added: Path, bundle_dir: Path, data: Path, tmp_path: Path, capsys):
    def refused(
        *options: str, table: list[list[str]] | None = None, header: tuple[str, str] = ("id", "kind_of")
    ) -> str:
        given = ["--csv", str(write_table(tmp_path / "t.csv", table, header))] if table is not None else []
        command = [str(bundle_dir), "--data", str(data), "--cache", str(added / "cache"), *options, *given]
        assert main([*command, *(() if "--output" in options else ("--output", str(tmp_path / "no")))]) == 2
        said = capsys.readouterr().err
        assert not (tmp_path / "no").exists() and said.count("error: ") == 1
        return said.rpartition("error: ")[2].strip()

    task = ("--task", "kind_of:single_label")
    assert refused("--task", "color") == "--task color: the bundle has it; --replace trains it anew"
    assert refused("--task", "kind_of").endswith("has labels of color, pattern only; --csv FILE gives others by id")
    said = refused("--task", "color:multi_label", "--replace")
    assert said.startswith("--task color:multi_label: it is single_label in")
    assert refused("--task", "kind_of", table=[["1", "a"]]).startswith("--task kind_of: expected [NAME=]COLUMN:KIND")
    said = refused(*task, "--replace", table=[["1", "a"], ["2", "b"]])
    assert said == "--replace: the bundle has no task kind_of; it has color, pattern"
    said = refused(*task, table=[["1", "a"], ["2", "b"]])
    assert said.endswith("0 products of the train split have a label of kind_of, 10 are needed")
    assert refused(*task, table=[["1", "a"], ["2", "a"]]).startswith(
        "task kind_of: a single_label task needs 2 or more"
    )
    said = refused(*task, table=[["1", "a"], ["1", "b"]])
    assert said.endswith("t.csv: row 2: id '1' has another label in a row before; keep one of them")
    assert refused(*task, table=[["1", "a"]], header=("sku", "kind_of")).endswith("no column 'id'; it has kind_of, sku")
    assert refused(*task, "--output", str(added)).endswith(": is there; name a new directory")
    rows = [["1", "a"], ["2", "b"]]
    said = refused(*task, "--only-if", "size", "s", table=rows)
    assert said == "task kind_of: only if size in s: no such task; there are color, pattern, kind_of"
    assert refused(*task, "--epochs", "0") == "--epochs and --batch_size are 1 or more"


def test_labels_by_id(tmp_path: Path):
    from dataset.labels import parse_task

    table = write_table(tmp_path / "t.csv", [["1", "b"], ["2", ""], ["1", "b"], ["3", "a"]])
    task, labels = read_labels(table, parse_task("kind_of:single_label"))
    assert task.labels == ["a", "b"] and labels == {"1": "b", "3": "a"}
    table = write_table(tmp_path / "t.csv", [["1", "b|a"], ["2", "[]"]], ("id", "k"))
    task, labels = read_labels(table, parse_task("tags=k:multi_label"))
    assert (task.name, task.labels, labels) == ("tags", ["a", "b"], {"1": ["b", "a"], "2": []})
