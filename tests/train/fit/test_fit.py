"""`cma-clip fit` from a CSV to a judged bundle: begun by the real launcher, stopped, gone on with, done once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from rank_processes import Ranks, forked
from shop import shop_rows, write_shop
from tiny import ROOT, environment

from cma_clip.command import EXIT_STOPPED
from model.bundle import load_bundle
from model.config import BundleConfig
from train import fit
from train.children import Children
from train.fit.__main__ import main
from train.stage_state import read_state

FEW = ["--stages.warmup.epochs=1", "--stages.end_to_end.epochs=1"]
LARGE = ["--stages.warmup.batch_size=32", "--no-export"]


def arguments(table: Path, output: Path) -> list[str]:
    return [str(table), "--output", str(output), "--task", "colour=Main Colour", *FEW, *LARGE]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Table and output, finished in two sittings, the first ended by Ctrl-C in the first stage."""
    folder = tmp_path_factory.mktemp("fit")
    table, output = write_shop(folder / "shop.csv", shop_rows(folder, 200)), folder / "out"
    words = [sys.executable, "-m", "train.fit", *arguments(table, output)]
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        ends, begun = time.monotonic() + 180, output / "warmup/recipe.yaml"
        while not begun.exists() and time.monotonic() < ends and first.poll() is None:
            time.sleep(0.1)
        first.send_signal(signal.SIGINT)
        assert first.wait(90) == EXIT_STOPPED, (folder / "first.log").read_text()[-2000:]
    said = (folder / "first.log").read_text()
    assert "[3/5] warmup: about" in said and said.splitlines()[-1].endswith("the same command goes on from there")
    assert not read_state(output / "end_to_end") and "colour (single_label, 3 labels)" in said
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(Children, "_wait", forked)
        assert main(arguments(table, output)) == 0
    return table, output


def test_what_was_done_is_not_done_again(fitted, capsys):
    table, output = fitted
    files = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert main(arguments(table, output)) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("[")] == [
        f"[{n}/5] {step}: done before"
        for n, step in enumerate(["prepare", "rivals", "warmup", "end_to_end", "score"], start=1)
    ]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == files


def test_it_ends_with_the_network_beside_its_rivals(fitted, capsys):
    table, output = fitted
    assert main(arguments(table, output)) == 0
    lines = capsys.readouterr().out.splitlines()
    head, row = next((line, lines[n + 1]) for n, line in enumerate(lines) if "image features" in line)
    assert head.endswith("CMA-CLIP") and row.startswith("colour")
    metrics = json.loads((output / "score/metrics.json").read_text())["tasks"]["colour"]
    assert row.endswith(f"{metrics['recall_at_90_precision']:.3f}, {metrics['mean_average_precision']:.3f}")
    assert any(line.startswith(f"bundle: {output}/bundle") for line in lines)


def test_the_bundle_answers(fitted):
    table, output = fitted
    bundle = load_bundle(output / "bundle")
    (answer,) = bundle.classify([("Dress in red", (table.parent / "photos/0.jpg").read_bytes())])
    assert answer["colour"]["label"] in ("red", "blue", "green") and "mismatch" in answer
    assert bundle.config.provenance["stage"] == "end_to_end"  # a single task needs no tuning


def test_the_single_commands_go_on_with_its_recipe(fitted):
    _, output = fitted
    words = ["train.launch", "--num_accelerators=2", "--", "--stage", "warmup", "--config", str(output / "recipe.yaml")]
    words += ["--data", str(output / "data"), "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        ranks = Ranks(words[3:], output.parent / "said-again")
        assert ranks.wait() == [0, 0]
    assert "has already finished" in ranks.said("stdout")


def test_from_python_with_a_table_in_memory(fitted, tmp_path, monkeypatch):
    table, output = fitted
    kept: list[list[str]] = []
    monkeypatch.setattr("train.fit.__main__.fit_catalog", kept.append)
    bundle = fit.fit(pa.table({"photo": ["x.jpg"], "tags": ["a"]}), tmp_path / "mine", tasks=["tags"], minutes=5)
    words = [str(tmp_path / "mine.parquet"), "--output", str(tmp_path / "mine"), "--task", "tags"]
    assert kept == [[*words, "--no-export", "--minutes", "5", "--image-root", "."]]
    assert bundle == tmp_path / "mine/bundle"
    written = (tmp_path / "mine.parquet").stat().st_mtime_ns
    fit.fit(pa.table({"photo": ["x.jpg"], "tags": ["a"]}), tmp_path / "mine")
    assert (tmp_path / "mine.parquet").stat().st_mtime_ns == written  # else its work would not go on


@pytest.mark.soak
def test_stopped_at_every_step_it_ends_with_the_same_weights(tmp_path):
    """Each step is stopped by Ctrl-C 1 s after it has begun."""
    table = write_shop(tmp_path / "shop.csv", shop_rows(tmp_path, 200))
    whole, often, deploy = tmp_path / "whole", tmp_path / "often", str(tmp_path / "deploy")
    tasks = ["--task", "colour=Main Colour", "--task", "tags", *FEW, LARGE[0], "--deploy", deploy]

    def start(output: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "train.fit", str(table), "--output", str(output), *tasks]
        return subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)

    assert start(whole).wait(600) == 0
    steps = ("prepare", "rivals", "warmup", "end_to_end", "tuning", "score", "export")
    (tmp_path / "deploy/bundle.json").unlink()
    for number, step in enumerate(steps, start=1):
        process = start(often)
        assert process.stdout
        said = next(line for line in process.stdout if line.startswith(f"[{number}/7] {step}: about"))
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == EXIT_STOPPED, said
    last = start(often)
    out, _ = last.communicate(timeout=600)
    assert last.returncode == 0 and "[7/7] export: took" in out
    hashes = [BundleConfig.read(output / "bundle/config.json").weights_sha256 for output in (whole, often)]
    assert hashes[0] == hashes[1] and (tmp_path / "deploy/bundle.json").exists()


def test_a_step_that_fails_is_named_with_its_reason(tmp_path, capsys):
    rows = shop_rows(tmp_path, 120)
    for row in rows[10:]:
        (tmp_path / row["photo"]).write_bytes(b"no image")
    words = arguments(write_shop(tmp_path / "shop.csv", rows), tmp_path / "out")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: prepare: ") and "rejects" in line and f"{tmp_path}/out/logs/prepare.log" in line
