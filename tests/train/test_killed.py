"""Training that is killed with -9 at any moment goes on as if it had not been: the same losses, the same products."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from rank_processes import Ranks
from safetensors.torch import load_file
from tiny import ROOT

from train.stage_state import read_state

RECIPE = ROOT / "tests/support/tiny.yaml"
KILLS = 20
# A checkpoint after each update, so that many kills fall into one.
OPTIONS = ("--checkpoint_minutes", "1e-9", "--stages.contrastive.batch_size", "8", "--stages.contrastive.epochs", "2")


def started(data: Path, output: Path) -> Ranks:
    arguments = ("--stage", "contrastive", "--config", RECIPE, "--data", data, "--output", output, *OPTIONS)
    output.mkdir(exist_ok=True)
    return Ranks(arguments, output / "said", script="tests/support/ordered_training.py", ORDER=str(output))


def losses(run: Path) -> list[tuple[str, int, float]]:
    lines = map(json.loads, (run / "contrastive/log.jsonl").read_text().splitlines())
    return [(line["kind"], line["update"], line["loss"]) for line in lines]


def orders(run: Path) -> list[dict[int, set[tuple[str, ...]]]]:
    """Of each rank: update -> every micro-batch that it ever took for it."""
    found: list[dict[int, set[tuple[str, ...]]]] = []
    for file in sorted(run.glob("order-rank*.jsonl")):
        found.append({})
        # The last line of an attempt may be cut.
        for line in file.read_text().splitlines():
            if line.startswith("[") and line.endswith("]]"):
                update, ids = json.loads(line)
                found[-1].setdefault(update, set()).add(tuple(ids))
    return found


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    ranks = started(data, run)
    assert ranks.wait() == [0, 0], ranks.said()
    return run


def killed_at_random(data: Path, run: Path, seed: int, kills: int) -> int:
    """Kills until it ends by itself; returns how many it took, at most `kills`."""
    draw, done = random.Random(seed), 0
    while True:
        ranks = started(data, run)
        if done == kills:
            assert ranks.wait() == [0, 0], ranks.said()
            return done
        moment = time.monotonic() + draw.uniform(0.5, 5.0)
        while time.monotonic() < moment and any(process.is_alive() for process in ranks.processes):
            time.sleep(0.01)
        codes = [process.exitcode for process in ranks.processes]
        for process in ranks.processes:
            process.kill()
            process.join()
        assert not any(codes), ranks.said()
        if codes == [0, 0]:
            return done
        done += 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_R1_R2_kill_9_at_random_moments_changes_nothing(unbroken: Path, data: Path, tmp_path: Path, seed: int):
    run = tmp_path / "run"
    kills = killed_at_random(data, run, seed, KILLS)
    print(f"seed {seed}: killed {kills} times")
    assert kills > 0
    assert losses(run) == losses(unbroken)
    for ours, theirs in zip(orders(run), orders(unbroken), strict=True):
        assert ours == theirs
    ours, theirs = (load_file(each / "contrastive/best/model.safetensors") for each in (run, unbroken))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    state = read_state(run / "contrastive")
    assert state and state.finished
    assert [path.name for path in (run / "contrastive/checkpoints").iterdir() if path.is_dir()] == [state.checkpoint]
    assert not list((run / "contrastive").glob(".*"))
