"""What a typo is, defined apart from the code that makes them."""

from __future__ import annotations

from itertools import groupby


def kind_of_typo(word: str, other: str) -> str | None:
    """What leads from word to other: dropped, doubled or swapped; None where that takes nothing, or more than one."""
    apart = [n for n, pair in enumerate(zip(word, other, strict=False)) if pair[0] != pair[1]]
    if len(other) == len(word) and len(apart) == 2 and apart[1] == apart[0] + 1 and sorted(word) == sorted(other):
        return "swapped"
    if len(other) == len(word) - 1 and is_within(other, word):
        return "dropped"
    runs = [[letter for letter, _ in groupby(text)] for text in (word, other)]
    return "doubled" if len(other) == len(word) + 1 and is_within(word, other) and runs[0] == runs[1] else None


def is_within(short: str, long: str) -> bool:
    """Whether its letters stand in the other in their order."""
    letters = iter(long)
    return all(letter in letters for letter in short)
