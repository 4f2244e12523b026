"""What `cma-clip fit` settles before it works: sizes, time, and whether the output is of the same plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shop import shop_rows, write_shop

from cma_clip.command import EXIT_BAD_INPUT, split_at_dashes
from dataset.format import DatasetInfo
from train.fit import plan as plans
from train.fit.__main__ import _parser, main
from train.fit.sizes import RULES, STAGES, epochs_for, training_seconds, within
from train.fit.steps import steps
from train.prepare.__main__ import main as prepare
from train.recipe import load_recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    return write_shop(folder / "shop.csv", shop_rows(folder, 120))


@pytest.fixture(autouse=True)
def pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "seconds_per_product", lambda *_: 0.02)
    monkeypatch.setattr(plans, "usable_cores", lambda: 6)


def settled(table: Path, output: Path, *more: str) -> plans.Plan:
    own, further = split_at_dashes([str(table), "--output", str(output), *more])
    return plans.settle(*_parser().parse_known_args(own), further)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.parametrize("products", [80, 10_000, 10_001, 40_000, 10**8])
def test_every_size_has_a_rule(products):
    epochs = epochs_for(products)
    assert tuple(epochs) == STAGES and min(epochs.values()) >= 1
    rule = next(rule for rule in RULES if products <= rule.products)
    assert epochs["end_to_end"] == rule.end_to_end


def test_the_more_products_the_fewer_epochs():
    for fewer, more in zip(RULES, RULES[1:], strict=False):
        assert fewer.products < more.products
        assert all(getattr(fewer, stage) >= getattr(more, stage) for stage in STAGES)


@pytest.mark.parametrize("budget_s", [0.0, 60.0, 200.0, 500.0, 10_000.0])
def test_a_budget_is_kept_or_every_stage_has_one_epoch(budget_s):
    full = epochs_for(3_000)
    epochs = within(full, seconds_per_epoch=20.0, start_s=10.0, budget_s=budget_s)
    took = training_seconds(epochs, 20.0, 10.0)
    assert took <= budget_s or set(epochs.values()) == {1} or any(count == 1 for count in epochs.values())
    assert all(1 <= epochs[stage] <= full[stage] for stage in full)
    assert budget_s < 10_000 or epochs == full


def test_the_plan_says_what_it_is_of(table, tmp_path):
    plan = settled(table, tmp_path / "out", "--task", "tags")
    assert plan.products == 120 and list(plan.epochs) == ["warmup", "end_to_end"]  # one task: no tuning
    assert (plan.ranks, plan.threads) == (4, 1)
    assert list(plan.seconds) == ["prepare", "rivals", "warmup", "end_to_end", "score", "export"]
    assert plan.seconds["end_to_end"] == pytest.approx(plans.START_S + 8 * 0.02 * 120 * 0.8 / 4)
    assert "task tags (multi_label" in plan.text() and "end_to_end 8" in plan.text()
    recipe = load_recipe(tmp_path / "out/recipe.yaml", [])
    assert recipe.stages.end_to_end.epochs == 8 and recipe.model.wide and recipe.mismatch


def test_options_lie_over_the_rule_of_the_size(table, tmp_path):
    plan = settled(table, tmp_path / "out", "--stages.end_to_end.epochs=2", "--model.wide=false", "--no-rivals")
    recipe = load_recipe(tmp_path / "out/recipe.yaml", [])
    assert plan.epochs["end_to_end"] == 2 == recipe.stages.end_to_end.epochs and plan.epochs["warmup"] == 2
    assert not recipe.model.wide and "rivals" not in plan.seconds


def test_minutes_shorten_the_training(table, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "seconds_per_product", lambda *_: 1.0)
    plan = settled(table, tmp_path / "out", "--minutes", "5")
    assert 1 < plan.epochs["end_to_end"] < 8 and sum(plan.seconds.values()) < 5 * 60
    assert load_recipe(tmp_path / "out/recipe.yaml", []).stages.end_to_end.epochs == plan.epochs["end_to_end"]


def test_the_options_of_a_recipe_of_ones_own_stand(table, tmp_path):
    plan = settled(table, tmp_path / "out", "--recipe", "tests/support/tiny.yaml")
    assert plan.epochs == {"contrastive": 1, "warmup": 2, "end_to_end": 1, "tuning": 1}


def test_no_batch_is_larger_than_the_products_fill_twice(table, tmp_path):
    settled(table, tmp_path / "out", "--recipe", "train/recipes/apa.yaml", "--model.pretrained=null", "--minutes=1")
    stages = load_recipe(tmp_path / "out/recipe.yaml", []).stages
    assert stages.warmup.batch_size == stages.contrastive.batch_size == 32 and stages.warmup.epochs == 1


def test_a_prepared_data_set_is_taken_as_it_is(table, tmp_path):
    first = settled(table, tmp_path / "first")
    assert prepare(first.prepare) == 0
    plan = settled(first.data, tmp_path / "second", "--pretrain", str(first.data))
    assert plan.data == first.data and plan.prepare == [] and plan.columns == {}
    assert list(plan.seconds)[0] == "rivals" and plan.products == 120
    words = {step.name: step.words for step in steps(plan, tmp_path / "second", tmp_path / "deploy")}
    assert words["contrastive"][-3] == str(plan.pretrain) and words["export"][0] == "serve.export"


def test_without_a_test_split_validation_judges(table, tmp_path):
    plan = settled(table, tmp_path / "out", "--", "--test", "0")
    assert prepare(plan.prepare) == 0
    words = {step.name: step.words for step in steps(plan, tmp_path / "out", tmp_path / "deploy")}
    for name in ("rivals", "score"):
        assert words[name][words[name].index("--split") + 1] == "validation"


def test_pretrained_towers_need_no_contrastive(table, tmp_path):
    weights = tmp_path / "clip.safetensors"
    plan = settled(table, tmp_path / "out", f"--model.pretrained={weights}")
    assert list(plan.epochs) == ["warmup", "end_to_end", "tuning"]


def test_captions_are_learned_first_whatever_the_towers_have(table, tmp_path):
    captions = settled(table, tmp_path / "captions")
    assert prepare(captions.prepare) == 0
    for number, more in enumerate([[], [f"--model.pretrained={tmp_path / 'clip.safetensors'}"]]):
        plan = settled(table, tmp_path / f"out{number}", "--pretrain", str(captions.data), *more)
        assert list(plan.epochs) == ["contrastive", "warmup", "end_to_end", "tuning"]
        assert plan.epochs["contrastive"] == 8


def test_towers_that_alone_see_the_products_are_trained_first(table, tmp_path):
    alone = ["--model.wide=false", "--model.convolutions=false"]
    assert "contrastive" in settled(table, tmp_path / "out", *alone).epochs
    assert "contrastive" not in settled(table, tmp_path / "other", alone[0]).epochs


def test_the_same_command_goes_on_and_another_is_refused(table, tmp_path, capsys):
    output = tmp_path / "out"
    plan = settled(table, output, "--task", "tags")
    assert settled(table, output, "--task", "tags", "--deploy", "elsewhere") == plan
    before = (output / "plan.json").read_bytes()
    arguments = [str(table), "--output", str(output)]
    assert main([*arguments, "--task", "Main Colour"]) == EXIT_BAD_INPUT
    assert "begun with other settings (task); --overwrite begins anew" in said(capsys)
    table_of_more = write_shop(tmp_path / "shop.csv", shop_rows(tmp_path, 121))
    assert main([str(table_of_more), *arguments[1:], "--task", "tags"]) == EXIT_BAD_INPUT
    assert "(table, what the table holds)" in said(capsys)
    assert (output / "plan.json").read_bytes() == before
    settled(table, output, "--task", "Main Colour", "--overwrite")
    assert json.loads((output / "plan.json").read_text())["given"]["task"] == ["Main Colour"]


def test_corrections_are_those_it_was_begun_with(table, tmp_path, capsys):
    path = tmp_path / "decided.csv"
    for output, words in ((tmp_path / "0", ["--corrections", str(path)]), (tmp_path / "1", [f"--corrections={path}"])):
        path.write_text("id,tags,tags_decided\ns0,coat,true\n")
        more = ["--task", "tags", "--", "--min-products", "1", *words]
        plan = settled(table, output, *more)
        assert settled(table, output, *more) == plan and prepare(plan.prepare) == 0
        assert "coat" in DatasetInfo.read(output / "data").tasks[0].labels
        path.write_text("id,tags,tags_decided\ns0,cape,true\n")
        capsys.readouterr()
        assert main([str(table), "--output", str(output), *more]) == EXIT_BAD_INPUT
        assert "begun with other settings (what the corrections hold); --overwrite begins anew" in said(capsys)
    path.unlink()
    assert main([str(table), "--output", str(tmp_path / "2"), "--", "--corrections", str(path)]) == EXIT_BAD_INPUT
    assert "decided.csv: no such file" in said(capsys) and not (tmp_path / "2").exists()


def test_options_of_prepare_are_of_no_use_to_a_prepared_data_set(table, tmp_path, capsys):
    first = settled(table, tmp_path / "first")
    assert prepare(first.prepare) == 0
    capsys.readouterr()
    words = [str(first.data), "--output", str(tmp_path / "second"), "--", "--merge-case"]
    assert main(words) == EXIT_BAD_INPUT
    assert f"--merge-case: {first.data} is prepared already; expected a table" in said(capsys)


def test_overwriting_removes_only_what_a_fit_made(table, tmp_path):
    output = tmp_path / "out"
    settled(table, output)
    (output / "notes.txt").write_text("mine")
    (output / "warmup").mkdir()
    settled(table, output, "--overwrite")
    assert (output / "notes.txt").read_text() == "mine" and not (output / "warmup").exists()


def test_a_directory_of_something_else_is_left_alone(table, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert main([str(table), "--output", str(tmp_path), *more]) == EXIT_BAD_INPUT
        assert "holds something else" in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dry_run_writes_nothing(table, tmp_path, capsys):
    assert main([str(table), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "120 products" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("more", "expected"), [
    (["--minutes", "0"], "--minutes 0.0: expected more than 0"),
    (["--minutes", "nan"], "--minutes nan: expected more than 0"),
    (["--serve", "--no-export"], "--serve and --no-export"),
    (["--stages.end_to_end.epochs=0"], "stages.end_to_end.epochs"),
    (["--epochs", "3"], "epochs"),
        (["--pretrain", "gone"], "gone/dataset.json: no such file"),
(["--recipe", "gone.yaml"], "gone.yaml: no such recipe"),
])  # fmt: skip
def test_wrong_options_are_one_line(table, tmp_path, capsys, more, expected):
    assert main([str(table), "--output", str(tmp_path / "out"), *more]) == EXIT_BAD_INPUT
    assert expected in said(capsys) and not (tmp_path / "out").exists()


def test_a_table_that_is_none_is_one_line(tmp_path, capsys):
    few = write_shop(tmp_path / "few.csv", shop_rows(tmp_path, 20))
    for table, expected in ((few, "20 products; 100 or more"), (tmp_path, "without *.parquet files"),
                            (tmp_path / "gone.csv", "no such file")):  # fmt: skip
        assert main([str(table), "--output", str(tmp_path / "out")]) == EXIT_BAD_INPUT
        assert expected in said(capsys)
