"""What each stage trains (paper, section 3.2.2)."""

from __future__ import annotations

from model.cma_clip import Network
from model.networks import Architecture, StageName

# The modules that a stage changes, by the names that a network, or its row in model.networks, gives them.
TRAINABLE: dict[StageName, tuple[str, ...]] = {
    "contrastive": ("towers",),
    "warmup": ("sequence_attention", "modality_heads"),
    "end_to_end": ("towers", "sequence_attention", "modality_heads"),
    "tuning": ("modality_heads",),
}


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
