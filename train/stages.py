"""The stages: what each trains, from which weights it starts, where it stands (paper, section 3.2.2)."""

from __future__ import annotations

from pathlib import Path

from cma_clip.files import file_sha256
from cma_clip.settings import StrictModel, read_json
from model.bundle import load_weights
from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import Network
from model.config import BundleConfig, ModelConfig, PreprocessConfig
from model.networks import NETWORKS, Architecture, StageName, create_network
from model.tasks import TaskSet
from train.recipe import Recipe

# The modules that a stage changes, by the names that a network, or its row in model.networks, gives them.
TRAINABLE: dict[StageName, tuple[str, ...]] = {
    "contrastive": ("towers",),
    "warmup": ("sequence_attention", "modality_heads"),
    "end_to_end": ("towers", "sequence_attention", "modality_heads"),
    "tuning": ("modality_heads",),
}
PREVIOUS: dict[StageName, StageName | None] = {
    "contrastive": None,
    "warmup": "contrastive",
    "end_to_end": "warmup",
    "tuning": "end_to_end",
}


class StageState(StrictModel):
    """How far a stage has come; the content of `state.json`, which is replaced in one step.

    Attributes:
        checkpoint: name of the DeepSpeed checkpoint that fits this state.
        epoch, update: the next update to make, counted from 0; update within the epoch.
        best_loss, best_epoch: lowest validation loss so far and the epoch (from 1) that reached it.
        start: sha256 of the weights of the stage before, None where it started without.
        finished: all epochs are done and the best weights are published.
    """

    checkpoint: str | None = None
    epoch: int = 0
    update: int = 0
    best_loss: float | None = None
    best_epoch: int = 0
    world_size: int
    data_hash: str
    start: str | None = None
    finished: bool = False


def read_state(stage_dir: Path) -> StageState | None:
    """The state of a stage, None if it has never saved one."""
    path = stage_dir / "state.json"
    return read_json(StageState, path) if path.exists() else None


def start_bundle(stage: StageName, output: Path, recipe: Recipe, tasks: TaskSet) -> Path | None:
    """The best of the stage before, None where the stage starts from pretrained or random towers.

    Raises:
        ValueError: the stage before has not finished or trained another network, or nothing has
            trained the towers.
    """
    architecture, previous = recipe.model.architecture, PREVIOUS[stage]
    stages = NETWORKS[architecture].stages
    if previous is None:
        return None
    if stage not in stages:
        raise ValueError(f"stage {stage}: the stages of {architecture} are {', '.join(stages)}")
    state = read_state(output / previous)
    if state and state.finished:
        _check_same_network(output / previous / "best", recipe, tasks)
        return output / previous / "best"
    command = f"deepspeed train/main.py --stage {previous} --config … --data … --output {output}"
    if previous != "contrastive":
        reason = "has not finished" if state else "has not run"
        raise ValueError(f"stage {stage} starts from the best weights of {previous}, which {reason}; first: {command}")
    if recipe.model.pretrained is None:
        raise ValueError(
            f"stage warmup freezes the towers, but they have no trained weights; set --model.pretrained (a tag such as"
            f" openai, or a file), or first: {command}"
        )
    return None


def _check_same_network(best: Path, recipe: Recipe, tasks: TaskSet) -> None:
    """Weights may fit by their shapes and still mean another network, or other labels."""
    before = BundleConfig.read(best / "config.json")
    ours, theirs = (
        model.model_dump(exclude={"pretrained", "dropout", "kernels"}) for model in (recipe.model, before.model)
    )
    differences = [f"model.{key}: {theirs[key]} -> {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if before.tasks.label_set_hash != tasks.label_set_hash:
        differences.append("the data set's tasks or labels")
    if differences:
        raise ValueError(
            f"{best} is another network ({'; '.join(differences)}); use the same recipe and data for all stages,"
            " or another --output"
        )


def sha256(bundle: Path | None) -> str | None:
    """Of a bundle's weights."""
    return file_sha256(bundle / "model.safetensors") if bundle else None


def build_network(recipe: Recipe, tasks: TaskSet, start: Path | None) -> tuple[Network, PreprocessConfig]:
    """The network with its starting weights, float32 on the CPU, and the preprocessing it is made for.

    Raises:
        ValueError: weights that cannot be had or do not fit the recipe's network.
    """
    clip = create_clip(recipe.model, load_weights=start is None)
    # Only pretrained weights know their normalisation: later stages take it from the bundle before.
    preprocess = BundleConfig.read(start / "config.json").preprocess if start else preprocess_config(clip)
    network = create_network(recipe.model, preprocess, tasks, clip)
    if start:
        load_weights(network, start / "model.safetensors")
    return network, preprocess


def freeze(network: Network, stage: StageName, architecture: Architecture) -> None:
    """Leave only the stage's parameters trainable.

    Raises:
        ValueError: no stage would ever train a parameter that is not declared as unused, or the switches of the
            recipe leave this stage nothing to train.
    """
    some_stage = {part for name in ("contrastive", *architecture.stages) for part in TRAINABLE[name]}
    for name, parameter in network.named_parameters():
        part, is_unused = architecture.part_of(name), architecture.is_unused(name)
        if part not in some_stage and not is_unused:
            raise ValueError(
                f"{name} would be trained in no stage of {architecture.title}: its row in model/networks.py has to say"
                f" which of {', '.join(sorted(some_stage))} it is trained as, or that it is unused"
            )
        parameter.requires_grad = part in TRAINABLE[stage] and (stage == "contrastive" or not is_unused)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"stage {stage} has nothing to train in this network")


def train_mode(network: Network, stage: StageName, architecture: Architecture) -> None:
    """Dropout where the stage trains; frozen parts behave as they do when they serve."""
    for name, module in network.named_children():
        module.train(architecture.part_of(name) in TRAINABLE[stage])


def next_command(stage: StageName, model: ModelConfig, recipe_path: Path, data: Path, output: Path, tasks: int) -> str:
    """What to run when this stage is done. A single task needs no tuning (section 3.2.2)."""
    following = next((name for name in NETWORKS[model.architecture].stages if PREVIOUS[name] == stage), None)
    if following is None or (following == "tuning" and tasks == 1):
        return f"python -m serve.export {output / 'bundle'} --deploy deploy"
    return f"deepspeed train/main.py --stage {following} --config {recipe_path} --data {data} --output {output}"
