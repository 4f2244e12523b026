"""Encoded image to pixels: the decoders and what each refusal is called. No torch here.

`model.image_header` walks over the headers and holds them against the limits first. An ordinary JPEG is decoded by
libjpeg-turbo without Pillow around it, to the same pixels in less time. Pillow has the last word on everything else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image

from model.colours import conversion_to_srgb
from model.config import PreprocessConfig
from model.image_header import Header, inspect
from model.refusal import Code, Refusal
from model.resize import laid_out, pillow_resize_and_crop, resize_and_crop

# H height, W width

# What turns a stored image upright, by EXIF's orientation: without a copy.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
ROWS_AT_A_TIME = 512  # of what is copied while an image becomes an array
SMALL_PIXELS = 4_000_000  # copied at once, which takes a little less time
SIMPLEJPEG_SPACE = {1: "GRAY", 3: "RGB", 4: "CMYK"}
# libjpeg's warnings of a scan that ends too early, with or without restart markers.
SCANS_AGAIN = "Inconsistent progression sequence"
CUT_SCAN = ("premature end", "found marker 0xd9 instead of RST")


def image_to_pixels(data: bytes, config: PreprocessConfig, header: Header | None = None) -> np.ndarray:
    """Encoded image to sRGB pixels, uint8 [H, W, 3] in 0..255, red first; H and W are the config's image_size.

    Args:
        header: what `inspect` says of it, where it has been asked before.
    Raises:
        Refusal: the image is refused, with an IMG_ code.
    """
    header = header or inspect(data, config)
    to_srgb = conversion_to_srgb(header.profile, header.channels)
    pixels = _decode(header, data)
    if to_srgb is None:
        return resize_and_crop(_rgb(pixels), config.image_size)
    if pixels.shape[2] == 4:
        image = Image.fromarray(laid_out(pixels), "CMYK")
        return to_srgb(np.asarray(pillow_resize_and_crop(image, config.image_size)))
    return to_srgb(resize_and_crop(pixels, config.image_size))


def decode_pixels(data: bytes, config: PreprocessConfig) -> np.ndarray:
    """Encoded image to uint8 [H, W, 3] of its own size, upright: the first frame, transparency on white.

    Colours are those of the image's ICC profile.

    Raises:
        Refusal: the image is refused, with an IMG_ code.
    """
    return laid_out(_rgb(_decode(inspect(data, config), data)))


def decode_image(data: bytes, config: PreprocessConfig) -> Image.Image:
    """The same as decode_pixels by Pillow alone, which decodes what is left of a cut scan.

    Raises:
        Refusal: as decode_pixels.
    """
    header = inspect(data, config)
    return Image.fromarray(laid_out(_rgb(_upright(_decode_by_pillow(header, data), header))))


def _decode(header: Header, data: bytes) -> np.ndarray:
    """uint8 [H, W, 3], or [H, W, 4] of CMYK."""
    pixels = _decode_sound_jpeg(header, data) if header.format == "JPEG" else None
    return _upright(_decode_by_pillow(header, data) if pixels is None else pixels, header)


def _decode_sound_jpeg(header: Header, data: bytes) -> np.ndarray | None:
    """None where libjpeg-turbo so much as warns, does not know the sampling, or reads another size than the header's.

    Raises:
        Refusal: IMG_TRUNCATED, a scan ends too early.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != (header.width, header.height):
            return None
        pixels = np.empty((height, width, header.channels), dtype=np.uint8)
        simplejpeg.decode_jpeg(data, SIMPLEJPEG_SPACE[header.channels], buffer=pixels)
    except KeyError:  # simplejpeg has no name for some samplings, 4:4:1 among them
        return None
    except ValueError as error:
        if any(warning in str(error) for warning in CUT_SCAN):
            raise Refusal(Code.IMG_TRUNCATED, "a scan of the JPEG ends too early") from error
        if SCANS_AGAIN not in str(error):  # then all was decoded, as Pillow does it, which would take as long again
            return None
    if header.channels == 1:
        return pixels.reshape(height, width, 1).repeat(3, axis=2)
    if header.channels == 4:  # as Pillow reads it, and Adobe writes it
        np.subtract(255, pixels, out=pixels)
    return pixels


def _decode_by_pillow(header: Header, data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(header.without_metadata(data)), formats=[header.format])
        if image.size != (header.width, header.height):
            raise ValueError(f"its size is {image.size}")
        image.load()
        return _array(image)
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise Refusal(Code.IMG_TRUNCATED, f"the {header.format} data is incomplete") from error
        raise Refusal(Code.IMG_UNDECODABLE, f"the {header.format} data is damaged") from error


def _array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] on white, or [H, W, 4] of CMYK; strip by strip, for a copy of all costs much memory."""
    width, height = image.size
    if image.mode != "CMYK" and width * height <= SMALL_PIXELS:
        return np.asarray(_on_white(image))
    pixels = np.empty((height, width, 4 if image.mode == "CMYK" else 3), dtype=np.uint8)
    for top in range(0, height, ROWS_AT_A_TIME):
        strip = image.crop((0, top, width, min(top + ROWS_AT_A_TIME, height)))
        pixels[top : top + ROWS_AT_A_TIME] = np.asarray(strip if image.mode == "CMYK" else _on_white(strip))
    return pixels


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """CMYK to RGB without a profile, as Pillow does it."""
    if pixels.shape[2] == 3:
        return pixels
    colours = np.empty((*pixels.shape[:2], 3), dtype=np.uint8)
    for top in range(0, len(pixels), ROWS_AT_A_TIME):
        strip = Image.fromarray(laid_out(pixels[top : top + ROWS_AT_A_TIME]), "CMYK")
        colours[top : top + ROWS_AT_A_TIME] = np.asarray(strip.convert("RGB"))
    return colours


def _upright(pixels: np.ndarray, header: Header) -> np.ndarray:
    """A view, which is laid out row by row where it is read."""
    turn = TURNS.get(header.orientation)
    return pixels if turn is None else turn(pixels)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        levels = ((grey + 128) // 257).astype(np.uint8)
        levels[grey == image.info.get("transparency", -1)] = 255
        return Image.fromarray(levels).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
