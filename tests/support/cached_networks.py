"""Networks whose frozen parts are cached, in the paper's form and in the default recipe's."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import tiny_config, tiny_network

from dataset.format import DatasetInfo
from model.cma_clip import CMAClip
from model.config import ModelConfig
from model.tasks import TaskSet
from train.cache.make import Pace

PACE = Pace(batch_size=16, processes=1, loader_workers=0)
FORMS = {
    "paper": tiny_config(),
    "robust": tiny_config(sequence_norm="gated", head_inputs="both", wide=True, convolutions=True),
}


def form_of(name: str, data: Path) -> tuple[CMAClip, ModelConfig, TaskSet]:
    tasks = DatasetInfo.read(data).tasks
    tasks = tasks.with_mismatch() if name == "robust" else tasks
    network = tiny_network(FORMS[name], tasks)
    if network.wide is not None:  # as if it were fitted
        for buffer in (network.wide.words, network.wide.statistics_to_logits, network.wide.frequent):
            buffer.copy_(torch.randn_like(buffer) / 10)
    assert isinstance(network, CMAClip)
    return network.eval(), FORMS[name], tasks
