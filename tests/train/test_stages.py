"""Which weights a stage trains, held against the words of the paper's section 3.2.2."""

from __future__ import annotations

import pytest
from tiny import tiny_network

from model.networks import NETWORKS
from train.stages import freeze

TEXT_ENCODER = "text encoder"
IMAGE_ENCODER = "image encoder"
SEQUENCE = "sequence-wise attention"
MODALITY = "modality-wise attention"
MLPS = "MLPs"
# Where the parts of the paper's figure 1 are in the network.
PARTS = {
    IMAGE_ENCODER: ("towers.clip.visual.",),
    TEXT_ENCODER: (
        "towers.clip.token_embedding.weight",
        "towers.clip.positional_embedding",
        "towers.clip.transformer.",
        "towers.clip.ln_final.",
        "towers.clip.text_projection",
    ),
    SEQUENCE: ("sequence_attention.",),
    MODALITY: ("modality_heads.relevance",),
    MLPS: (
        "modality_heads.hidden_weight",
        "modality_heads.hidden_bias",
        "modality_heads.output_weight",
        "modality_heads.output_bias",
    ),
}
PAPER = {
    # "the weights of the text and image encoders are frozen. We train the sequencewise attention, the modality-wise
    # attention and the MLPs"
    "warmup": {SEQUENCE, MODALITY, MLPS},
    # "we unfreeze the weights of the text and image encoders, and train all the components together"
    "end_to_end": {TEXT_ENCODER, IMAGE_ENCODER, SEQUENCE, MODALITY, MLPS},
    # "we only train the modality-wise attentions and MLPs"
    "tuning": {MODALITY, MLPS},
}


@pytest.mark.parametrize("stage", PAPER)
def test_a_stage_trains_what_the_paper_says(stage: str):
    network = tiny_network()
    freeze(network, stage, NETWORKS["cma_clip"])
    trained: dict[str, set[bool]] = {part: set() for part in PARTS}
    for name, parameter in network.named_parameters():
        homes = [part for part, prefixes in PARTS.items() if name.startswith(prefixes)]
        if name == "towers.clip.logit_scale":  # CLIP's own loss reads it, and no answer does
            assert not homes and not parameter.requires_grad
            continue
        (home,) = homes
        trained[home].add(parameter.requires_grad)
    assert trained == {part: {part in PAPER[stage]} for part in PARTS}


def test_contrastive_trains_both_towers_and_the_scale_of_their_loss():
    network = tiny_network()
    freeze(network, "contrastive", NETWORKS["cma_clip"])
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == name.startswith("towers.clip."), name


def test_the_paper_stages_follow_each_other_in_its_order():
    assert NETWORKS["cma_clip"].stages == ("warmup", "end_to_end", "tuning")
