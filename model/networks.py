"""The architectures, a row each: a new one is a file with its `forward` and a row here.

Importing this needs no torch, so that configurations can be checked where nothing is computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from model.clip_towers import OpenClip
    from model.cma_clip import Network
    from model.config import ModelConfig, PreprocessConfig
    from model.tasks import TaskSet

StageName = Literal["contrastive", "warmup", "end_to_end", "tuning"]

LOGIT_SCALE = "towers.clip.logit_scale"
TEXT_ENCODER = (
    "towers.clip.positional_embedding",
    "towers.clip.transformer.",
    "towers.clip.ln_final.",
    "towers.clip.text_projection",
)
WORDS = ("towers.clip.token_embedding.",)
IMAGE_TOWER = ("towers.clip.visual.",)


@dataclass(frozen=True)
class Architecture:
    """What training and tables must know of a network.

    Attributes:
        build: `module:function`; the function composes the network from a `model.parts.Parts`.
        title: its name in tables and plots.
        stages: what follows contrastive (paper, section 3.2.2).
        unused: prefixes of the parameters that no answer depends on; only contrastive trains them.
        trained_as: module of the network -> `towers`, `sequence_attention` or `modality_heads`, with which it is
            trained; for modules that have other names than these.
    """

    build: str
    title: str
    stages: tuple[StageName, ...] = ("warmup", "end_to_end", "tuning")
    unused: tuple[str, ...] = ()
    trained_as: Mapping[str, str] = field(default_factory=dict)

    def neighbours(self, stage: StageName) -> tuple[StageName | None, StageName | None]:
        """The stage before and the stage after.

        Raises:
            ValueError: the architecture has no such stage.
        """
        chain: tuple[StageName, ...] = ("contrastive", *self.stages)
        if stage not in chain:
            raise ValueError(f"stage {stage}: the stages of {self.title} are {', '.join(self.stages)}")
        place = chain.index(stage)
        return (chain[place - 1] if place else None), (chain[place + 1] if stage != chain[-1] else None)

    def part_of(self, parameter: str) -> str:
        """The name in the stages' table that a parameter, or a module, goes by."""
        module = parameter.partition(".")[0]
        return self.trained_as.get(module, module)

    def is_unused(self, parameter: str) -> bool:
        """Only the contrastive loss has a use for it, if anything has."""
        return parameter.startswith((LOGIT_SCALE, *self.unused))


# The linear probe's towers stay frozen.
NETWORKS: dict[str, Architecture] = {
    "cma_clip": Architecture(
        "model.cma_clip:cma_clip",
        "CMA-CLIP",
        trained_as={"wide": "modality_heads", "convolutions": "sequence_attention", "mismatch": "modality_heads"},
    ),
    "image_only": Architecture("model.rivals:image_only", "image only", unused=TEXT_ENCODER + WORDS),
    "text_only": Architecture(
        "model.rivals:text_only", "text only", unused=(*IMAGE_TOWER, "sequence_attention.image_position")
    ),
    "late_fusion": Architecture("model.rivals:late_fusion", "late fusion"),
    "clip_linear_probe": Architecture("model.rivals:clip_linear_probe", "CLIP linear probe", stages=("warmup",)),
    "mmbt": Architecture("model.rivals:mmbt", "MMBT", unused=TEXT_ENCODER),
}


def check_architecture(name: str) -> str:
    """The name again.

    Raises:
        ValueError: no row has it.
    """
    if name not in NETWORKS:
        raise ValueError(f"{name!r} is none of {', '.join(NETWORKS)}")
    return name


def create_network(config: ModelConfig, preprocess: PreprocessConfig, tasks: TaskSet, clip: OpenClip) -> Network:
    """The network that `config.architecture` names, its towers with the weights of `clip`, the rest random."""
    from model.parts import Parts

    module, function = NETWORKS[config.architecture].build.split(":")
    return getattr(importlib.import_module(module), function)(Parts(config, preprocess, tasks, clip))
