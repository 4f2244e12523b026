"""The benchmark of training: operations against a formula, and one run of all stages on the tiny network."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny import TASKS, tiny_config

from bench import training as benchmark
from train.recipe import Recipe, StageConfig, Stages

RECIPE = Recipe(model=tiny_config(), precision="fp32")
MICRO, LENGTH = 4, benchmark.RANDOM_LENGTH


def blocks(layers: int, tokens: int, width: int) -> int:
    """FLOPs of one product forward: four projections and the MLP, and the two products of attention."""
    return layers * (2 * tokens * width * (4 * width + 8 * width) + 2 * 2 * tokens * tokens * width)


def forward_flops() -> dict[str, int]:
    """By hand, of the tiny network: 64 x 64 pixels in patches of 8, width 128 throughout, heads of 128 hidden units."""
    width, patches = 128, 64
    image = 2 * patches * (3 * 8 * 8) * width + blocks(3, patches + 1, width) + 2 * (patches + 1) * width * width
    text = blocks(2, LENGTH, width) + 2 * LENGTH * width * width
    labels = sum(len(task.labels) for task in TASKS)
    heads = 2 * len(TASKS) * width * width + 2 * labels * width
    return {"towers": image + text, "mixing": blocks(2, LENGTH + patches + 1, width), "heads": heads}


@pytest.fixture(scope="module")
def flops() -> dict[str, float]:
    _, (batch,) = benchmark.read_batches(RECIPE, None, MICRO, 1)
    batch.targets_BC = torch.ones(MICRO, sum(len(task.labels) for task in TASKS))
    counted = {}
    for stage in benchmark.STAGES:
        objective = benchmark.build(RECIPE, stage, TASKS)
        counted[stage] = benchmark.count_flops(objective, batch)
        assert all(parameter.grad is None for parameter in objective.parameters())
    return counted


@pytest.fixture(scope="module")
def alone():
    with benchmark.one_rank():
        yield


@pytest.mark.parametrize(
    ("stage", "passes"),
    [
        # Backward takes the gradient of inputs and of weights, each as much as forward.
        ("end_to_end", {"towers": 3, "mixing": 3, "heads": 3}),
        ("warmup", {"towers": 1, "mixing": 3, "heads": 3}),
        ("tuning", {"towers": 1, "mixing": 1, "heads": 3}),
    ],
)
def test_frozen_parts_count_forward_only(flops, stage, passes):
    expected = sum(passes[part] * count for part, count in forward_flops().items())
    assert flops[stage] == pytest.approx(expected, rel=0.02)


def test_a_run_compares_both_loops_in_every_stage(alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "one_rank", nullcontext)  # DeepSpeed begins once a process
    options = ["--micro-batch", "2", "--updates", "1", "--rounds", "2", "--output", str(tmp_path)]
    assert benchmark.main(options) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    rows = result["rows"]
    assert [(row["stage"], row["loop"]) for row in rows] == [
        (stage, loop) for stage in benchmark.STAGES for loop in ("engine", "plain")
    ]
    for row in rows:
        rate = row["samples_per_s"]["median"]
        assert 0 < row["mfu"] < 1 and row["mfu"] == pytest.approx(
            rate * row["flops_per_sample"] / row["machine_flops_per_s"], rel=1e-6
        )
        assert row["tokens_per_s"] == pytest.approx(rate * (LENGTH + 65)) and row["peak_bytes"] > 0
        assert row["ratios"] == [1, 1] if row["loop"] == "plain" else len(row["ratios"]) == 2
    assert result["data"] == "random products" and (tmp_path / "plot.png").exists()
    table = (tmp_path / "table.md").read_text()
    assert "| tuning | plain |" in table and "1.000 (1.000 to 1.000)" in table and "deepspeed 0." in table


@pytest.mark.parametrize("stage", ["end_to_end", "tuning"])
def test_both_loops_train_alike(alone, stage):
    """Two updates from the same weights move them alike, and what the stage freezes not at all."""
    tasks, batches = benchmark.read_batches(RECIPE, None, MICRO, benchmark.ACCUMULATION)
    config = StageConfig(batch_size=2 * MICRO, micro_batch_size=MICRO, learning_rate=1e-2)
    recipe = RECIPE.model_copy(update={"stages": Stages(**dict.fromkeys(benchmark.STAGES, config))})
    before = {name: value.clone() for name, value in benchmark.build(recipe, stage, tasks).named_parameters()}
    moved = []
    for loop in (benchmark.engine_loop, benchmark.plain_loop):
        contestant = benchmark.start(loop, recipe, stage, tasks, batches)
        contestant.update(batches)
        moved.append({n: p.detach() - before[n] for n, p in contestant.objective.named_parameters()})
    differing = total = 0
    for name, parameter in benchmark.build(recipe, stage, tasks).named_parameters():
        ours, plain = moved[0][name], moved[1][name]
        if parameter.requires_grad:
            assert ours.abs().max() > 0, name
            differing += int(((ours - plain).abs() > 0.01 * ours.abs().max()).sum())
            total += ours.numel()
        else:
            assert not ours.any() and not plain.any(), name
    # Adam makes a full step of a gradient that is nothing but rounding, as that of the keys' bias.
    assert differing < 1e-3 * total


def test_too_little_data_is_one_line(data, capsys):
    assert benchmark.main(["--data", str(data), "--micro-batch", "64", "--updates", "2"]) == 2
    assert "160 products to train on, but --updates takes 256" in capsys.readouterr().err
