"""What tells whether title and image belong together, beside the head that every task has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tasks import TaskSet

# B batch, D width, C labels of all tasks

HIDDEN = 32
NEVER = -30.0  # a logit


class MismatchPart(nn.Module):
    """Adds to the logit of `mismatch` what the cosine of CLIP's two features tells, which its towers were trained by.

    Args:
        tasks: with a Mismatch.
    """

    is_mismatch_C: Tensor

    def __init__(self, tasks: TaskSet) -> None:
        super().__init__()
        self.register_buffer("is_mismatch_C", torch.from_numpy(tasks.is_mismatch_C), persistent=False)
        self.hidden, self.output = nn.Linear(1, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, logits_BC: Tensor, alike_B1: Tensor) -> Tensor:
        """The logits again, that of `mismatch` with what the cosine, float32, tells."""
        return logits_BC + self.output(F.gelu(self.hidden(alike_B1))) * self.is_mismatch_C

    def only_of_both(self, logits_BC: Tensor, present_B2: Tensor) -> Tensor:
        """The logits again, that of `mismatch` NEVER where title or image is absent."""
        return logits_BC.masked_fill(self.is_mismatch_C & ~present_B2.all(dim=1, keepdim=True), NEVER)
