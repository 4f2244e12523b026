"""Titles of APA mini: some name the colour, fewer the pattern, all carry a brand."""

from __future__ import annotations

import numpy as np

COLOR_NAMED, PATTERN_NAMED = 0.67, 0.25

COLOR_WORDS = {
    "beige": ("beige", "sand", "tan"),
    "black": ("black", "jet black"),
    "blue": ("blue", "royal blue"),
    "brown": ("brown", "chocolate"),
    "burgundy": ("burgundy", "wine", "maroon"),
    "gold": ("gold", "golden"),
    "green": ("green", "emerald"),
    "grey": ("grey", "gray"),
    "navy": ("navy", "dark navy"),
    "orange": ("orange", "tangerine"),
    "pink": ("pink", "blush"),
    "purple": ("purple", "violet"),
    "red": ("red", "scarlet"),
    "silver": ("silver", "silvery"),
    "turquoise": ("turquoise", "aqua"),
    "white": ("white", "ivory"),
    "yellow": ("yellow", "lemon"),
}
PATTERN_WORDS = {
    "plain": ("plain", "solid", "solid color"),
    "striped": ("striped", "stripe", "stripes"),
    "polka dot": ("polka dot", "dotted", "dots"),
    "floral": ("floral", "flower print", "flowers"),
    "checkered": ("checkered", "checked", "checkerboard"),
    "plaid": ("plaid", "tartan"),
    "chevron": ("chevron", "zigzag"),
    "animal print": ("animal print", "wild animal"),
    "geometric": ("geometric", "geo print"),
    "camouflage": ("camouflage", "camo"),
    "paisley": ("paisley", "paisley print"),
    "graphic": ("graphic", "graphic print"),
}
BRANDS = {
    "train": (
        *("Redwood", "Bluebell", "Goldsmith", "Greenfield", "Blackthorn", "Whitmore", "Silverton"),
        *("Pinkerton", "Brownlow", "Orangerie", "Stripewell", "Amara", "Velora", "Norwyn", "Lumière"),
        *("Castellan", "Mirabel", "Ondine", "Harrow & Lane", "Tessaly", "Petra Luz", "Kestrel", "Odette"),
        *("Juniper Row", "Lacewing", "Marlowe", "Sorrel", "Finch Avenue", "Calla", "Ravenna"),
    ),
    "validation": (
        *("Redford", "Bluewater", "Goldcrest", "Blackwell", "Whitby", "Greenleaf"),
        *("Isolde", "Cressida", "Thorne & Vale", "Maribelle", "Quillon", "Eastwick"),
    ),
    "test": (
        *("Redmayne", "Bluestone", "Goldberg", "Greyson", "Blackburn", "Greenwich", "Whitehall", "Silverlake"),
        *("Arietta", "Wexford", "Lorelei", "Paloma Rey", "Hartwell", "Ginevra", "Ashcombe", "Delphine"),
    ),
}
ADJECTIVES = (
    ("sleeveless", "long sleeve", "short sleeve", "cap sleeve", "off shoulder", "spaghetti strap"),
    ("casual", "elegant", "summer", "office", "party", "evening", "vintage", "boho", "cocktail"),
    ("stretchy", "cotton", "knit", "lightweight", "flowy", "ruffled", "pleated", "a-line", "bodycon", "wrap"),
    ("v-neck", "crew neck", "scoop neck", "high waist", "plus size", "petite", "belted", "backless"),
)
GARMENTS = ("dress", "midi dress", "maxi dress", "mini dress", "sundress", "shift dress", "gown", "tunic dress")
AUDIENCES = ("", "", "women's", "womens", "ladies'", "for women")


def product_title(split: str, color: str, pattern: str, rng: np.random.Generator, captions: bool = False) -> str:
    """A title in one of a few word orders; colour and pattern are named by chance, and then truly.

    Args:
        captions: both are named always, as by those who describe a image and do not sell a product.
    """
    named_color = rng.choice(COLOR_WORDS[color]) if captions or rng.random() < COLOR_NAMED else ""
    named_pattern = rng.choice(PATTERN_WORDS[pattern]) if captions or rng.random() < PATTERN_NAMED else ""
    kinds = rng.permutation(len(ADJECTIVES))[: rng.integers(1, 4)]
    adjectives = " ".join(rng.choice(ADJECTIVES[kind]) for kind in kinds)
    brand, garment = rng.choice(BRANDS[split]), rng.choice(GARMENTS)
    audience = rng.choice(AUDIENCES)
    orders = (
        (brand, audience, adjectives, named_color, named_pattern, garment),
        (brand, adjectives, named_pattern, garment, audience, named_color),
        (brand, named_color, adjectives, named_pattern, garment, audience),
        (audience, named_pattern, adjectives, garment, "by", brand, named_color),
        (adjectives, garment, named_color, named_pattern, "-", brand, audience),
    )
    words = orders[rng.integers(len(orders))]
    return " ".join(_cased(word, brand) for word in words if word)


def _cased(words: str, brand: str) -> str:
    return words if words == brand else " ".join(word[:1].upper() + word[1:] for word in words.split())
