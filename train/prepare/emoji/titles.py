"""Titles of emoji: names and tags as people wrote them, in one language a product; some say only whose set it is."""

from __future__ import annotations

import numpy as np

from dataset.seen_ids import hash_of
from train.prepare.emoji.names import LANGUAGES, Emoji, Name

UNINFORMATIVE, ENGLISH = 0.15, 0.4
MOST_TAGS = 2


def product_title(id: str, emoji: Emoji, set_title: str, seed: int) -> str:
    """The title of a product; depends on nothing but these arguments.

    English titles are the name alone: English tags are the labels of `keywords`. Others are the name, the name with
    tags, or tags alone, by equal chances.

    Args:
        set_title: of the vendor's set, which is all that UNINFORMATIVE of the titles say.
    """
    rng = np.random.default_rng((seed, hash_of(id)))
    if rng.random() < UNINFORMATIVE:
        return set_title
    others = [language for language in LANGUAGES[1:] if language in emoji.names]
    if rng.random() < ENGLISH or not others:
        return emoji.names["en"].label
    name = emoji.names[str(rng.choice(others))]
    tags = [name.tags[n] for n in rng.permutation(len(name.tags)) if _adds(name, name.tags[n])][:MOST_TAGS]
    with_name, with_tags = ((True, False), (True, True), (False, True))[rng.integers(3)]
    words = [name.label] if with_name or not tags else []
    return ", ".join(words + tags if with_tags else words)


def _adds(name: Name, tag: str) -> bool:
    """Whether a tag says what the name does not."""
    return tag.lower() not in name.label.lower()
