"""How often is a promised precision missed? Draws products to decide by from a split that nobody trained on.

python -m train.study.promises runs/apa_mini/bundle --data data/apa_mini --precision 0.9 0.95

Each draw has as many products as the split, with replacement, and decides what is accepted. It is judged by the whole
split, which is what the draws are of: so a miss is one of the promise, and not of few products to judge by. Beside the
promise stands the point estimate: the threshold that accepts the most where so many were right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cma_clip.command import command
from cma_clip.tables import markdown
from model.acceptance import Acceptance, Rule
from train.acceptance import GRID, counts, fit_acceptance
from train.answers import Answers, answers_by_task
from train.data import IN_ORDER, ProductDataset
from train.predict import answers_for, open_bundle

Decide = Callable[[Answers, Rule], Acceptance]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    bundle = open_bundle(args.bundle, args.data)
    config = bundle.config
    dataset = ProductDataset(args.data, args.split, config.preprocess, bundle.tokenizer, IN_ORDER, config.tasks)
    said = answers_for(bundle, dataset, args.batch_size)
    judged = [a for a in answers_by_task(said.logits_NC, said.targets_NC, config.tasks) if a.task.is_labelled]
    head = ["task", "products", "precision", "missed", "accepted", "point estimate: missed", "accepted"]
    rows = []
    for answers in tqdm(judged, "tasks", leave=False):
        for precision in args.precision:
            rule = Rule(precision=precision, confidence=args.confidence, per_label=args.per_label)
            shown = [answers.task.name, str(len(answers.targets_NL)), f"{precision:g}"]
            for decide in (fit_acceptance, point_estimate):
                missed, accepted = resampled(answers, rule, decide, args.resamplings)
                shown += [f"{missed:.3f}", f"{accepted:.3f}"]
            rows.append(shown)
    print(markdown(head, rows), end="")


def resampled(answers: Answers, rule: Rule, decide: Decide, times: int) -> tuple[float, float]:
    """How often the precision is missed on the whole split, and how much of it is accepted in the mean."""
    rng, missed, shares = np.random.default_rng(0), 0, []
    for _ in range(times):
        drawn = torch.from_numpy(rng.integers(0, len(answers.targets_NL), len(answers.targets_NL)))
        acceptance = decide(_of(answers, drawn), rule)
        task = answers.task.model_copy(update={"acceptance": acceptance})
        accepted, right = answers._replace(task=task).accepted()
        missed += right < rule.precision * accepted
        shares.append(accepted / len(answers.targets_NL))
    return missed / times, float(np.mean(shares))


def _of(answers: Answers, drawn: torch.Tensor) -> Answers:
    return Answers(answers.task, *(array[drawn] for array in answers[1:]))


def point_estimate(answers: Answers, rule: Rule) -> Acceptance:
    """The threshold from which the promised share of these very products was right, and no confidence."""
    right_NL = answers.targets_NL.numpy()
    accepted_G, wrong_G, _ = counts(answers.task.claimed(answers.scores_NL.numpy()), right_NL)
    enough_G = (accepted_G > 0) & (accepted_G - wrong_G >= rule.precision * accepted_G)
    threshold = float(GRID[np.flatnonzero(enough_G)[-1]]) if enough_G.any() else None
    return Acceptance(rule=rule, thresholds=[threshold] * right_NL.shape[1], products=len(right_NL))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="drawn from (%(default)s)")
    parser.add_argument("--precision", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--per-label", action="store_true")
    parser.add_argument("--resamplings", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
