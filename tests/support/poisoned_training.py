"""train/main.py with a loss that is no number in one forward pass of the second rank: POISONED_FORWARD, from 1.

With POISONED=gradient the loss is fine and its gradient is no number; with POISONED=memory a device has none left.

Beside the run each rank that stops leaves `intact-rankN.json`: whether its weights are those before the update.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import count

import torch

from train import loop
from train.data import Batch
from train.losses import ClassificationObjective, Result
from train.main import main

PLACE = int(os.environ["POISONED_FORWARD"]) if os.environ["RANK"] == "1" else None
forwards = count(1)
forward, update = ClassificationObjective.forward, loop.StageLoop._update


def poisoned_forward(self: ClassificationObjective, batch: Batch) -> Result:
    result = forward(self, batch)
    is_poisoned = self.training and next(forwards) == PLACE
    if is_poisoned and os.environ["POISONED"] == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
    if is_poisoned and os.environ["POISONED"] == "gradient":
        result.loss.register_hook(lambda gradient: gradient * float("nan"))
        return result
    return result._replace(loss=result.loss * float("nan")) if is_poisoned else result


def watched_update(self: loop.StageLoop, batches: Iterator[Batch]) -> tuple[bool, bool]:
    before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
    try:
        return update(self, batches)
    except ValueError:
        is_intact = all(torch.equal(before[name], tensor) for name, tensor in self.network.state_dict().items())
        report = {"updates": self.state.update, "intact": is_intact}
        (self.job.output / f"intact-rank{self.ranks.rank}.json").write_text(json.dumps(report))
        raise


ClassificationObjective.forward = poisoned_forward
loop.StageLoop._update = watched_update

if __name__ == "__main__":
    sys.exit(main())
