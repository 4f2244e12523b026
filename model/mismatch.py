"""What tells whether title and image belong together, beside the head that every task has."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tasks import TaskSet
from model.wide import Wide

# B batch, D width, C labels of all tasks

HIDDEN = 32
NEVER = -30.0  # a logit


class MismatchPart(nn.Module):
    """Adds to the logit of `mismatch` what is alike in title and image.

    That is the cosine of CLIP's two features, which its towers were trained by, and with a wide part that of the
    evidence which words and image statistics give for each task's labels.

    Args:
        tasks: with a Mismatch.
        has_wide: whether there is a wide part.
    """

    is_mismatch_C: Tensor

    def __init__(self, tasks: TaskSet, has_wide: bool) -> None:
        super().__init__()
        places = tasks.split_logits(np.arange(tasks.num_columns)) if has_wide else ()
        self.spans = [slice(int(own[0]), int(own[-1]) + 1) for task, own in places if task.is_labelled]
        self.register_buffer("is_mismatch_C", torch.from_numpy(tasks.is_mismatch_C), persistent=False)
        self.hidden, self.output = nn.Linear(1 + len(self.spans), HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(
        self, logits_BC: Tensor, text_BD: Tensor, image_BD: Tensor, wide: Wide | None, present_B2: Tensor
    ) -> Tensor:
        """The logits again, that of `mismatch` with what was found, or NEVER where title or image is absent.

        Args:
            text_BD, image_BD: CLIP's.
        """
        alike = [F.cosine_similarity(text_BD.float(), image_BD.float())]
        if wide is not None:
            title_BC, image_BC = wide.title_logits_BC, wide.image_logits_BC
            alike += [F.cosine_similarity(title_BC[:, span], image_BC[:, span]) for span in self.spans]
        found_B1 = self.output(F.gelu(self.hidden(torch.stack(alike, dim=1))))
        logits_BC = logits_BC + found_B1 * self.is_mismatch_C
        return logits_BC.masked_fill(self.is_mismatch_C & ~present_B2.all(dim=1, keepdim=True), NEVER)
