"""How sure a share is that was counted."""

from __future__ import annotations

from scipy.stats import beta

CONFIDENCE = 0.95


def share_of(part: int, whole: int) -> tuple[float, float, float]:
    """A share and its interval by Clopper and Pearson, 95 % between both ends."""
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, part, whole - part + 1) if part else 0.0
    high = beta.isf(tail, part + 1, whole - part) if part < whole else 1.0
    return part / whole, float(low), float(high)
