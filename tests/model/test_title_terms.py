"""A title's terms, found from token ids, against its letters; their weights against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer

from model.clip_towers import text_mask
from model.title_terms import BASE, INSIDE, NO_PART, PAIRS, PARTS, TitleTerms
from model.tokenizer import build_tokenizer, token_texts

VOCAB = 8192
START, END = VOCAB - 2, VOCAB - 1
TOKENIZER = build_tokenizer(VOCAB)


def encoded(*titles: str, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = [[START, *TOKENIZER.encode(title).ids, END] for title in titles]
    longest = max(map(len, ids)) + padding
    ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in ids], dtype=torch.int32)
    return ids_BT, text_mask(ids_BT)


def rows_of(terms: TitleTerms, *titles: str, padding: int = 0) -> list[list[int]]:
    rows_BN, weights_BN = terms(*encoded(*titles, padding=padding))
    return [sorted(rows[weights > 0].tolist()) for rows, weights in zip(rows_BN, weights_BN, strict=True)]


def part_row(text: str) -> int:
    hashed = sum(ord(character) * BASE ** (len(text) - 1 - place) for place, character in enumerate(text))
    return VOCAB + PAIRS + hashed % PARTS


def parts_of(word: str) -> list[str]:
    """Three and four characters of a word with a blank before and behind it."""
    padded = f" {word} "
    return [padded[i : i + length] for length in (3, 4) for i in range(len(padded) - length + 1)]


def test_texts_of_tokens_make_the_title():
    texts = token_texts(VOCAB)
    assert len(texts) == VOCAB and texts[START] == " " and texts[END] == ""
    for title in ("red cotton dress", "a zebra's 12 xylophones", "bluestone"):
        spelled = "".join(texts[token] for token in TOKENIZER.encode(title).ids)
        assert spelled.replace(" ", "") == title.replace(" ", "")


def test_words_and_pairs_of_words():
    ids, mask = torch.tensor([[START, 5, 9, 5, END, 0, 0]]), torch.tensor([[True] * 5 + [False] * 2])
    rows_BN, weights_BN = TitleTerms(VOCAB)(ids, mask)
    found = sorted(row for row in rows_BN[weights_BN > 0].tolist() if row < VOCAB + PAIRS)
    title = [START, 5, 9, 5, END]
    pairs = [(a * 31337 + b * 7919 + 13) % PAIRS + VOCAB for a, b in zip(title, title[1:], strict=False)]
    assert found == sorted([5, 9, 5, *pairs])


@pytest.mark.parametrize(
    ("title", "lost"),
    [
        ("red", []),
        ("i", []),
        ("red dress", []),
        ("bluestone", []),  # blu-est-one
        ("tshirt", [" ts", " tsh"]),  # across the blank, t and shirt: three tokens
    ],
)
def test_parts_of_words_are_those_of_its_letters(title: str, lost: list[str]):
    (rows,) = rows_of(TitleTerms(VOCAB), title)
    expected = [part for word in title.split() for part in parts_of(word) if part not in lost]
    assert [row for row in rows if row >= VOCAB + PAIRS] == sorted(map(part_row, expected))


def test_of_a_long_token_the_first_count():
    texts = token_texts(VOCAB)
    token = max(range(VOCAB), key=lambda token: len(texts[token]))
    ids, mask = torch.tensor([[START, token, END]]), torch.ones(1, 3, dtype=torch.bool)
    rows, weights = TitleTerms(VOCAB)(ids, mask)
    parts = [row for row in rows[weights > 0].tolist() if row >= VOCAB + PAIRS]
    text = texts[token]
    assert len(text) > INSIDE and len(parts) == INSIDE + 2, "and a blank before it with its first two and three"
    assert set(parts) == {part_row(part) for part in (*parts_of(text.strip())[: INSIDE + 1], f" {text[:3]}")}


def test_padding_and_other_titles_change_nothing():
    terms = TitleTerms(VOCAB)
    alone = rows_of(terms, "red dress")[0]
    assert rows_of(terms, "red dress", "a long striped cotton dress with buttons", padding=9)[0] == alone
    assert rows_of(terms, "")[0] == [row for row in rows_of(terms, "")[0] if row < VOCAB + PAIRS], "a pair, no part"
    rows, _ = terms(*encoded("red dress"))
    assert rows.max() == VOCAB + PAIRS + NO_PART == terms.rows - 1


def test_the_rarer_a_term_the_more_it_counts():
    titles = ["red dress", "red cap", "blue cap with a red brim", "blue"]
    terms, (ids, mask) = TitleTerms(VOCAB), encoded(*titles)
    even = terms(ids, mask)[1]
    terms.fit(ids, mask)
    rows, weights = terms(ids, mask)
    counts = np.zeros((len(titles), terms.rows))
    for title, (own, is_term) in enumerate(zip(rows, even > 0, strict=True)):
        np.add.at(counts[title], own[is_term].numpy(), 1)
    idf = TfidfTransformer().fit(counts).idf_
    for own, found, is_term in zip(rows, weights, even > 0, strict=True):
        for is_part in (False, True):
            group = is_term & ((own >= VOCAB + PAIRS) == is_part)
            expected = idf[own[group]] / math.sqrt((idf[own[group]] ** 2).sum())
            np.testing.assert_allclose(found[group], expected, rtol=1e-5)
    assert terms.rarity[TOKENIZER.encode("brim").ids[0]] > terms.rarity[TOKENIZER.encode("red").ids[0]]
