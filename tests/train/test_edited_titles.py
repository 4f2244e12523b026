"""Titles cut off and misspelled: cuts by hand, and each typo judged by a definition of its own."""

from __future__ import annotations

import random

import pytest
from typos import kind_of_typo

from model.preprocess import clean_title
from train.study.edited_titles import cut, misspelled, typo


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("red belted dress size", "red belted"),
        ("red belted dress", "red"),
        ("red dress", "red"),
        ("dress", "dr"),
        ("ab", "a"),
        ("a", "a"),
        ("красное платье", "красное"),
        ("红色连衣裙", "红色"),
        ("\u200b\u200b\u200ba", "\u200b\u200b\u200ba"),  # a zero width space shows nothing
        ("\u200b \u200b red dress", "\u200b \u200b red"),
    ],
)
def test_titles_cut_by_hand(title: str, expected: str):
    assert cut(title) == expected and clean_title(expected, 100)


@pytest.mark.parametrize("word", ["dress", "aaaa", "aabb", "платье", "红色连衣裙", "éßøñ"])
def test_a_typo_is_one_and_every_place_but_the_last_letter_has_them(word: str):
    seen = {typo(word, random.Random(seed)) for seed in range(400)}
    kinds = {other: kind_of_typo(word, other) for other in seen}
    assert None not in kinds.values()
    places, steps = range(len(word) - 1), [n for n in range(len(word) - 1) if word[n] != word[n + 1]]
    assert {other for other, kind in kinds.items() if kind == "swapped"} == {exchanged(word, n) for n in steps}
    for kind, times in (("dropped", 0), ("doubled", 2)):
        expected = {"".join(letter * (times if n == m else 1) for m, letter in enumerate(word)) for n in places}
        assert {other for other in seen if kinds[other] == kind} == expected


def exchanged(word: str, n: int) -> str:
    letters = list(word)
    letters[n], letters[n + 1] = letters[n + 1], letters[n]
    return "".join(letters)


def test_three_words_in_ten_have_a_typo_of_each_kind_alike():
    words = ["dress", "belt", "leather", "gown"] * 2500
    after = misspelled(" ".join(words), random.Random(1)).split(" ")
    kinds = [kind_of_typo(word, other) for word, other in zip(words, after, strict=True) if word != other]
    assert None not in kinds and len(kinds) == pytest.approx(3000, abs=4 * (10_000 * 0.3 * 0.7) ** 0.5)
    # A third each, but in dress, where ss, one place in four, is not swapped: 3/12 there, and 3/8 for the others.
    for kind, in_dress in (("dropped", 3 / 8), ("doubled", 3 / 8), ("swapped", 3 / 12)):
        assert kinds.count(kind) / len(kinds) == pytest.approx((in_dress + 3 / 3) / 4, abs=0.035)


@pytest.mark.parametrize(
    "title", ["the red cup 12345", "20x30cm b2b4 ²²²²½½½½ ⅷⅷⅷⅷ ३४५६ a_b_c_d", "किताब", "l'eau", ""]
)
def test_what_is_no_word_of_four_letters_stays(title: str):
    assert {misspelled(title, random.Random(seed)) for seed in range(50)} == {title}


def test_digits_and_signs_stay_where_words_have_typos():
    title = "xpsx1234 (платье) no-iron²shirt"
    seen = {misspelled(title, random.Random(seed)) for seed in range(50)}
    assert len(seen) > 20
    for after in seen:
        assert [c for c in after if not c.isalpha()] == [c for c in title if not c.isalpha()]
