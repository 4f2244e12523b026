"""Networks of other tasks over what one has learned; what is of no task, and of the old ones, stays the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.cma_clip import CMAClip
from model.config import BundleConfig
from model.networks import create_network
from model.tasks import Task, TaskSet


def network_of(config: BundleConfig, network: CMAClip, tasks: Sequence[Task]) -> CMAClip:
    """A network of these tasks that has all of `network` but what is its tasks' own, which is random here.

    The towers are the same tensors. `mismatch` takes its part over only where it is among the tasks.
    """
    new = create_network(config.model, config.preprocess, TaskSet(tasks), network.towers.clip)
    assert isinstance(new, CMAClip)
    of_tasks = {f"modality_heads.{name}" for name, _ in new.modality_heads.named_parameters()}
    if new.wide is not None:
        own = ("frequent", "intercepts", "words", "statistics_to_logits", "strengths")
        of_tasks |= {f"wide.{name}" for name in own}
    theirs, names = network.state_dict(), new.state_dict().keys()
    new.load_state_dict({name: theirs[name] for name in names if name not in of_tasks}, strict=False)
    return new.eval()


@torch.no_grad()
def regrouped(
    config: BundleConfig, network: CMAClip, tasks: Sequence[Task], sources: Sequence[tuple[CMAClip, int]]
) -> CMAClip:
    """`network` with other tasks.

    Args:
        sources: of each task the network that has learned it, and its place there.
    """
    new = network_of(config, network, tasks)
    for place, (source, number) in enumerate(sources):
        own, learned = new.modality_heads.of_task(place), source.modality_heads.of_task(number)
        if new.wide is not None and source.wide is not None:
            own, learned = own + new.wide.of_task(place), learned + source.wide.of_task(number)
        for mine, theirs in zip(own, learned, strict=True):
            mine.copy_(theirs)
    return new
