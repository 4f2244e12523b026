"""The real launcher on two ranks: stages, freezing, resumption, logs, and what is refused before any work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_set_files import reseal
from rank_processes import Ranks
from safetensors.torch import load_file
from tiny import ROOT, STAGES, deepspeed, environment, launch_stage, options_of, run_stage

from cma_clip.command import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_NO_MEMORY, EXIT_STOPPED
from dataset.format import DatasetInfo
from model.bundle import build_network, load_bundle
from model.config import BundleConfig
from train.main import main
from train.recipe import load_recipe
from train.score import judge
from train.score import main as score_main
from train.stage_state import StageState, read_state, write_state
from train.together import alone_in

RECIPE = ROOT / "tests/support/tiny.yaml"
LOGIT_SCALE = "towers.clip.logit_scale"
TRAINED = {
    "warmup": ("sequence_attention.", "modality_heads."),
    "end_to_end": ("towers.", "sequence_attention.", "modality_heads."),
    "tuning": ("modality_heads.",),
}
WARMUP_UPDATES = 40  # 160 products in batches of 8, 2 epochs


def best(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run / stage / "best" / "model.safetensors")


def log_lines(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def warm(run: Path, tmp_path: Path) -> Path:
    """A run in which only the contrastive stage is done."""
    shutil.copytree(run / "contrastive", tmp_path / "run" / "contrastive")
    return tmp_path / "run"


@pytest.mark.parametrize(("before", "stage"), [*zip(STAGES, STAGES[1:], strict=False)])
def test_R12_freezing_is_bitwise_and_everything_else_moves(run: Path, before: str, stage: str):
    start, end = best(run, before), best(run, stage)
    for name, tensor in start.items():
        trains = name.startswith(TRAINED[stage]) and name != LOGIT_SCALE
        assert torch.equal(tensor, end[name]) != trains, name


def test_contrastive_trains_the_towers_only(run: Path):
    first = {line["loss"] for line in log_lines(run, "contrastive") if line["kind"] == "train"}
    assert len(first) == 5
    scale = best(run, "contrastive")[LOGIT_SCALE]
    assert not torch.equal(scale, torch.full_like(scale, 2.6592600))


def test_logs_say_what_happened(run: Path):
    lines = log_lines(run, "warmup")
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["update"] for line in train] == list(range(1, WARMUP_UPDATES + 1))
    assert all({"loss", "color", "pattern", "learning_rate"} <= set(line) for line in train)
    assert train[-1]["learning_rate"] < max(line["learning_rate"] for line in train) == pytest.approx(1e-3, rel=0.2)
    validation = [line for line in lines if line["kind"] == "validation"]
    assert [line["epoch"] for line in validation] == [1, 2]
    assert {"color/accuracy", "pattern/recall_at_90_precision", "pattern/text_share"} <= set(validation[0])
    assert list((run / "warmup" / "tensorboard").iterdir())


def test_the_lowest_validation_loss_is_kept_and_published(run: Path):
    for stage in STAGES:
        losses = [line["loss"] for line in log_lines(run, stage) if line["kind"] == "validation"]
        state = StageState.model_validate_json((run / stage / "state.json").read_text())
        assert state.finished and state.best_loss == min(losses) and losses[state.best_epoch - 1] == min(losses)
    assert (run / "bundle" / "model.safetensors").read_bytes() == (run / "tuning/best/model.safetensors").read_bytes()


def test_validation_of_two_ranks_equals_that_of_one_process(run: Path, data: Path, tmp_path: Path):
    last = [line for line in log_lines(run, "tuning") if line["kind"] == "validation"][-1]
    bundle = load_bundle(run / "tuning" / "best")
    metrics = judge(bundle, data, "validation", 7, tmp_path / "score")
    assert json.loads((tmp_path / "score/metrics.json").read_text())["loss"] == pytest.approx(last["loss"], rel=1e-5)
    for task, values in metrics.items():
        for name, value in values.items():
            expected = value if value is None else pytest.approx(value, rel=1e-4)
            assert last[f"{task}/{name}"] == expected, (task, name)
    threshold = bundle.config.tasks[0].thresholds[0]
    assert threshold == pytest.approx(metrics["color"]["threshold"], rel=1e-4)


def test_score_writes_every_answer(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert score_main([str(run / "bundle"), "--data", str(data), "--output", str(tmp_path / "score")]) == 0
    assert "color" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "score/predictions.parquet")
    assert len(table) == 40 and "pattern_text_share" in table.column_names
    right = sum(row["color_true"] == row["color_answer"] for row in table.to_pylist())
    metrics = json.loads((tmp_path / "score/metrics.json").read_text())["tasks"]
    assert right / 40 == pytest.approx(metrics["color"]["accuracy"])
    assert score_main([str(run / "nothing"), "--data", str(data)]) == 2


def test_a_finished_stage_is_not_trained_again(run: Path, data: Path, tmp_path: Path):
    before = (run / "warmup/state.json").stat().st_mtime_ns
    ranks = Ranks(options_of("warmup", data, run), tmp_path / "said")
    assert ranks.wait() == [0, 0]
    said = ranks.said("stdout")
    assert said.count("already finished") == 1 and "next: deepspeed train/main.py --stage end_to_end" in said
    assert (run / "warmup/state.json").stat().st_mtime_ns == before


def test_a_rank_that_has_not_finished_does_not_wait_for_those_that_have(
    run: Path, warm: Path, data: Path, tmp_path: Path
):
    own = [options_of("warmup", data, output) for output in (run, warm)]
    ranks = Ranks([], tmp_path / "said", own=own)
    assert ranks.wait() == [EXIT_BAD_INPUT] * 2
    (error,) = [line for line in ranks.said().splitlines() if line.startswith("error: ")]
    assert f"rank 1 sees another run in {run} than rank 0 (state: " in error


def test_R1_R5_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(run: Path, warm: Path, data: Path):
    # Loader processes get the signals as well, and must outlive them until the checkpoint is written.
    options = ("--data", data, "--output", warm, "--loader_workers", 2)
    command = deepspeed("--stage", "warmup", "--config", RECIPE, *options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **pipes)
    log = warm / "warmup/log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count('"train"') >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    output = process.communicate(timeout=300)[0].decode()
    state = StageState.model_validate_json((warm / "warmup/state.json").read_text())
    assert process.returncode != 0 and not state.finished and 0 < state.update < WARMUP_UPDATES / 2, output
    assert "the same command goes on from there" in output and 'train/main.py", line' not in output
    assert EXIT_STOPPED == 75
    # What computes the heads may change on the way, and the bundle leaves it to whoever loads it.
    assert run_stage("warmup", data, warm, "--model.kernels", "reference").returncode == 0
    assert BundleConfig.read(warm / "warmup/best/config.json").model.kernels == "auto"
    lines = [line for line in log_lines(warm, "warmup") if line["kind"] == "train"]
    assert [line["update"] for line in lines] == list(range(1, WARMUP_UPDATES + 1))
    assert [line["loss"] for line in lines] == [
        line["loss"] for line in log_lines(run, "warmup") if line["kind"] == "train"
    ]
    for name, tensor in best(run, "warmup").items():
        assert torch.equal(tensor, best(warm, "warmup")[name]), name


@pytest.mark.parametrize(
    ("wrong", "zero_level", "micro_batch_size"), [("loss", 1, 4), ("gradient", 1, 4), ("gradient", 0, 2)]
)
def test_R8_no_update_is_made_from_a_loss_or_a_gradient_that_is_not_finite(
    run: Path, warm: Path, data: Path, tmp_path: Path, wrong: str, zero_level: int, micro_batch_size: int
):
    """In the fourth update the second rank's first micro-batch goes wrong; the other rank's are fine."""
    place = str(1 + 3 * (4 // micro_batch_size))
    options = ("--zero_level", str(zero_level), f"--stages.warmup.micro_batch_size={micro_batch_size}")
    arguments = [*options_of("warmup", data, warm), *options, "--checkpoint_minutes", "1e-9"]
    poison = {"script": "tests/support/poisoned_training.py", "POISONED": wrong, "POISONED_FORWARD": place}
    ranks = Ranks(arguments, tmp_path / "said", **poison)
    assert ranks.wait() == [EXIT_BAD_INPUT] * 2
    named = {"loss": "the loss is nan, products train-", "gradient": "the gradient is not finite, products train-"}
    message = f"error: epoch 1, update 4 of stage warmup: {named[wrong]}"
    assert any(line.startswith(message) for line in ranks.said().splitlines()), ranks.said()[-2000:]
    reports = [json.loads(path.read_text()) for path in warm.glob("intact-rank*.json")]
    assert reports and all(report == {"updates": 3, "intact": True} for report in reports)
    state = StageState.model_validate_json((warm / "warmup/state.json").read_text())
    assert (state.checkpoint, state.update) == ("epoch0-update3", 3)
    assert [line["update"] for line in log_lines(warm, "warmup")] == [1, 2, 3]
    if wrong == "loss":  # as the run that was never poisoned
        assert run_stage("warmup", data, warm).returncode == 0
        for name, tensor in best(run, "warmup").items():
            assert torch.equal(tensor, best(warm, "warmup")[name]), name


def test_a_device_without_the_memory_says_what_takes_less(warm: Path, data: Path, tmp_path: Path):
    poison = {"script": "tests/support/poisoned_training.py", "POISONED": "memory", "POISONED_FORWARD": "1"}
    ranks = Ranks(options_of("warmup", data, warm), tmp_path / "said", **poison)
    _, code = ranks.wait()
    micro = load_recipe(RECIPE, []).stages.warmup.micro_batch_size
    assert code == EXIT_NO_MEMORY and "Traceback" not in ranks.said()
    less = f"--stages.warmup.micro_batch_size {micro // 2}"
    line = f"error: no memory on the device for {micro} products at once; {less}"
    assert line in ranks.said().splitlines(), ranks.said()[-2000:]
    result = run_stage("warmup", data, warm, *less.split(), "--stages.warmup.epochs=1")
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("zero_level", [2, 3])
def test_zero_levels_train_the_same_weights(run: Path, warm: Path, data: Path, tmp_path: Path, zero_level: int):
    """Under ZeRO-3 every weight is spread over the ranks, however small."""
    config = tmp_path / "deepspeed.json"
    config.write_text('{"zero_optimization": {"stage3_param_persistence_threshold": 0}}')
    options = ("--zero_level", str(zero_level), "--deepspeed_config", str(config))
    result = run_stage("warmup", data, warm, *options)
    assert result.returncode == 0, result.stderr[-2000:]
    expected, actual = best(run, "warmup"), best(warm, "warmup")
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_one_rank_in_bf16_with_accumulation(run: Path, warm: Path, data: Path):
    result = run_stage("warmup", data, warm, "--precision", "bf16", "--stages.warmup.epochs", "1", ranks=1)
    assert result.returncode == 0, result.stderr[-2000:]
    (ours, *_), (theirs, *_) = ([line for line in log_lines(r, "warmup") if "best" in line] for r in (warm, run))
    assert ours["loss"] != theirs["loss"] and ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)
    weights = best(warm, "warmup")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    frozen = [name for name in weights if name.startswith("towers.")]
    assert all(torch.equal(weights[name], best(warm, "contrastive")[name]) for name in frozen)


REFUSED = {
    "unknown key": (("--stages.warmup.epoch", "3"), "stages.warmup.epoch: Extra inputs are not permitted"),
    "bad value": (("--stages.warmup.epochs=0",), "stages.warmup.epochs: Input should be greater than or equal to 1"),
    "no value": (("--seed",), "--seed: its value is missing"),
    "batch too large": (("--stages.warmup.batch_size", "512"), "batch_size 512 is more than the 160 products"),
    "batch does not divide": (("--stages.warmup.batch_size", "20"), "batch_size 20 is no multiple of 2 ranks x"),
    "unknown clip": (("--model.clip", "ViT-Z"), "(model.clip: cma-clip-tiny -> ViT-Z)"),
    "another network": (("--model.sequence_layers", "3"), "is another network (model.sequence_layers: 2 -> 3)"),
    "same shapes, another network": (("--model.sequence_heads", "8"), "(model.sequence_heads: 4 -> 8)"),
    "no group": (("--model.clip.x", "3"), "--model.clip.x: model.clip is no group of settings"),
    "not YAML": (("--model.clip", "[x"), "--model.clip: not YAML"),
    "batch in DeepSpeed's file": (
        ("--deepspeed_config", str(RECIPE.with_name("batch.json"))),
        "train_batch_size is 7, the recipe makes it 8",
    ),
}


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path) -> Callable[..., str]:
    """The one line with which a command is refused, run in this process as the first of two ranks."""

    def run_refused(stage: str, output: Path, *options: str, ranks: int = 2, data: Path = data) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        arguments = ["--stage", stage, "--config", str(RECIPE), "--data", str(data), "--output", str(output)]
        assert main([*arguments, *options]) == EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return run_refused


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_before_any_work(refusal: Callable[..., str], warm: Path, case: str):
    options, message = REFUSED[case]
    assert message in refusal("warmup", warm, *options)
    assert not (warm / "warmup").exists()


def test_R13_changed_settings_are_refused_on_resume(refusal: Callable[..., str], run: Path):
    message = "was begun with other settings (learning_rate: 0.001 -> 0.1)"
    assert message in refusal("warmup", run, "--stages.warmup.learning_rate", "0.1", "--loader_workers=1")


def test_weights_that_changed_underneath_are_refused_on_resume(refusal: Callable[..., str], run: Path, tmp_path: Path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.copytree(copy / "warmup/best", copy / "contrastive/best", dirs_exist_ok=True)
    assert "was begun with other settings (start: " in refusal("warmup", copy)


def test_R7_another_number_of_ranks_is_refused_on_resume(refusal: Callable[..., str], run: Path):
    assert "world_size: 2 -> 1" in refusal("warmup", run, ranks=1)


def test_stages_out_of_order_are_refused(refusal: Callable[..., str], run: Path, tmp_path: Path):
    output = tmp_path / "run"
    assert "tuning starts from the best weights of end_to_end, which has not run" in refusal("tuning", output)
    assert "warmup freezes the towers, but they have no trained weights" in refusal("warmup", output)
    assert not output.exists()
    begun = read_state(run / "contrastive")
    assert begun
    (output / "contrastive").mkdir(parents=True)
    write_state(output / "contrastive", begun.model_copy(update={"finished": False}))
    assert "warmup starts from the best weights of contrastive, which has not finished" in refusal("warmup", output)
    assert [path.name for path in output.iterdir()] == ["contrastive"]


def test_missing_data_and_recipe_are_refused(refusal: Callable[..., str], tmp_path: Path):
    output = tmp_path / "run"
    assert "none/dataset.json: no such file" in refusal("contrastive", output, data=tmp_path / "none")
    assert "none.yaml: no such recipe" in refusal("contrastive", output, "--config", "none.yaml")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contrastive stage of `run` on one rank, in two micro-batches an update."""
    output = tmp_path_factory.mktemp("alone")
    result = run_stage("contrastive", data, output, ranks=1)
    assert result.returncode == 0, result.stderr[-2000:]
    return output


def test_contrastive_learns_from_as_many_pairs_whatever_the_ranks(run: Path, alone: Path, data: Path):
    """Two ranks with one micro-batch each move the weights, and judge them, as one rank with two does."""
    recipe = load_recipe(RECIPE, [])
    torch.manual_seed(recipe.seed)
    start = build_network(recipe.model, DatasetInfo.read(data).tasks)[0].state_dict()
    together, apart = best(run, "contrastive"), best(alone, "contrastive")
    names = [name for name in start if name.startswith("towers.")]
    moved = sum((together[name] - start[name]).abs().sum() for name in names)
    assert sum((together[name] - apart[name]).abs().sum() for name in names) < 0.01 * moved
    ours, theirs = (log_lines(output, "contrastive")[-1] for output in (alone, run))  # of training a rank logs its own
    assert ours["kind"] == "validation" and ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_R5_a_stop_is_seen_between_micro_batches_and_in_validation(alone: Path, data: Path, tmp_path: Path):
    """5 updates look 3 times each: after the features of 2 micro-batches, and between them. Then validation does."""
    run, arguments = tmp_path / "run", [*options_of("contrastive", data, tmp_path / "run"), "--loader_workers", "1"]
    for place, where in ((8, (0, 2)), (9, (0, 4)), (4, (0, 5))):
        stopped = {"script": "tests/support/stopped_training.py", "STOPPED_LOOK": str(place)}
        ranks = Ranks(arguments, tmp_path / "said" / str(where), count=1, **stopped)
        assert ranks.wait() == [EXIT_STOPPED], ranks.said()[-2000:]
        assert "stopped: its checkpoint is written; the same command goes on from there" in ranks.said()
        state = StageState.model_validate_json((run / "contrastive/state.json").read_text())
        assert (state.epoch, state.update) == where and state.best_loss is None
    assert run_stage("contrastive", data, run, ranks=1).returncode == 0
    assert [line["loss"] for line in log_lines(run, "contrastive")] == [
        line["loss"] for line in log_lines(alone, "contrastive")
    ]
    for name, tensor in best(alone, "contrastive").items():
        assert torch.equal(tensor, best(run, "contrastive")[name]), name


def test_R6_a_rank_that_dies_ends_the_others_and_the_run_goes_on(run: Path, warm: Path, data: Path, tmp_path: Path):
    arguments = [*options_of("warmup", data, warm), "--loader_workers", "1", "--checkpoint_minutes", "1e-9"]
    ranks = Ranks(arguments, tmp_path / "said")
    state = warm / "warmup/state.json"
    while not (state.exists() and StageState.model_validate_json(state.read_text()).checkpoint):
        assert all(process.is_alive() for process in ranks.processes), ranks.said()
        time.sleep(0.01)
    ranks.processes[1].kill()
    assert ranks.wait() == [EXIT_FAILED, -signal.SIGKILL]
    error = "error: another rank has ended or cannot be reached; the same command goes on from the last checkpoint"
    assert error in ranks.said().splitlines() and "Traceback" not in ranks.said()
    assert run_stage("warmup", data, warm).returncode == 0
    for name, tensor in best(run, "warmup").items():
        assert torch.equal(tensor, best(warm, "warmup")[name]), name


def test_ranks_that_do_not_share_their_output_are_refused(data: Path, tmp_path: Path):
    outputs = [tmp_path / "run", tmp_path / "other"]
    ranks = Ranks([], tmp_path / "said", own=[options_of("contrastive", data, output) for output in outputs])
    assert ranks.wait() == [EXIT_BAD_INPUT] * 2
    (error,) = [line for line in ranks.said().splitlines() if line.startswith("error: ")]
    assert f"{outputs[0]} of rank 0 on " in error and "put it where all nodes see it" in error
    assert not list(tmp_path.glob("*/*/recipe.yaml"))


def test_a_rank_that_lacks_its_data_tells_the_first(data: Path, tmp_path: Path):
    own = [options_of("contrastive", folder, tmp_path / "run") for folder in (data, tmp_path / "none")]
    ranks = Ranks([], tmp_path / "said", own=own)
    assert ranks.wait() == [EXIT_BAD_INPUT] * 2
    errors = [line for line in ranks.said().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "error: rank 1 on " in errors[0] and "none/dataset.json: no such file" in errors[0]


def test_two_runs_in_one_output_are_refused(refusal: Callable[..., str], tmp_path: Path):
    with alone_in(tmp_path / "run"):
        error = refusal("contrastive", tmp_path / "run", ranks=1)
    assert f"{tmp_path / 'run'}: process {os.getpid()} on " in error and "is at work in it; wait for it" in error
    assert not (tmp_path / "run/contrastive").exists()


def test_a_taken_port_is_one_line(
    data: Path, tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("train.main.end_with_launcher", lambda: None)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(silent_port), "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in (place | {"WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    assert main(options_of("contrastive", data, tmp_path / "run")) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.splitlines()[-1]  # torch may have said that there is no GPU
    assert error.startswith(f"error: the ranks cannot meet at port {silent_port}: it is taken"), error
    assert "--master_port N" in error


def test_R8_R9_an_error_on_one_rank_is_said_in_one_line(warm: Path, data: Path, tmp_path: Path):
    """Pictures of the whole second half are cut: some rank meets the limit first."""
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    shard = next((copy / "split=train").glob("*.parquet"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    for row in rows[80:]:
        row["image"] = row["image"][:100]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)
    reseal(copy)
    result = run_stage("warmup", copy, warm, "--loader_workers", "1")
    assert result.returncode != 0
    errors = {line for line in result.stderr.splitlines() if line.startswith("error: ")}
    assert any("products cannot be read, the last: train-" in error for error in errors), errors
    assert all("products cannot be read" in error or "another rank has ended" in error for error in errors), errors
    assert "Traceback" not in result.stderr
    assert list((warm / "warmup").glob("rejects-rank*.txt"))


def test_the_launcher_passes_a_refusal_on(data: Path, tmp_path: Path):
    result = launch_stage("tuning", data, tmp_path / "run")
    assert result.returncode == EXIT_BAD_INPUT and "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
