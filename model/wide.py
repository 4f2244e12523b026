"""A wide part beside the deep one (Cheng et al., arXiv 1606.07792): words and image statistics straight to the labels.

Transformers learn little from a few thousand images, where a linear model over what needs no training knows much
(RESULTS.md). Titles count by their words and parts of words (`model.title_terms`), images by `model.image_statistics`.
It is fitted before training (`train.fit_wide`) and stays as it is: what it knows of the products to train on by heart
would leave the deep part nothing to learn from them. What validation tells joins the two (`train.joining`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip_towers import text_mask
from model.evidence import compare
from model.image_statistics import FEATURES, ImageStatistics
from model.tasks import TaskSet
from model.title_terms import TitleTerms

# B batch, T token ids, D width, C labels of all tasks, L labels of one, K tasks, R terms, F features

Result = TypeVar("Result")

SPREAD = 5.0  # of the statistics that join I'
MOST_EVIDENCE = 3.0  # λ from 0.05 to 0.95, so that neither side falls silent


class Wide(NamedTuple):
    """What the wide part says of products; all float32.

    logits_BC: of labels by title and image together, of `mismatch` by how little they agree.
    evidence_BK: what speaks for the title against the image, of each task; 0 of those without labels.
    image_BD: joins I'.
    """

    logits_BC: Tensor
    evidence_BK: Tensor
    image_BD: Tensor


class Linear(NamedTuple):
    """One model of a task's labels: what terms and standardised statistics add to the intercept."""

    intercept_L: Tensor
    terms_RL: Tensor
    images_FL: Tensor


class WidePart(nn.Module):
    """Linear models over titles and images together, titles alone and images alone; they say nothing until fitted.

    Attributes:
        frequent: logits of the labels as often as they are, [C]. intercepts [3, C], words [R, 2 C] and
            statistics_to_logits [2 C, F]: of the models, what each term and each statistic adds, beside the other side
            and then alone. Saved with the weights, never trained.
        center, scale: of each statistic, from images to train on (`fit`); saved too.
        strengths: of the deep part's logits and of this one's, for each task, [2, K]; saved too. While a stage trains,
            and until something is known, the deep part's count alone.
    """

    frequent: Tensor
    intercepts: Tensor
    words: Tensor
    statistics_to_logits: Tensor
    center: Tensor
    scale: Tensor
    strengths: Tensor
    task_C: Tensor
    is_mismatch_C: Tensor

    def __init__(self, tasks: TaskSet, width: int, vocab_size: int, image_size: int) -> None:
        super().__init__()
        columns = tasks.num_columns
        self.terms, self.statistics = TitleTerms(vocab_size), ImageStatistics(image_size)
        self.to_width = nn.Linear(FEATURES, width)
        self.register_buffer("frequent", torch.zeros(columns))
        self.register_buffer("intercepts", torch.zeros(3, columns))
        self.register_buffer("words", torch.zeros(self.terms.rows, 2 * columns))
        self.register_buffer("statistics_to_logits", torch.zeros(2 * columns, FEATURES))
        self.register_buffer("center", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.register_buffer("strengths", torch.zeros(2, len(tasks)))
        self.register_buffer("task_C", task_of_columns(tasks), False)
        self.register_buffer("is_mismatch_C", torch.from_numpy(tasks.is_mismatch_C), False)
        self.spans = [self._span(k) for k in range(len(tasks))]
        # Tasks that stand behind `mismatch` were added when it had been trained (train.add).
        trained = [k for k, task in enumerate(tasks) if not task.is_labelled][-1:] or [0]
        self.compared = [(k, task.several_labels, k < trained[0]) for k, task in enumerate(tasks) if task.is_labelled]
        self.join(None)
        nn.init.normal_(self.to_width.weight, std=0.05)
        nn.init.zeros_(self.to_width.bias)

    def _span(self, task: int) -> slice:
        columns = (self.task_C == task).nonzero().flatten().tolist()
        return slice(columns[0], columns[-1] + 1)

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Wide:
        """mask_BT is True up to the end token."""
        return self.of_statistics(input_ids_BT, mask_BT, self.seen(pixels_BHWC), present_B2)

    def seen(self, pixels_BHWC: Tensor) -> Tensor:
        """The statistics of images, float32 [B, F], whatever the matrix products around are computed in."""
        return _in_float32(pixels_BHWC.device.type, self.statistics, pixels_BHWC)

    def of_statistics(self, input_ids_BT: Tensor, mask_BT: Tensor, statistics_BF: Tensor, present_B2: Tensor) -> Wide:
        """What `forward` gives, of what `seen` has found."""
        inputs = (input_ids_BT, mask_BT, statistics_BF, present_B2)
        return _in_float32(statistics_BF.device.type, self._of_statistics, *inputs)

    def _of_statistics(self, input_ids_BT: Tensor, mask_BT: Tensor, statistics_BF: Tensor, present_B2: Tensor) -> Wide:
        features_BF = self.standardised(statistics_BF)
        beside_image_BC, title_BC = self.title_logits(input_ids_BT, mask_BT).chunk(2, dim=1)
        beside_title_BC, image_BC = F.linear(features_BF, self.statistics_to_logits).chunk(2, dim=1)
        has_title_B1 = present_B2[:, :1] & (title_BC != 0).any(dim=1, keepdim=True)  # of words that are known
        together_BC = self.intercepts[0] + beside_image_BC + beside_title_BC
        title_BC, image_BC = self.intercepts[1] + title_BC, self.intercepts[2] + image_BC
        one_BC = torch.where(present_B2[:, 1:], image_BC, title_BC)
        logits_BC = torch.where(has_title_B1 & present_B2[:, 1:], together_BC, one_BC)
        agreement_B, evidence = torch.zeros_like(title_BC[:, 0]), [torch.zeros_like(title_BC[:, 0]) for _ in self.spans]
        for k, several_labels, tells_mismatch in self.compared:
            own = self.spans[k]
            sides = (self.frequent[own], title_BC[:, own], image_BC[:, own], together_BC[:, own])
            found = compare(*sides, several_labels)
            if tells_mismatch:
                agreement_B = agreement_B + found.agreement_B
            evidence[k] = (found.agreement_B + found.title_gain_B).clamp(-MOST_EVIDENCE, MOST_EVIDENCE)
        logits_BC = logits_BC - agreement_B[:, None] * self.is_mismatch_C
        return Wide(logits_BC, torch.stack(evidence, dim=1), self.to_width(SPREAD * features_BF))

    def title_logits(self, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, 2 C]: what the title's terms add beside an image, and alone, each as much as it counts."""
        rows_BN, weights_BN = self.terms(input_ids_BT, mask_BT)
        return (F.embedding(rows_BN, self.words) * weights_BN[:, :, None]).sum(dim=1)

    def standardised(self, features_BF: Tensor) -> Tensor:
        """Statistics of images, of length about 1 each: [B, F]."""
        return (features_BF - self.center) * self.scale / FEATURES**0.5

    def joined(self, deep_BC: Tensor, wide_BC: Tensor) -> Tensor:
        """Both parts' logits, each as strong as it is for the task."""
        return joined(self.strengths[:, self.task_C], deep_BC, wide_BC)

    @torch.no_grad()
    def join(self, strengths_2K: Tensor | None) -> None:
        """Set the strengths; None leaves the deep part alone."""
        deep_alone_21 = torch.tensor([[1.0], [0.0]])
        self.strengths.copy_(deep_alone_21 if strengths_2K is None else strengths_2K)

    @torch.no_grad()
    def set_task(self, task: int, frequent_L: Tensor, models: Sequence[Linear]) -> None:
        """Let this be what is said of a task, by titles and images together, titles alone and images alone."""
        (own, alone), (together, title, image) = self._columns(task), models
        self.frequent[own] = frequent_L
        self.intercepts[:, own] = torch.stack([model.intercept_L for model in models]).to(self.intercepts)
        self.words[:, own], self.words[:, alone] = together.terms_RL, title.terms_RL
        self.statistics_to_logits[own], self.statistics_to_logits[alone] = together.images_FL.T, image.images_FL.T

    def of_task(self, task: int) -> list[Tensor]:
        """The buffers that are this task's alone, where they lie."""
        own, alone = self._columns(task)
        sides = [self.words[:, own], self.words[:, alone], self.statistics_to_logits[own]]
        sides += [self.statistics_to_logits[alone], self.intercepts[:, own]]
        return [self.frequent[own], self.strengths[:, task], *sides]

    def _columns(self, task: int) -> tuple[slice, slice]:
        """Of models over both sides together, and over one side alone."""
        own, columns = self.spans[task], len(self.frequent)
        return own, slice(own.start + columns, own.stop + columns)

    @torch.no_grad()
    def fit(self, features_NF: Tensor, input_ids_NT: Tensor) -> None:
        """Take center and scale from images' statistics, and how rare terms are from titles.

        A statistic that is the same in all images counts nothing.
        """
        features_NF = features_NF.double()
        spread_F = features_NF.std(dim=0, correction=0)
        self.center.copy_(features_NF.mean(dim=0))
        self.scale.copy_(torch.where(spread_F > 1e-6, 1 / spread_F.clamp(min=1e-6), torch.zeros_like(spread_F)))
        self.terms.fit(input_ids_NT, text_mask(input_ids_NT))


def _in_float32(device: str, function: Callable[..., Result], *arguments: Tensor) -> Result:
    """Sums over many products of very different size."""
    if not torch.is_autocast_enabled(device):
        return function(*arguments)
    with torch.autocast(device, enabled=False):
        return function(*arguments)


def joined(strengths_2C: Tensor, deep_BC: Tensor, wide_BC: Tensor) -> Tensor:
    """Both parts' logits, each as strong as it is for the column."""
    return strengths_2C[0] * deep_BC + strengths_2C[1] * wide_BC


def task_of_columns(tasks: TaskSet) -> Tensor:
    """Which task each column of the logits is of: int64 [C]."""
    return torch.cat([torch.full((task.columns,), k) for k, task in enumerate(tasks)])
