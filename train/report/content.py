"""What the report shows of one task: figures, curves, and the products that tell most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import beta

from cma_clip.intervals import CONFIDENCE, share_of
from train.acceptance import GRID, counts
from train.answers import UNSCORED, Answers
from train.class_table import class_table

# N products with a label of the task, L labels, G thresholds

POINTS = 100  # of a curve
BINS = 10
PAIRS, CARDS_OF_A_PAIR = 20, 4
CARDS = 24  # of a gallery


class Told(NamedTuple):
    """One task's answers on a split.

    Attributes:
        answers: of the products that it is judged by.
        text_share_N: λ of each.
        named_N: whether the title names the label, as train.study.naming; -1 where it is not known.
    """

    answers: Answers
    text_share_N: np.ndarray
    named_N: np.ndarray


def of_task(told: Told, most_cards: int = CARDS) -> dict[str, Any]:
    """What the template reads; `cards` are places in the split, of which `galleries` holds all."""
    answers = told.answers
    claimed_NL, right_NL = answers.task.claimed(answers.scores_NL.numpy()), answers.targets_NL.numpy()
    score_N = claimed_NL.max(axis=1, initial=0.0)
    wrong_N = ~answers.right().numpy()
    accepted, rightly = answers.accepted()
    curve = precision_by_coverage(claimed_NL, right_NL)
    beyond = [place for place, row in enumerate(curve) if row[4] > accepted]
    return {
        "name": answers.task.name,
        "products": len(wrong_N),
        "right": share_of(int((~wrong_N).sum()), len(wrong_N)),
        "accepted": accepted / len(wrong_N),
        "rightly": share_of(rightly, accepted) if accepted else None,
        "curve": curve,
        "shown": max(0, beyond[0] - 1) if beyond else len(curve) - 1,
        "promised": promised_point(told.answers),
        "calibration": calibration(*answers.claims()),
        "labels": labels(told),
        "confusions": [] if answers.task.several_labels else confusions(told),
        "believed": believed(told),
        "mistakes": cards(told, _most(score_N, wrong_N, most_cards)),
        "least_sure": cards(told, _most(-score_N, answers.scores_NL[:, 0].numpy() != UNSCORED, most_cards)),
    }


def precision_by_coverage(claimed_NL: np.ndarray, right_NL: np.ndarray) -> list[list[float]]:
    """Rows of threshold, share accepted, share of those right, its lower bound (95 %), accepted and wrong products."""
    accepted_G, wrong_G, _ = counts(claimed_NL, right_NL)
    _, firsts = np.unique(accepted_G, return_index=True)
    chosen = [place for place in firsts if accepted_G[place]]
    chosen = (
        [chosen[i] for i in sorted({round(at) for at in np.linspace(0, len(chosen) - 1, POINTS)})] if chosen else []
    )
    rows = []
    for place in chosen:
        accepted, wrong = int(accepted_G[place]), int(wrong_G[place])
        bound = float(beta.ppf(1 - CONFIDENCE, accepted - wrong, wrong + 1)) if accepted > wrong else 0.0
        row = [float(GRID[place]), accepted / len(right_NL), 1 - wrong / accepted, bound, accepted, wrong]
        rows.append([round(value, 5) for value in row])
    return rows


def promised_point(answers: Answers) -> list[float] | None:
    """Share accepted, and share of those right, by what the bundle accepts; None where that is nothing."""
    accepted, right = answers.accepted()
    return [accepted / len(answers.targets_NL), right / accepted] if accepted else None


def calibration(scores_NT: torch.Tensor, right_NT: torch.Tensor) -> list[list[float]]:
    """Rows of mean score, share right and how many, for bins of equal width that hold any."""
    scored_NT = scores_NT != UNSCORED
    scores, right = scores_NT[scored_NT].double(), right_NT[scored_NT].double()
    bins = (scores * BINS).long().clamp(0, BINS - 1)
    rows = []
    for place in range(BINS):
        inside = bins == place
        if inside.any():
            rows.append([scores[inside].mean().item(), right[inside].mean().item(), int(inside.sum())])
    return rows


def labels(told: Told) -> list[dict[str, Any]]:
    """The table by label, with the mean λ of the products that have it."""
    share_N, has_NL = told.text_share_N, told.answers.targets_NL.numpy()
    rows = class_table(told.answers)
    for row, has_N in zip(rows, has_NL.T, strict=True):
        row["text_share"] = float(share_N[has_N].mean()) if has_N.any() else None
    return rows


def confusions(told: Told) -> list[dict[str, Any]]:
    """True label, answer, how many products, and some of them; the most frequent first. No label is one too."""
    true_N, said_N = (_place_of_label(one_hot_NL) for one_hot_NL in (told.answers.targets_NL, told.answers.answered_NL))
    names = [*told.answers.task.labels, "not applicable"]
    pairs = Counter((true, said) for true, said in zip(true_N.tolist(), said_N.tolist(), strict=True) if true != said)
    rows = []
    for (true, said), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS]:
        members = np.flatnonzero((true_N == true) & (said_N == said))[:CARDS_OF_A_PAIR]
        shown = cards(told, members)
        rows.append({"true": names[true], "said": names[said], "count": count, "cards": shown})
    return rows


def _place_of_label(one_hot_NL: torch.Tensor) -> np.ndarray:
    """Int64 [N]; L where there is none."""
    has_NL = torch.cat([one_hot_NL, ~one_hot_NL.any(dim=1, keepdim=True)], dim=1)
    return has_NL.int().argmax(dim=1).numpy()


def believed(told: Told) -> list[dict[str, Any]]:
    """Mean λ of products whose title names the label, and of the others."""
    groups = (("the title names the label", told.named_N == 1), ("it does not", told.named_N == 0))
    return [
        {"which": which, "products": int(of_N.sum()), "text_share": float(told.text_share_N[of_N].mean())}
        for which, of_N in groups
        if of_N.any()
    ]


def perturbed(task: str, perturbations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a task loses of each metric where titles or images say nothing or lie, and its λ then; rows of
    train.study.irrelevant, without those for which no product would do.
    """
    rows = []
    for name, by_task in perturbations.items():
        values = by_task[task]
        pairs = [
            (values["untouched"][key], values[key]) for key in ("accuracy", "recall_at_90_precision", "text_share")
        ]
        if all(value is not None for pair in pairs for value in pair):
            rows.append({"what": name.replace("_", " "), "products": values["products"], "pairs": pairs})
    return rows


def _most(score_N: np.ndarray, of_N: np.ndarray, most: int) -> np.ndarray:
    """Places of the highest scores among some."""
    places = np.flatnonzero(of_N)
    return places[np.argsort(-score_N[places], kind="stable")][:most]


def cards(told: Told, members: Sequence[int] | np.ndarray) -> list[int]:
    return [int(told.answers.place_N[member]) for member in members]


def galleries(page: dict[str, Any]) -> list[list[Any]]:
    """The lists of products of a task's page, to be read and filled in place."""
    fixed = [page[name] for name in ("mistakes", "least_sure", "better", "worse", "other") if name in page]
    return [*fixed, *(pair["cards"] for pair in page["confusions"])]
