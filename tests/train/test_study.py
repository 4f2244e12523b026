"""A whole study: begun by the real launcher, stopped in the middle, gone on with, and refused when settings change."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import yaml
from rank_processes import forked
from tiny import ROOT, environment

from cma_clip.command import EXIT_BAD_INPUT, EXIT_STOPPED, Stopped
from dataset.format import DatasetInfo
from train.prepare.__main__ import main as prepare
from train.study import __main__ as study
from train.study.plan import Plan, read_study
from train.study.runs import Launcher, measure_again


def study_file(folder: Path, data: Path, **changes: object) -> Path:
    settings = DatasetInfo.read(data).settings
    sizes = {"--size": settings["train"], "--validation": settings["validation"], "--test": settings["test"]}
    source = ["--source", str(data.parent / "source")]
    words = ["apa_mini", *source, *(str(word) for pair in sizes.items() for word in pair)]
    study = {
        "data": {"directory": str(data), "prepare": words},
        "pretrain": {"directory": str(data.parent / "captions"), "prepare": [*words, "--captions"]},
        "recipe": "tests/support/tiny.yaml",
        "seeds": [3],
        "variants": {
            "full": {},
            "probe": {"model.architecture": "clip_linear_probe"},
            "words": {"rival": "tfidf"},
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study | changes))
    return path


def command(file: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "train.study", str(file), "--output", str(output), "--jobs", "2"]


def run_study(file: Path, output: Path, *more: str) -> tuple[int, list[str]]:
    """The same command in this process, its ranks without a launcher; the exit code and the lines that say why."""
    said, handlers = io.StringIO(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.chdir(ROOT)
        patch.setattr(Launcher, "_wait", forked)
        patch.setattr(study, "prepare", lambda data: prepare([*data.prepare, "--output", str(data.directory)]))
        code = study.main([*command(file, output)[3:], *more])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return code, [line for line in said.getvalue().splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def studied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The study's file and its output, finished in two sittings."""
    folder = tmp_path_factory.mktemp("study")
    file, output = study_file(folder, data), folder / "out"
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command(file, output), cwd=ROOT, env=environment(), stdout=log, stderr=log)
        weights, ends = output / "small/towers/clip.safetensors", time.monotonic() + 120
        while not weights.exists() and time.monotonic() < ends and first.poll() is None:
            time.sleep(0.2)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == EXIT_STOPPED, (folder / "first.log").read_text()[-2000:]
    assert weights.exists() and not list(output.glob("*/*/*/result.json"))
    begun = weights.stat().st_mtime_ns
    code, errors = run_study(file, output)
    assert code == 0, errors
    assert weights.stat().st_mtime_ns == begun  # what was done is not done again
    return file, output


def test_every_run_has_a_result(studied: tuple[Path, Path]):
    _, output = studied
    full, probe = (json.loads((output / f"small/{name}/seed3/result.json").read_text()) for name in ("full", "probe"))
    assert list(full["stages"]) == ["warmup", "end_to_end", "tuning"] and list(probe["stages"]) == ["warmup"]
    assert full["test"]["color"]["products"] == 40 and "test" in full["stages"]["end_to_end"]
    assert full["stages"]["tuning"]["test"] == full["test"]
    assert [point["products_seen"] for point in full["stages"]["warmup"]["curve"]] == [160, 320]
    assert probe["test"]["color"]["text_share"] == 0.5 != full["test"]["color"]["text_share"]
    assert full["seed"] == 3 and full["minutes"] > 0 and full["versions"]["torch"]
    assert full["parameters"] > probe["parameters"] > 1_000_000


def test_a_rival_has_a_result_of_the_same_form(studied: tuple[Path, Path]):
    _, output = studied
    full, words = (json.loads((output / f"small/{name}/seed3/result.json").read_text()) for name in ("full", "words"))
    for part in ("test", "irrelevant", "named", "confusion"):
        assert keys(words[part]) == keys(full[part])
    assert words["deterministic"] and words["stages"] == {} and words["minutes"] > 0
    assert (
        words["versions"]["scikit-learn"] and words["parameters"] > 1000 and words["notes"][0].startswith("color: C ")
    )
    color = words["test"]["color"]
    assert color["products"] == 40 and color["text_share"] == 1.0 and color["accuracy"] > 0.3  # of 17
    shuffled = {name: tasks["color"]["accuracy"] for name, tasks in words["irrelevant"].items()}
    assert shuffled["titles_shuffled"] < color["accuracy"] == shuffled["pictures_shuffled"]


def keys(tree: object) -> object:
    return {name: keys(part) for name, part in tree.items()} if isinstance(tree, dict) else None


def test_what_is_done_is_not_done_again(studied: tuple[Path, Path]):
    file, output = studied
    results = {path: path.stat().st_mtime_ns for path in output.glob("*/*/*/result.json")}
    assert len(results) == 3
    assert run_study(file, output, "--variants", "words") == (0, [])
    assert {path: path.stat().st_mtime_ns for path in results} == results


def test_tables_and_plots_are_written(studied: tuple[Path, Path]):
    _, output = studied
    text = (output / "results.md").read_text()
    assert "| color | probe | 1 |" in text and "| color | words | 1 |" in text and list(output.rglob("*.png"))
    assert json.loads((output / "results.json").read_text())


def test_variants_start_from_the_same_towers(studied: tuple[Path, Path]):
    _, output = studied
    recipes = [
        yaml.safe_load((output / f"small/{variant}/seed3/warmup/recipe.yaml").read_text())
        for variant in ("full", "probe")
    ]
    assert {recipe["model"]["pretrained"] for recipe in recipes} == {str(output / "small/towers/clip.safetensors")}


def test_changed_settings_are_refused(studied: tuple[Path, Path], data: Path, tmp_path: Path):
    _, output = studied
    changed = study_file(tmp_path, data, options={"stages.warmup.learning_rate": 0.01})
    code, (error,) = run_study(changed, output)
    assert code == EXIT_BAD_INPUT and "result.json: made with other settings, data or towers" in error


def test_finished_runs_are_measured_again_and_nothing_is_trained(studied: tuple[Path, Path], tmp_path: Path):
    file, output = studied
    copy = shutil.copytree(output, tmp_path / "out")
    (copy / "small/probe/seed3/result.json").unlink()
    paths = [copy / f"small/{name}/seed3/result.json" for name in ("full", "words")]
    before = [json.loads(path.read_text()) for path in paths]
    for path, content in zip(paths, before, strict=True):
        older = {name: tasks for name, tasks in content["irrelevant"].items() if name != "titles_cut"}
        path.write_text(json.dumps(content | {"irrelevant": older, "test": {}}))
    trained = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.suffix in (".safetensors", ".jsonl")}
    assert len(trained) > 5
    assert run_study(file, copy, "--measure-again") == (0, [])
    for path, content in zip(paths, before, strict=True):
        after = json.loads(path.read_text())
        assert after.pop("measured_again") == {name: content[name] for name in ("commit", "hardware", "versions")}
        assert after == content
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert not (copy / "small/probe/seed3/result.json").exists() and (copy / "summary.json").exists()


def test_other_weights_are_not_measured_into_a_result(studied: tuple[Path, Path], tmp_path: Path):
    file, output = studied
    copy = shutil.copytree(output, tmp_path / "out")
    shutil.copy(copy / "small/full/seed3/warmup/best/model.safetensors", copy / "small/full/seed3/tuning/best")
    before = (copy / "small/full/seed3/result.json").read_bytes()
    code, (error,) = run_study(file, copy, "--measure-again", "--variants", "full")
    assert code == EXIT_BAD_INPUT and "seed3/result.json: of other weights or data than are there now" in error
    assert (copy / "small/full/seed3/result.json").read_bytes() == before


def test_measuring_again_stops_before_the_next_run(studied: tuple[Path, Path]):
    file, output = studied
    launcher = Launcher(1, 1)
    launcher.stop()
    with pytest.raises(Stopped):
        measure_again(Plan(*read_study(str(file)), output, "fp32").runs()[0], launcher)


def test_a_failing_stage_is_named_with_its_reason(data: Path, tmp_path: Path):
    file = study_file(tmp_path, data, options={"stages.contrastive.batch_size": 4096})
    code, (error,) = run_study(file, tmp_path / "out")
    assert code == EXIT_BAD_INPUT
    assert "small/towers/seed0, stage contrastive: stages.contrastive.batch_size 4096 is more than" in error
