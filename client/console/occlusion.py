"""Which words and which parts of an image decided: what a label's score is without each."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from client.classifier import Classifier
from client.errors import ClassifierError
from client.protocol import Answer, Query

GRID = 7  # parts along each side: as many as the image tower has patches
MOST_WORDS = 32  # of a longer title the first ones
IN_FLIGHT = 16
LEAST = 1e-6  # that a score is from 0 and 1: float32 knows no more


@dataclass(frozen=True)
class Decisive:
    """What one label rests on.

    Attributes:
        task, label, score: the answer.
        words: each of the title with the score without it.
        parts_GG: the score without each part of the image, rows from the top; None without an image.
    """

    task: str
    label: str
    score: float
    words: list[tuple[str, float]]
    parts_GG: np.ndarray | None


def decisive(
    classifier: Classifier, title: str, image: bytes, pixels_HWC: np.ndarray | None, labels: Mapping[str, Sequence[str]]
) -> tuple[Answer, list[Decisive]]:
    """Ask for a product, and again without each word and each part of the image, which is painted over in its mean.

    Args:
        image: encoded, or empty. pixels_HWC: the same, uint8.
        labels: task -> its labels, in the order of the bundle's probabilities.
    Raises:
        ClassifierError: the product itself is refused, or the server is away.
    """
    answer = classifier.classify(title, image)
    words = title.split()[:MOST_WORDS]
    queries: list[Query] = [(without_word(title, place), image) for place in range(len(words))]
    if pixels_HWC is not None:
        queries += [(title, without_part(pixels_HWC, part)) for part in range(GRID * GRID)]
    outcomes = list(classifier.classify_many(queries, IN_FLIGHT))
    found = []
    for task, column, label in answered(answer, labels):
        score = float(answer.probabilities[column])
        scores = [_score(outcome, column) for outcome in outcomes]
        told = list(zip(words, scores[: len(words)], strict=True))
        parts_GG = np.array(scores[len(words) :]).reshape(GRID, GRID) if pixels_HWC is not None else None
        found.append(Decisive(task, label, score, told, parts_GG))
    return answer, found


def answered(answer: Answer, labels: Mapping[str, Sequence[str]]) -> list[tuple[str, int, str]]:
    """Task, column of the probabilities, and label, of all that is answered."""
    found, start = [], 0
    for task, names in labels.items():
        found += [(task, start + names.index(label), label) for label in answer.prediction[task]["labels"]]
        start += len(names)
    return found


def without_word(title: str, place: int) -> str:
    words = title.split()
    return " ".join(words[:place] + words[place + 1 :])


def without_part(pixels_HWC: np.ndarray, part: int) -> bytes:
    """An image with one part of GRID by GRID in the mean colour, as PNG: nothing else changes."""
    height, width, _ = pixels_HWC.shape
    row, column = divmod(part, GRID)
    changed = pixels_HWC.copy()
    across = slice(column * width // GRID, (column + 1) * width // GRID)
    changed[row * height // GRID : (row + 1) * height // GRID, across] = pixels_HWC.mean(axis=(0, 1))
    encoded = io.BytesIO()
    Image.fromarray(changed).save(encoded, "PNG")
    return encoded.getvalue()


def fall(score: float, without: float) -> float:
    """By how much less likely a label has become, as log-odds: near 1 scores move little, whatever is taken away."""
    before, after = (min(max(value, LEAST), 1 - LEAST) for value in (score, without))
    return math.log(before / (1 - before)) - math.log(after / (1 - after))


def _score(outcome: Answer | ClassifierError, column: int) -> float:
    """0 where nothing is left to be answered about."""
    return float(outcome.probabilities[column]) if isinstance(outcome, Answer) else 0.0
