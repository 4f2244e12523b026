"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in NumPy."""

from __future__ import annotations

import numpy as np


def philox(counters: np.ndarray, key: int) -> np.ndarray:
    """Four 32-bit words for each counter.

    Args:
        counters: the lowest of the counter's four words; the others are 0.
        key: 64 bits.
    Returns:
        uint32, the shape of `counters` with 4 behind it.
    """
    mask = np.uint64(0xFFFFFFFF)
    words = [counters.astype(np.uint64), *(np.zeros_like(counters, dtype=np.uint64) for _ in range(3))]
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (b >> np.uint64(32)) ^ words[1] ^ np.uint64(low),
            b & mask,
            (a >> np.uint64(32)) ^ words[3] ^ np.uint64(high),
            a & mask,
        ]
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(words, axis=-1).astype(np.uint32)


def uniform(words: np.ndarray) -> np.ndarray:
    """Triton's mapping of 32 random bits to [0, 1) (triton/language/random.py, uint_to_uniform_float)."""
    signed = words.view(np.int32)
    return np.where(signed < 0, -signed - 1, signed).astype(np.float32) * np.float32(4.6566127342e-10)
