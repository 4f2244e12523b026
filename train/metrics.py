"""How good the answers are, per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from cma_clip.tables import aligned
from model.tasks import TaskSet
from train.answers import UNSCORED, Answers, answers_by_task, applicability
from train.thresholds import most_at_precision

# N products or scores, C labels of all tasks, K tasks, L labels of one task

BINS = 15
NAMES = (
    "accuracy",
    "micro_f1",
    "macro_f1",
    "mean_average_precision",
    "auroc",
    "recall_at_90_precision",
    "threshold",
    "accepted",
    "accepted_precision",
    "calibration_error",
)

APPLICABILITY = (
    "not_applicable",
    "told_not_applicable",
    "not_applicable_precision",
    "not_applicable_recall",
)


def task_metrics(
    logits_NC: Tensor, text_share_NK: Tensor, targets_NC: Tensor, tasks: TaskSet
) -> dict[str, dict[str, Any]]:
    """Metrics of each task over the products that have its label, and those that it wrongly applies to (Answers).

    Accuracy and F1 of a multi-label task depend on the thresholds that `tasks` bring (0.5 where they bring
    none): a bundle's were fitted on validation, so on validation they flatter. Those of a single-label task
    depend on none. Recall at 90 % precision takes its threshold from these very answers, as the paper does;
    it is no threshold to serve with unless they are validation's.

    Returns:
        task -> products, accuracy (multi-label: all labels right), micro_f1, macro_f1 (labels that
        neither occur nor are answered do not count), mean_average_precision (each label against the
        rest, mean over those that occur), auroc (the same, over those that some products lack),
        recall_at_90_precision (single-label: the share of all
        products that are answered correctly from the threshold on), threshold (the score from which
        precision is 90 %; 1.0 if it never is), accepted (the share of the products of which the bundle accepts a
        label), accepted_precision (of those, how many have no wrong one among the accepted), calibration_error,
        text_share (mean λ). Metrics are None where they mean nothing: no product has the label, or no label occurs.
        Of a task with a condition also APPLICABILITY: how many products it is known not to be asked of, of how many
        of those that are known it is told, how many of these told rightly, and how many of the first are told.
    """
    known = applicability(logits_NC, targets_NC, tasks)
    result: dict[str, dict[str, Any]] = {}
    for answers, share_N in zip(answers_by_task(logits_NC, targets_NC, tasks), text_share_NK.T, strict=True):
        products = len(answers.targets_NL)
        values = _measure(answers) if products else dict.fromkeys(NAMES)
        share = share_N.mean().item() if len(share_N) else None
        result[answers.task.name] = {"products": products, **values, "text_share": share}
        if found := known.get(answers.task.name):
            shares = ratio(found.rightly, found.told), ratio(found.rightly, found.unasked)
            told = (found.unasked, found.told, *shares)
            result[answers.task.name] |= dict(zip(APPLICABILITY, told, strict=True))
    return result


def _measure(answers: Answers) -> dict[str, float | None]:
    right_L, answered_L, occurring_L = label_counts(answers)
    f1_scores = [f1_score(*counts) for counts in zip(right_L, answered_L, occurring_L, strict=True)]
    columns = list(zip(answers.scores_NL.T, answers.targets_NL.T, strict=True))
    precisions = [average_precision(*column) for column in columns]
    scores, right = (array_NT.flatten() for array_NT in answers.claims())
    hits, threshold = most_at_precision(scores, right)
    accepted, rightly = answers.accepted()
    return {
        "accuracy": answers.right().double().mean().item(),
        "micro_f1": f1_score(sum(right_L), sum(answered_L), sum(occurring_L)),
        "macro_f1": _mean(f1_scores),
        "mean_average_precision": _mean(precisions),
        "auroc": _mean([auroc(*column) for column in columns]),
        "recall_at_90_precision": ratio(hits, sum(occurring_L)),
        "threshold": threshold,
        "accepted": ratio(accepted, len(answers.targets_NL)),
        "accepted_precision": ratio(rightly, accepted),
        "calibration_error": calibration_error(scores, right),
    }


def label_counts(answers: Answers) -> tuple[list[int], list[int], list[int]]:
    """For each label the products answered rightly with it, answered with it, and that have it."""
    right_NL = answers.answered_NL & answers.targets_NL
    return right_NL.sum(dim=0).tolist(), answers.answered_NL.sum(dim=0).tolist(), answers.targets_NL.sum(dim=0).tolist()


def ratio(part: int, whole: int) -> float | None:
    """None where there is nothing to divide."""
    return part / whole if whole else None


def f1_score(right: int, answered: int, occurring: int) -> float | None:
    """F1 from counts, which the tables by label want too; None for what neither occurs nor is answered."""
    return ratio(2 * right, answered + occurring)


def average_precision(scores_N: Tensor, right_N: Tensor) -> float | None:
    """Mean precision at each right score, equal scores taken together; None where none is right."""
    return binary_average_precision(_scored(scores_N), right_N.int()).item() if right_N.any() else None


def auroc(scores_N: Tensor, right_N: Tensor) -> float | None:
    """How often a right score is above one that is not, equal ones half; None where all are one or the other."""
    some = right_N.any() and not right_N.all()
    return binary_auroc(_scored(scores_N), right_N.int()).item() if some else None


def _scored(scores_N: Tensor) -> Tensor:
    """With 0 where nothing is scored: torchmetrics takes numbers that are no shares for logits."""
    return scores_N.clamp(min=0)


def calibration_error(scores_N: Tensor, right_N: Tensor) -> float | None:
    """Expected calibration error (Naeini et al. 2015): how far scores are from the share that is right.

    The mean, over 15 equally wide bins [low, high) and weighted by what they hold, of |mean score - share right|.
    torchmetrics gives scores of just 1.0, which float32 often makes of a sure answer, a 16th bin. None where nothing
    is scored.
    """
    scores_N, right_N = scores_N[scores_N != UNSCORED], right_N[scores_N != UNSCORED]
    if not len(scores_N):
        return None
    bins_N = (scores_N * BINS).long().clamp(0, BINS - 1)
    gaps = torch.bincount(bins_N, weights=scores_N.double() - right_N.double(), minlength=BINS)
    return (gaps.abs().sum() / len(scores_N)).item()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def format_table(metrics: dict[str, dict[str, Any]]) -> str:
    """The metrics as a table for people, one line a task, and behind it what `applicability_lines` has."""
    columns = ["products", *(name for name in NAMES if name != "threshold"), "text_share"]
    heads = [
        "products",
        "accuracy",
        "micro F1",
        "macro F1",
        "mAP",
        "AUROC",
        "R@P90",
        "accepted",
        "rightly",
        "ECE",
        "text share λ",
    ]
    lines = [["task", *heads]]
    for name, values in metrics.items():
        lines.append([name, *("n/a" if values[c] is None else f"{values[c]:.4g}" for c in columns)])
    return "\n".join([aligned(lines), *applicability_lines(metrics)])


def applicability_lines(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For people: how often each task that has a condition is rightly told not to be applicable."""
    lines = []
    for name, values in metrics.items():
        if APPLICABILITY[0] in values:
            unasked, told, *shares = (values[key] for key in APPLICABILITY)
            rightly, found = ("n/a" if share is None else f"{share:.1%}" for share in shares)
            lines.append(f"{name}: told not applicable {told} times, {rightly} rightly; {found} of {unasked} are found")
    return lines
