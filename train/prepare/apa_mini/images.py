"""A product image of APA mini: a real dress photograph, dyed and printed.

S side of the image in pixels. Colours are sRGB, 0..255.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from train.prepare.apa_mini.patterns import PATTERNS, smooth_noise

COLORS = {
    "beige": (220, 200, 168),
    "black": (26, 26, 30),
    "blue": (38, 98, 214),
    "brown": (112, 70, 38),
    "burgundy": (112, 16, 44),
    "gold": (204, 160, 44),
    "green": (36, 138, 62),
    "grey": (122, 123, 126),
    "navy": (20, 30, 88),
    "orange": (242, 124, 22),
    "pink": (246, 150, 188),
    "purple": (122, 48, 160),
    "red": (212, 24, 34),
    "silver": (188, 192, 200),
    "turquoise": (44, 196, 196),
    "white": (247, 247, 245),
    "yellow": (252, 218, 46),
}
METALLIC = ("gold", "silver")
ACCENTED = ("floral", "paisley", "graphic")
ACCENTS = np.array(
    ((225, 60, 90), (250, 200, 60), (60, 120, 200), (245, 245, 240), (30, 30, 34), (240, 140, 60)), np.float32
)
LEAF = np.array((60, 120, 60), np.float32)
JPEG_QUALITY = 90
FOLD_CONTRAST, PRINTED_CONTRAST = 0.09, 0.2


def product_image(dress: np.ndarray, color: str, pattern: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Dye and print one photograph.

    Args:
        dress: grey photograph on black, uint8 [28, 28].
    Returns:
        uint8 [S, S, 3].
    """
    alpha, shading = _cut_out(dress, size, rng)
    base = _jittered(COLORS[color], rng)
    fabric = np.broadcast_to(base, (size, size, 3))
    masks = PATTERNS[pattern](rng, size)
    for mask, ink in zip(masks, _inks(base, pattern, rng), strict=False):
        fabric = fabric + mask[..., None] * (ink - fabric)
    fabric = fabric * shading[..., None]
    if color in METALLIC:
        fabric = _metallic(fabric, rng)
    image = _background(size, rng)
    image = image + alpha[..., None] * (fabric - image)
    image = image + rng.normal(0, 2.5, image.shape)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode uint8 [S, S, 3]; full chroma, so that thin coloured stripes survive at 64 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _cut_out(dress: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette and folds, enlarged and moved a little: alpha 0..1 and shading about 1, both [S, S]."""
    grey = dress.astype(np.float32)
    cloth = grey > 20
    usual = float(np.median(grey[cloth]))
    solid = np.clip(grey / max(0.3 * usual, 20), 0, 1)
    folds = np.where(cloth, np.clip(grey / usual - 1, -0.5, 0.3), 0).astype(np.float32)
    contrast = float(folds[cloth].std())
    if contrast > PRINTED_CONTRAST:
        solid = _closed(solid)
    folds *= min(1, FOLD_CONTRAST / max(contrast, 1e-6))
    place = _placement(size, rng)
    alpha = _enlarged(_blurred(solid, 3), size, place)
    depth = _enlarged(_blurred(solid, 5), size, place)
    alpha = np.clip((alpha - 0.45) * size / 16 + 0.5, 0, 1)
    drape = 0.035 * smooth_noise(rng, size, 3, 9)
    return alpha, 0.86 + 0.15 * np.clip(depth, 0, 1) + _enlarged(folds, size, place) + drape


def _placement(size: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Affine map from image pixels to photograph pixels, for PIL."""
    scale = 28 / size / rng.uniform(0.86, 1.0)
    mirrored = rng.choice([-1.0, 1.0]) * scale
    offset = 14 + rng.uniform(-1, 1, 2)
    half = size / 2
    return (mirrored, 0, offset[0] - half * mirrored, 0, scale, offset[1] - half * scale)


def _enlarged(photo: np.ndarray, size: int, place: tuple[float, ...]) -> np.ndarray:
    image = Image.fromarray(photo.astype(np.float32))
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, place, Image.Resampling.BICUBIC))


def _windows(photo: np.ndarray, side: int) -> np.ndarray:
    """The neighbours of every pixel, zero outside: [28, 28] to [28, 28, side, side]."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(photo, side // 2), (side, side))


def _blurred(photo: np.ndarray, side: int) -> np.ndarray:
    return _windows(photo, side).mean((2, 3))


def _closed(photo: np.ndarray) -> np.ndarray:
    """Fill gaps of one or two pixels: the dark parts of a print are cloth too."""
    grown = _windows(photo, 3).max((2, 3))
    return np.maximum(photo, _windows(grown, 3).min((2, 3)))


def _jittered(color: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    shade = np.array(color) * rng.normal(1, 0.04) + rng.normal(0, 5, 3)
    return np.clip(shade, 8, 252).astype(np.float32)


def _inks(base: np.ndarray, pattern: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Three inks that show on the fabric; large areas get a shade of the fabric's own colour."""
    light = base.mean() < 120
    strengths = rng.uniform((0.5, 0.75, 0.3), (0.65, 0.9, 0.4))
    shades = [_toward(base, 255.0 if light else 0.0, strength) for strength in strengths]
    if pattern == "camouflage":
        return [_toward(base, 0, 0.45), _toward(base, 255, 0.4), _toward(base, 255.0 if light else 0.0, 0.7)]
    if pattern not in ACCENTED or rng.random() < 0.4:
        return shades
    visible = [ink for ink in ACCENTS if np.linalg.norm(ink - base) > 110]
    first, second = rng.permutation(len(visible))[:2]
    return [LEAF if pattern == "floral" else shades[0], visible[first], visible[second]]


def _toward(color: np.ndarray, target: float, strength: float) -> np.ndarray:
    return color + (target - color) * np.float32(strength)


def _metallic(fabric: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bright and dark streaks along the folds, and fine glitter."""
    size = fabric.shape[0]
    streaks = smooth_noise(rng, size, 3, 8)[..., None]
    fabric = fabric * (1 + 0.28 * streaks)
    glint = np.clip(streaks - 0.25, 0, 1) * 0.9
    fabric = fabric + glint * (255 - fabric)
    return fabric * (1 + 0.05 * rng.standard_normal((size, size, 1)))


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Near white to light grey or pastel, brighter on one side, float [S, S, 3]."""
    tint = rng.uniform(222, 250) + rng.normal(0, 5, 3)
    slope = smooth_noise(rng, size, 1, 1)[..., None]
    return np.clip(tint + 7 * slope, 0, 254)
