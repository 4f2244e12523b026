"""Two parts joined by validation: against a search by hand, where one is noise, and in stages that stop and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rank_processes import Ranks
from safetensors.torch import load_file
from tiny import options_of, run_stage

from cma_clip.command import EXIT_STOPPED
from model.bundle import load_bundle
from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from model.wide import joined
from train.joining import EVEN, fit_strengths
from train.losses import classification_losses
from train.score import judge

TASKS = TaskSet([SingleLabel(name="color", labels=["red", "blue"]), MultiLabel(name="look", labels=["a", "b", "c"])])
COUNT = 400


def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of two parts that each see the truth through noise of their own, and the truth."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(COUNT, 5)
    targets[torch.arange(COUNT), torch.randint(2, (COUNT,), generator=generator)] = 1
    targets[:, 2:] = (torch.rand(COUNT, 3, generator=generator) < 0.5).float()
    deep, wide = (2 * targets - 1 + torch.randn(COUNT, 5, generator=generator) for _ in range(2))
    return deep, wide, targets


def loss_of(strengths: torch.Tensor, deep: torch.Tensor, wide: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    sums, counts = classification_losses(joined(strengths[:, [0, 0, 1, 1, 1]], deep, wide), targets, TASKS)
    return sums / counts


def test_no_other_strengths_do_better():
    deep, wide, targets = answers()
    found = fit_strengths(deep, wide, targets, TASKS)
    best = loss_of(found, deep, wide, targets)
    for times in torch.tensor([[0.9, 1.0], [1.1, 1.0], [1.0, 0.9], [1.0, 1.1]])[:, :, None]:
        assert (loss_of(times * found, deep, wide, targets) > best - 1e-4).all()
    for alone in torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None].expand(-1, -1, 2):
        assert (loss_of(alone, deep, wide, targets) > best + 0.03).all()


@pytest.mark.parametrize("noise", [0, 1])
def test_a_part_that_is_noise_hardly_counts(noise: int):
    *parts, targets = answers()
    parts[noise] = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(1))
    found = fit_strengths(*parts, targets, TASKS)
    assert (found[noise] < 0.2 * found[1 - noise]).all() and (found > 0).all()


def test_weights_of_labels_count_as_in_training():
    deep, wide, targets = answers()
    plain, weighed = (fit_strengths(deep, wide, targets, TASKS, w) for w in (None, torch.tensor([1, 1, 50.0, 50, 50])))
    torch.testing.assert_close(plain[:, 0], weighed[:, 0], rtol=1e-2, atol=0)
    assert not torch.allclose(plain[:, 1], weighed[:, 1], rtol=0.1)


def test_a_task_without_labels_takes_both_evenly():
    deep, wide, targets = answers()
    targets[:, :2] = MISSING
    found = fit_strengths(deep, wide, targets, TASKS)
    torch.testing.assert_close(found[:, 0], torch.full((2,), EVEN))
    assert (found[:, 1] > 0.6).all()


WIDE = ("--model.wide=true", "--model.sequence_norm=gated", "--model.head_inputs=both", "--mismatch=true")
WIDE += tuple(f"--stages.{stage}.mismatched=0.3" for stage in ("warmup", "end_to_end", "tuning"))


def validations(run: Path, stage: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "validation"]


def stop_after_an_epoch(stage: str, data: Path, run: Path, said: Path) -> None:
    ranks = Ranks([*options_of(stage, data, run), *WIDE], said)
    log, end = run / stage / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"validation"' in log.read_text()):
        assert time.monotonic() < end, ranks.said()
        time.sleep(0.05)
    for process in ranks.processes:
        os.kill(process.pid, signal.SIGTERM)
    assert set(ranks.wait()) == {EXIT_STOPPED}, ranks.said()


def test_stages_train_the_deep_part_alone_and_publish_both_also_after_a_stop(data: Path, tmp_path: Path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_stage("contrastive", data, whole, *WIDE).returncode == 0
    shutil.copytree(whole, stopped)
    stop_after_an_epoch("warmup", data, stopped, tmp_path / "said")
    for run in (whole, stopped):
        result = run_stage("warmup", data, run, *WIDE)
        assert result.returncode == 0, result.stderr
    assert len(validations(stopped, "warmup")) == 2 and "fitting the wide part to 160 products" not in result.stdout
    warm, again = (load_file(run / "warmup/best/model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(tensor, again[name]) for name, tensor in warm.items())
    result = run_stage("end_to_end", data, whole, *WIDE)
    assert result.returncode == 0, result.stderr
    last = load_file(whole / "bundle/model.safetensors")
    fitted = ("wide.frequent", "wide.intercepts", "wide.words", "wide.statistics_to_logits", "wide.terms.rarity")
    assert all(torch.equal(last[name], warm[name]) and last[name].any() for name in fitted)
    assert (last["wide.strengths"] > 0).all() and not torch.equal(last["wide.strengths"], warm["wide.strengths"])
    # What the stage says of its bundle is what the bundle answers.
    line = validations(whole, "end_to_end")[-1]
    metrics = judge(load_bundle(whole / "bundle"), data, "validation", 7, tmp_path / "score")
    assert json.loads((tmp_path / "score/metrics.json").read_text())["loss"] == pytest.approx(line["loss"], rel=1e-4)
    for task in ("color", "pattern", "mismatch"):
        for name in ("mean_average_precision", "calibration_error", "text_share"):
            assert metrics[task][name] == pytest.approx(line[f"{task}/{name}"], rel=1e-3), (task, name)
