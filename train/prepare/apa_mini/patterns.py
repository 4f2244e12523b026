"""The eleven fabric patterns of APA mini, drawn as masks of ink; `plain` has none.

S side of the image in pixels. Lengths are in image sides: 1.0 spans the image.
A pattern gives its masks from the lowest ink to the highest, float32 [S, S] in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Mask = np.ndarray
TAU = 2 * np.pi


def grid(size: int, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels from the image's centre, turned by `angle` radians: u, v [S, S]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def cover(distance: np.ndarray) -> Mask:
    """Antialiased inside (below 0) of a signed distance [S, S]."""
    return np.clip(0.5 - distance * distance.shape[0], 0, 1)


def smooth_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> np.ndarray:
    """Bicubic noise of `rows` by `columns` bumps, about -1 to 1, [S, S]."""
    bumps = rng.uniform(-1, 1, (rows + 2, columns + 2)).astype(np.float32)
    box = (0.5, 0.5, columns + 1.5, rows + 1.5)
    return np.asarray(Image.fromarray(bumps).resize((size, size), Image.Resampling.BICUBIC, box=box))


def bands(t: np.ndarray, period: float, share: float, phase: float) -> Mask:
    """Parallel bands across `t` that cover `share` of it."""
    offset = np.mod(t + phase, period) - period / 2
    return cover(np.abs(offset) - share * period / 2)


def lattice(
    rng: np.random.Generator, size: int, pitch: float, jitter: float = 0.0, turn: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates from the centre of a pixel's cell in a tilted brick lattice: x, y [S, S].

    Args:
        pitch: distance of the cells.
        jitter: how far a centre strays from its place, in pitches.
        turn: every cell's coordinates are turned by an angle of its own.
    """
    u, v = grid(size, rng.uniform(-0.3, 0.3))
    u, v = u + rng.uniform(0, pitch) + 4 * pitch, v + rng.uniform(0, pitch) + 4 * pitch
    row = np.floor(v / pitch).astype(int)
    shift = (row % 2) * pitch / 2
    column = np.floor((u + shift) / pitch).astype(int)
    table = rng.uniform(-1, 1, (3, 31, 37)).astype(np.float32)[:, row % 31, column % 37]
    x = u + shift - (column + 0.5 + jitter * table[0]) * pitch
    y = v - (row + 0.5 + jitter * table[1]) * pitch
    if not turn:
        return x, y
    cos, sin = np.cos(np.pi * table[2]), np.sin(np.pi * table[2])
    return x * cos + y * sin, y * cos - x * sin


def striped(rng: np.random.Generator, size: int) -> list[Mask]:
    lean = rng.choice([0.0, np.pi / 2, np.pi / 4]) + rng.normal(0, 0.04)
    _, v = grid(size, lean)
    period = rng.uniform(0.08, 0.17)
    return [bands(v, period, rng.uniform(0.3, 0.45), rng.uniform(0, period))]


def polka_dot(rng: np.random.Generator, size: int) -> list[Mask]:
    pitch = rng.uniform(0.1, 0.18)
    return [cover(np.hypot(*lattice(rng, size, pitch)) - rng.uniform(0.24, 0.34) * pitch)]


def floral(rng: np.random.Generator, size: int) -> list[Mask]:
    pitch = rng.uniform(0.17, 0.27)
    x, y = lattice(rng, size, pitch, 0.1, turn=True)
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = rng.integers(5, 7)
    radius = pitch * rng.uniform(0.3, 0.38)
    flower = distance - radius * (0.72 + 0.28 * np.cos(petals * angle))
    x, y = lattice(rng, size, pitch * 0.8, 0.15, turn=True)
    leaf = np.abs(y) - 0.11 * pitch * (1 - (x / (0.3 * pitch)) ** 2)
    return [cover(leaf), cover(flower), cover(distance - 0.33 * radius)]


def checkered(rng: np.random.Generator, size: int) -> list[Mask]:
    u, v = grid(size, rng.normal(0, 0.03))
    period = rng.uniform(0.13, 0.24)
    a = bands(u, period, 0.5, rng.uniform(0, period))
    b = bands(v, period, 0.5, rng.uniform(0, period))
    return [a + b - 2 * a * b]


def plaid(rng: np.random.Generator, size: int) -> list[Mask]:
    u, v = grid(size, rng.choice([0.0, np.pi / 4], p=[0.8, 0.2]) + rng.normal(0, 0.03))
    period, share = rng.uniform(0.18, 0.3), rng.uniform(0.35, 0.5)
    phases = rng.uniform(0, period, 2)
    wide = [bands(t, period, share, phase) for t, phase in zip((u, v), phases, strict=True)]
    thin = [bands(t, period, 0.1, phase + period / 2) for t, phase in zip((u, v), phases, strict=True)]
    return [0.45 * (wide[0] + wide[1]), 0.85 * np.maximum(*thin)]


def chevron(rng: np.random.Generator, size: int) -> list[Mask]:
    u, v = grid(size, rng.normal(0, 0.03))
    width, period = rng.uniform(0.13, 0.22), rng.uniform(0.1, 0.17)
    zigzag = np.abs(np.mod(u + rng.uniform(0, width), width) - width / 2)
    return [bands(v + zigzag * rng.uniform(0.9, 1.4), period, rng.uniform(0.35, 0.5), rng.uniform(0, period))]


def animal_print(rng: np.random.Generator, size: int) -> list[Mask]:
    return _zebra(rng, size) if rng.random() < 0.4 else _leopard(rng, size)


def _zebra(rng: np.random.Generator, size: int) -> list[Mask]:
    _, v = grid(size, rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.2))
    period = rng.uniform(0.09, 0.13)
    wave = v + 0.07 * smooth_noise(rng, size, 5, 5) + 0.02 * smooth_noise(rng, size, 12, 12)
    ridge = np.cos(TAU * wave / period) + 0.7 * smooth_noise(rng, size, 9, 9)
    return [cover((0.25 - ridge) * period / 6)]


def _leopard(rng: np.random.Generator, size: int) -> list[Mask]:
    pitch = rng.uniform(0.1, 0.14)
    x, y = lattice(rng, size, pitch, 0.12, turn=True)
    distance, angle = np.hypot(x, 1.25 * y), np.arctan2(y, x)
    distance = distance * (1 + 0.15 * smooth_noise(rng, size, 16, 16))
    ring = np.abs(distance - 0.3 * pitch) - 0.12 * pitch * (1 + 0.8 * np.cos(2 * angle + 1))
    return [0.45 * cover(distance - 0.3 * pitch), cover(ring)]


def geometric(rng: np.random.Generator, size: int) -> list[Mask]:
    return _triangles(rng, size) if rng.random() < 0.5 else _nested_diamonds(rng, size)


def _triangles(rng: np.random.Generator, size: int) -> list[Mask]:
    pitch = rng.uniform(0.13, 0.2)
    u, v = grid(size)
    u, v = u + rng.uniform(0, pitch) + 2, v + rng.uniform(0, pitch) + 2
    shift = np.floor(v / pitch) % 2 * pitch / 2
    x, y = np.mod(u + shift, pitch) - pitch / 2, np.mod(v, pitch)
    up = np.abs(x) * 2 - y
    return [cover(np.maximum(up, y - pitch) + 0.12 * pitch), cover(np.maximum(up, y - pitch) + 0.55 * pitch)]


def _nested_diamonds(rng: np.random.Generator, size: int) -> list[Mask]:
    width, stretch = rng.uniform(0.18, 0.28), rng.uniform(0.7, 1.0)
    u, v = grid(size)
    x = np.mod(u + rng.uniform(0, width), width) - width / 2
    y = (np.mod(v + rng.uniform(0, width), width / stretch) - width / stretch / 2) * stretch
    diamond = (np.abs(x) + np.abs(y)) / np.sqrt(2)
    reach = width / 2 / np.sqrt(2)
    frame = np.abs(diamond - 0.85 * reach) - 0.13 * reach
    return [cover(frame), cover(diamond - 0.42 * reach)]


def camouflage(rng: np.random.Generator, size: int) -> list[Mask]:
    bumps = int(rng.integers(6, 10))
    levels = (0.12, 0.22, 0.38)
    noises = [smooth_noise(rng, size, bumps, bumps) + 0.2 * smooth_noise(rng, size, 20, 20) for _ in levels]
    return [cover((level - noise) / bumps / 2) for level, noise in zip(levels, noises, strict=True)]


def paisley(rng: np.random.Generator, size: int) -> list[Mask]:
    pitch = rng.uniform(0.2, 0.28)
    x, y = lattice(rng, size, pitch, 0.05, turn=True)
    drop = np.full((size, size), np.inf, np.float32)
    for step in np.linspace(0, 1, 9):
        bend = 2.6 * step
        centre_x, centre_y = 0.3 * np.sin(bend) - 0.12, 0.26 - 0.3 * bend / 2
        radius = 0.24 * (1 - 0.88 * step)
        drop = np.minimum(drop, np.hypot(x - centre_x * pitch, y - centre_y * pitch) - radius * pitch)
    eye = np.hypot(x + 0.1 * pitch, y - 0.24 * pitch)
    return [cover(drop), cover(drop + 0.08 * pitch), cover(eye - 0.09 * pitch)]


def graphic(rng: np.random.Generator, size: int) -> list[Mask]:
    u, v = grid(size, rng.normal(0, 0.08))
    radius = rng.uniform(0.1, 0.14)
    x, y = u - rng.uniform(-0.02, 0.02), v + rng.uniform(0.08, 0.16)
    emblem = _EMBLEMS[rng.integers(len(_EMBLEMS))](x, y, radius)
    return [cover(emblem), cover(emblem + 0.4 * radius), _lettering(rng, x, y - 1.35 * radius, radius)]


def _disc(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(x, y) - radius


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    turn = np.abs(np.mod(np.arctan2(x, -y) / TAU * 5 + 0.5, 1) - 0.5) * 2
    return np.hypot(x, y) - radius * (1.15 - 0.65 * turn)


def _heart(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    lobes = np.hypot(np.abs(x) - 0.5 * radius, y + 0.4 * radius) - 0.58 * radius
    tip = (np.abs(x) + np.abs(y + 0.1 * radius)) / np.sqrt(2) - 0.75 * radius
    return np.minimum(lobes, np.where(y > -0.4 * radius, tip, np.inf))


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85 * radius


_EMBLEMS = (_disc, _star, _heart, _square)


def _lettering(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: float) -> Mask:
    """A line of upright bars that reads as a printed word."""
    edges = np.cumsum(rng.uniform(0.12, 0.3, 12)) * radius
    bar = np.searchsorted(edges, x + radius) % 2 == 0
    line = np.maximum(np.abs(x) - radius, np.abs(y) - 0.2 * radius)
    return cover(line) * bar


PATTERNS: dict[str, Callable[[np.random.Generator, int], list[Mask]]] = {
    "plain": lambda rng, size: [],
    "striped": striped,
    "polka dot": polka_dot,
    "floral": floral,
    "checkered": checkered,
    "plaid": plaid,
    "chevron": chevron,
    "animal print": animal_print,
    "geometric": geometric,
    "camouflage": camouflage,
    "paisley": paisley,
    "graphic": graphic,
}
