"""What title and image say of a task's labels, each by itself, held against each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# B batch, L labels of one task

LEAST = 1e-4  # of a ratio of probabilities: title and image that exclude each other are so unlikely, and not impossible


class Evidence(NamedTuple):
    """agreement_B: log of how many times likelier it is that both speak of one product than each of its own.

    title_gain_B: how much more of what both say together the title says than the image, in nats.
    """

    agreement_B: Tensor
    title_gain_B: Tensor


def compare(prior_L: Tensor, title_BL: Tensor, image_BL: Tensor, together_BL: Tensor, several_labels: bool) -> Evidence:
    """From the logits of the labels as often as they are, by the title, by the image and by both.

    Of labels that exclude each other, the agreement is log Σ p(label|title)·p(label|image) / p(label): title and image
    tell of each other by the label alone. Of several labels a product, each is a question of its own. The gain is the
    difference of the cross-entropies with what both say, as softmax(-loss_T, -loss_I) were the label known.
    """
    if several_labels:
        prior_L, title_BL, image_BL, together_BL = (
            torch.stack([logits, torch.zeros_like(logits)], dim=-1)
            for logits in (prior_L, title_BL, image_BL, together_BL)
        )
    else:  # in torch before 2.14 (tried: 2.11), log_softmax of columns that lie apart rules out a batch of one
        title_BL, image_BL = (logits.clone(memory_format=torch.contiguous_format) for logits in (title_BL, image_BL))
    log_title, log_image = title_BL.log_softmax(dim=-1), image_BL.log_softmax(dim=-1)
    likelier = ((log_title + log_image - prior_L.log_softmax(dim=-1)).exp().sum(dim=-1) + LEAST).log()
    gain = (together_BL.softmax(dim=-1) * (log_title - log_image)).sum(dim=-1)
    return Evidence(likelier.sum(dim=1), gain.sum(dim=1)) if several_labels else Evidence(likelier, gain)
