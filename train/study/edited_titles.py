"""Titles as catalogues have them when nobody looks: cut off in the middle, or with typos."""

from __future__ import annotations

import random
from itertools import groupby

from model.preprocess import clean_title

TYPO_RATE = 0.3  # of the words of LEAST_LETTERS or more, each by itself
# A word is a run of Unicode's letters (str.isalpha). All else parts words and stays: digits, ² and Ⅷ among them, signs,
# and the combining marks of scripts such as Devanagari, whose words therefore count as shorter than they are.
LEAST_LETTERS = 4


def cut(title: str) -> str:
    """The first half of the words, rounded down, but one at least; of a single word the first half of its characters.

    Where nothing of that can be seen (formatting characters), as much more as it takes, so no title is cut to nothing.
    """
    words = title.split()
    parts, between = (words, " ") if len(words) > 1 else (list(title), "")
    beginnings = (between.join(parts[:kept]) for kept in range(max(1, len(parts) // 2), len(parts)))
    return next((beginning for beginning in beginnings if clean_title(beginning, len(title.encode()))), title)


def misspelled(title: str, rng: random.Random) -> str:
    """Typos in TYPO_RATE of the words that have LEAST_LETTERS or more."""
    words = ("".join(run) for _, run in groupby(title, str.isalpha))
    return "".join(
        typo(word, rng) if word.isalpha() and len(word) >= LEAST_LETTERS and rng.random() < TYPO_RATE else word
        for word in words
    )


def typo(word: str, rng: random.Random) -> str:
    """The word with a letter dropped, doubled, or swapped with the next: one that is not the last, chosen at random.

    It never comes out as it was: of two equal neighbours the first is dropped or doubled.
    """
    place = rng.randrange(len(word) - 1)
    letter, following = word[place], word[place + 1]
    changed = [following, letter + letter + following, following + letter][: 3 if letter != following else 2]
    return word[:place] + rng.choice(changed) + word[place + 2 :]
