"""Run directories as they were written before stage states had a file of their own: read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from train.recipe import Recipe
from train.stage_state import StageState, begin, check_resume, finish, read_state, write_state

STATE = """{
  "checkpoint": "epoch2-update0",
  "epoch": 2,
  "update": 0,
  "best_loss": 5.083263397216797,
  "best_epoch": 2,
  "world_size": 2,
  "data_hash": "d952d0b11ce67a20130ee04ebaddc7b6a13e3b6e8488b1585302efe5deea7019",
  "start": "18365181b10cc8fbc0e25e820f62b547f9133dca0dde6af92b0040e5a4cdfc72",
  "finished": true
}"""
RECIPE = """model:
  architecture: cma_clip
  clip: cma-clip-tiny
  pretrained: null
  sequence_attention: true
  sequence_layers: 2
  sequence_heads: 4
  sequence_norm: post
  modality_attention: true
  head_width: null
  dropout: 0.1
  kernels: auto
stages:
  contrastive:
    epochs: 1
    batch_size: 32
    micro_batch_size: 16
    learning_rate: 0.001
    weight_decay: 0.0001
    warmup_fraction: 0.05
    gradient_clipping: 1.0
    modality_dropout: 0.0
  warmup:
    epochs: 2
    batch_size: 8
    micro_batch_size: 4
    learning_rate: 0.001
    weight_decay: 0.0001
    warmup_fraction: 0.05
    gradient_clipping: 1.0
    modality_dropout: 0.0
  end_to_end:
    epochs: 1
    batch_size: 32
    micro_batch_size: 16
    learning_rate: 0.001
    weight_decay: 0.0001
    warmup_fraction: 0.05
    gradient_clipping: 1.0
    modality_dropout: 0.0
  tuning:
    epochs: 1
    batch_size: 32
    micro_batch_size: 16
    learning_rate: 0.001
    weight_decay: 0.0001
    warmup_fraction: 0.05
    gradient_clipping: 1.0
    modality_dropout: 0.0
zero_level: 1
precision: auto
class_weights: none
seed: 0
loader_workers: 0
shuffle_row_groups: 64
checkpoint_minutes: 15.0
max_reject_fraction: 0.01"""
DEEPSPEED = """{
  "train_batch_size": 8,
  "train_micro_batch_size_per_gpu": 4,
  "gradient_accumulation_steps": 1,
  "gradient_clipping": 1.0,
  "zero_optimization": {
    "stage": 1
  },
  "torch_autocast": {
    "enabled": false,
    "dtype": "bfloat16"
  },
  "steps_per_print": 2147483648
}"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    stage_dir = tmp_path / "run/warmup"
    stage_dir.mkdir(parents=True)
    for name, text in (("state.json", STATE), ("recipe.yaml", RECIPE), ("deepspeed.json", DEEPSPEED)):
        (stage_dir / name).write_text(text)
    return stage_dir


def resume(stage_dir: Path, recipe: Recipe, data_hash: str = "d952d0b1") -> None:
    state = read_state(stage_dir)
    assert state is not None
    check_resume(recipe, json.loads(DEEPSPEED), stage_dir, state, state.model_copy(update={"data_hash": data_hash}))


def test_an_old_run_is_read_and_gone_on_with(old: Path):
    state = read_state(old)
    assert state is not None and (state.checkpoint, state.epoch, state.best_epoch) == ("epoch2-update0", 2, 2)
    assert state.finished and state.best_loss == 5.083263397216797
    resume(old, Recipe.model_validate(yaml.safe_load(RECIPE)), state.data_hash)


def test_other_settings_and_data_are_named_together(old: Path):
    recipe = Recipe.model_validate(yaml.safe_load(RECIPE))
    changed = recipe.model_copy(update={"seed": 1, "checkpoint_minutes": 1.0})
    with pytest.raises(ValueError, match=r"other settings \(data_hash: d952d0b1\w+ -> d952d0b1; seed: 0 -> 1\)"):
        resume(old, changed)


def test_a_state_of_another_form_is_refused_in_one_line(old: Path):
    (old / "state.json").write_text(STATE.replace('"epoch"', '"epochs"'))
    with pytest.raises(ValueError, match="state.json: epochs: Extra inputs are not permitted") as error:
        read_state(old)
    assert "\n" not in str(error.value)


def test_a_restart_forgets_and_the_end_publishes(old: Path, tmp_path: Path):
    fresh = StageState(world_size=1, data_hash="d")
    begin(old, Recipe(), {}, fresh, restart=True)
    assert read_state(old) is None
    assert sorted(path.name for path in old.iterdir()) == ["deepspeed.json", "recipe.yaml", "state.json"]
    (old / "best").mkdir()
    (old / "best/config.json").write_text("{}")
    finish(old, fresh, tmp_path / "run/bundle")
    state = read_state(old)
    assert state is not None and state.finished and (tmp_path / "run/bundle/config.json").read_text() == "{}"


@pytest.mark.parametrize("content", [b"", b"epochs: [1", b"\xff\xfe", b"seed: twelve", b"- 1"])
def test_a_damaged_recipe_is_named_with_its_cure(old: Path, content: bytes):
    (old / "recipe.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"recipe.yaml: missing or damaged .* or add --restart"):
        resume(old, Recipe())
    (old / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"recipe.yaml: missing or damaged .* or add --restart"):
        resume(old, Recipe())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_damaged_deepspeed_settings_are_named_with_their_cure(old: Path, content: bytes):
    (old / "deepspeed.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"deepspeed.json: missing or damaged .* or add --restart"):
        resume(old, Recipe())


def test_every_flipped_bit_of_the_state_is_seen(old: Path):
    state = read_state(old)
    assert state is not None
    write_state(old, state)
    assert read_state(old) == state
    path = old / "state.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_state(old) == state  # a blank that became another blank
        except ValueError as error:
            assert "state.json: " in str(error)


def test_a_state_that_is_gone_is_said_and_nothing_is_forgotten(old: Path):
    (old / "checkpoints/epoch1-update3").mkdir(parents=True)
    (old / "state.json").unlink()
    with pytest.raises(
        ValueError, match=r"state.json: no such file, yet .* holds epoch1-update3 of a run; .*--restart"
    ):
        read_state(old)


def test_R2_a_beginning_clears_what_kills_have_left(old: Path):
    """Half a checkpoint, half a `best`, and the moment in which `best` is exchanged."""
    state = read_state(old)
    assert state is not None
    for name in ("checkpoints/epoch2-update0", "checkpoints/epoch2-update9", ".best.123.partial", ".best.9.old"):
        (old / name).mkdir(parents=True)
        (old / name / "file").write_text(name)
    (old / ".state.json.77.partial").write_text("{")
    begin(old, Recipe(), {}, state, restart=False)
    assert (old / "best/file").read_text() == ".best.9.old"
    assert [path.name for path in (old / "checkpoints").iterdir()] == ["epoch2-update0"]
    assert not list(old.glob(".*"))


def test_a_run_that_died_before_its_first_checkpoint_may_begin_with_other_settings(tmp_path: Path):
    begin(tmp_path / "warmup", Recipe(), {}, StageState(world_size=2, data_hash="d"), restart=False)
    (tmp_path / "warmup/checkpoints/epoch0-update3").mkdir(parents=True)
    assert read_state(tmp_path / "warmup") is None
