"""Colours of an embedded ICC profile to sRGB, by littleCMS through Pillow; open_clip ignores profiles.

It is done on the scaled image: what a profile may cost is then bounded, whatever it holds.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SPACES = {1: ("GRAY", "L"), 3: ("RGB ", "RGB"), 4: ("CMYK", "CMYK")}
# A profile that moves no colour further is sRGB, whatever it is called.
NEAR_LEVELS = 2
# A press's table has up to 3 MB. Several are remembered, so that longer ones would add up.
MOST_PROFILE_BYTES = 4_000_000
Conversion = Callable[[np.ndarray], np.ndarray]


def conversion_to_srgb(profile: bytes, channels: int) -> Conversion | None:
    """What turns uint8 [H, W, 3], or [H, W, 4] of CMYK, into sRGB [H, W, 3]; None where nothing is to be done.

    Nothing is where there is no profile, it is broken, too long, of other channels than the image, or is sRGB's.
    """
    return _conversion(profile, channels) if 0 < len(profile) <= MOST_PROFILE_BYTES else None


@lru_cache(maxsize=16)
def _conversion(profile: bytes, channels: int) -> Conversion | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space
        # Grey pixels with a profile of three colours are read as such colours: an editor writes them.
        wanted, mode = SPACES[3] if channels == 1 and space == "RGB " else SPACES[channels]
        if space != wanted:
            return None
        if mode == "RGB" and _near_srgb(opened):
            return None
        transform = _transform(opened, mode, ImageCms.Intent.PERCEPTUAL)
    except Exception:  # a broken profile says nothing about the image itself; Pillow raises several types
        return None

    def convert(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if mode == "L" else pixels, mode)
        return np.asarray(transform.apply(image))

    return convert


def _transform(profile: ImageCms.ImageCmsProfile, mode: str, intent: ImageCms.Intent) -> ImageCms.ImageCmsTransform:
    # Without a table made beforehand, which may have more entries than the image has pixels.
    return ImageCms.buildTransform(profile, _srgb(), mode, "RGB", intent, ImageCms.Flags.NOOPTIMIZE)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _near_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    there = _transform(profile, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC).apply(Image.fromarray(grid))
    return bool(np.abs(np.asarray(there).astype(int) - grid).max() <= NEAR_LEVELS)
