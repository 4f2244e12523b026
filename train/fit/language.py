"""Whether titles are in the language that CLIP's weights know: how many of CLIP's tokens a word takes.

Emojibase's names in 25 languages, 50 titles at a time: English takes 1.06 to 1.17 tokens a word, any other 1.61 and
more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from model.config import PreprocessConfig
from model.preprocess import clean_title
from model.refusal import Refusal
from model.tokenizer import build_tokenizer

CLIPS_VOCABULARY = 49_408
ENGLISH_UP_TO = 1.4
WORD = re.compile(r"[^\W\d_]+")


def tokens_per_word(titles: Iterable[str]) -> float | None:
    """Of CLIP's whole vocabulary, over words of letters; None where there is none."""
    tokenizer = build_tokenizer(CLIPS_VOCABULARY)
    words = [word for title in titles for word in WORD.findall(_cleaned(title))]
    return sum(len(tokenizer.encode(word).ids) for word in words) / len(words) if words else None


def note_for_clips_weights(titles: Iterable[str]) -> str | None:
    """What to know before training on top of CLIP's weights; None where titles look like English."""
    ratio = tokens_per_word(titles)
    if ratio is None or ratio <= ENGLISH_UP_TO:
        return None
    return (
        f"note: a word of the titles takes {ratio:.1f} of CLIP's tokens, an English one about 1.1: CLIP's weights know"
        f" English only, so titles will count for little; without --recipe their words are learned from the products"
    )


def _cleaned(title: str) -> str:
    try:
        return clean_title(title, PreprocessConfig().max_title_bytes)
    except Refusal:
        return ""
