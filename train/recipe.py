"""A recipe: everything that decides a training run, as YAML and as dotted options on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from cma_clip.settings import StrictModel, one_line
from model.acceptance import Rule
from model.config import ModelConfig
from model.networks import NETWORKS

BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


class StageConfig(StrictModel):
    """One training stage. Defaults are the paper's (section 3.2).

    Attributes:
        epochs: passes over the train split.
        batch_size: products in one update, over all ranks.
        micro_batch_size: products that a rank processes at once; gradients accumulate up to batch_size.
        learning_rate: peak, after a linear warm-up over warmup_fraction of the updates; then cosine to 0.
        gradient_clipping: largest norm of the gradient; 0 leaves it as it is.
        modality_dropout: share of the complete products that lose their title or image while training.
        mismatched: share of the complete products that get another product's title (two of three) or image (one of
            three) while training, and keep their labels, so that the network learns whom to believe.
        evidence_loss: how much of a loss λ has where it is not what the evidence of the wide part says, once for each
            task; nothing in a network without one.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(1024, ge=1)
    micro_batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    gradient_clipping: float = Field(1.0, ge=0)
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    mismatched: float = Field(0.0, ge=0, lt=1)
    evidence_loss: float = Field(0.0, ge=0)


class Stages(StrictModel):
    """The stages in their order; contrastive where the towers are to learn from captions (docs/design.md)."""

    contrastive: StageConfig = StageConfig()
    warmup: StageConfig = StageConfig()
    end_to_end: StageConfig = StageConfig()
    tuning: StageConfig = StageConfig()


class Recipe(StrictModel):
    """A training run.

    Attributes:
        zero_level: DeepSpeed's ZeRO stage: what is sharded over the ranks.
        precision: of the matrix products; weights and optimizer stay float32. `auto` is bf16 on a GPU
            and fp32 on a CPU.
        mismatch: the network also says how likely title and image do not belong together (model.tasks.Mismatch); it
            learns that from the `mismatched` products of the stages. Of `cma_clip` only.
        class_weights: `inverse_frequency` weighs the labels that a product has by how rare they are (multi-label
            tasks only), in training and in the validation loss that decides which weights are kept.
        multi_label_weight: how many times the loss of a multi-label task counts, which is the mean over its labels, in
            training and in the validation loss that decides which weights are kept.
        acceptance: what the answers that are accepted have to keep; `cma-clip promise` changes it in a bundle.
        seed: of weights, order and dropout.
        loader_workers: processes a rank that decode images; 0 decodes in the training process.
        shuffle_row_groups: Parquet row groups among which products are shuffled and that a loader
            process keeps in memory; fewer where they are more than 2 GiB together.
        checkpoint_minutes: a stop loses at most so much work.
        max_reject_fraction: the run stops when more of the products than this cannot be read.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    model: ModelConfig = ModelConfig()
    stages: Stages = Stages()
    zero_level: Literal[0, 1, 2, 3] = 1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    mismatch: bool = False
    class_weights: Literal["none", "inverse_frequency"] = "none"
    multi_label_weight: float = Field(1.0, gt=0)
    acceptance: Rule = Rule()
    seed: int = 0
    loader_workers: int = Field(4, ge=0)
    shuffle_row_groups: int = Field(64, ge=1)
    checkpoint_minutes: float = Field(15.0, gt=0)
    max_reject_fraction: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _mismatch_can_be_learned(self) -> Recipe:
        if self.mismatch and self.model.architecture != "cma_clip":
            raise ValueError(f"mismatch: only cma_clip compares title and image, not {self.model.architecture}")
        classifying = NETWORKS[self.model.architecture].stages
        without = [name for name in classifying if getattr(self.stages, name).mismatched == 0]
        if self.mismatch and without:
            raise ValueError(f"mismatch: needs stages.{without[0]}.mismatched above 0, from which it is learned")
        return self


def load_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Read a recipe and apply dotted options.

    Args:
        path: YAML file.
        overrides: `--stages.warmup.epochs 3` or `--stages.warmup.epochs=3`, as they stood on the command line.
    Raises:
        ValueError: the file is missing, is no YAML, or a key or value does not fit.
    """
    try:
        settings = _read_yaml(str(path), path.read_text()) or {}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe") from None
    for key, value in _pairs(overrides):
        *groups, last = key.split(".")
        group = settings
        for name in groups:
            group = group.setdefault(name, {}) if isinstance(group, dict) else None
        if not isinstance(group, dict):
            raise ValueError(f"--{key}: {'.'.join(groups)} is no group of settings")
        group[last] = _read_yaml(f"--{key}", value)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{path} with {' '.join(overrides) or 'no options'}: {one_line(error)}") from None


def _read_yaml(where: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(overrides)
    for word in words:
        if not word.startswith("--"):
            raise ValueError(f"{word!r}: expected an option such as --stages.warmup.epochs 3")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "")
        if value == "" or value.startswith("--"):
            raise ValueError(f"--{key}: its value is missing")
        yield key, value


def deepspeed_config(
    recipe: Recipe, stage: StageConfig, world_size: int, on_gpu: bool, over: Path | None = None
) -> dict[str, Any]:
    """DeepSpeed's dictionary for this stage.

    Args:
        over: a user's JSON file that is laid over it, group by group.
    Raises:
        ValueError: batch_size cannot be cut into equal micro-batches over the ranks; the file is no JSON object, or
            changes a batch size, which only the recipe may.
    """
    micro = min(stage.micro_batch_size, stage.batch_size // world_size)
    if micro == 0 or stage.batch_size % (micro * world_size):
        raise ValueError(
            f"batch_size {stage.batch_size} is no multiple of {world_size} ranks x micro_batch_size"
            f" {stage.micro_batch_size}; change one of them"
        )
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and on_gpu)
    derived = {
        "train_batch_size": stage.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": stage.batch_size // (micro * world_size),
        "gradient_clipping": stage.gradient_clipping,
        "zero_optimization": {"stage": recipe.zero_level},
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        "steps_per_print": 2**31,
    }
    return _laid_over(derived, over) if over else derived


def _laid_over(derived: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable DeepSpeed configuration: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(given).__name__}")
    for key in BATCH_KEYS:
        if given.get(key, derived[key]) != derived[key]:
            raise ValueError(f"{path}: {key} is {given[key]}, the recipe makes it {derived[key]}; set it there")
    return _merge(derived, given)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    def joined(key: str) -> Any:
        old, new = base.get(key), over[key]
        return _merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else new

    return base | {key: joined(key) for key in over}
