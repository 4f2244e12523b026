"""Encoded image to pixels: every check, the decoders and what each refusal is called. No torch here.

An ordinary JPEG is decoded by libjpeg-turbo without Pillow around it, to the same pixels in less time. Pillow has
the last word on everything else: it reads every header, and decodes what the other decoder finds a fault in.
"""

from __future__ import annotations

import io
import re

import numpy as np
import simplejpeg
from PIL import Image

from model.config import PreprocessConfig
from model.refusal import Code, Refusal
from model.resize import resize_and_crop

# H height, W width

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"\x00\x00\x01\x00": "ICO",
    b"SIMPLE  =": "FITS",
    b"8BPS": "PSD",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
}
# A marker in JPEG data: 0xFF followed by neither a stuffed zero, nor a restart, nor filling.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
JPEG_END = 0xD9
PNG_END = b"IEND\xaeB`\x82"
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_to_pixels(data: bytes, config: PreprocessConfig) -> np.ndarray:
    """Encoded image to pixels, uint8 [H, W, 3] in 0..255, red first; H and W are the config's image_size.

    Raises:
        Refusal: the image is refused, with an IMG_ code.
    """
    return resize_and_crop(decode_pixels(data, config), config.image_size)


def decode_pixels(data: bytes, config: PreprocessConfig) -> np.ndarray:
    """Encoded image to uint8 [H, W, 3] of its own size, the pixels of decode_image().

    Raises:
        Refusal: as decode_image.
    """
    image = _open_checked(data, config)
    if image.format == "JPEG" and image.mode == "RGB" and _turn(image) is None:
        pixels = _decode_sound_jpeg(data, image.size)
        if pixels is not None:
            return pixels
    return np.asarray(_load(image, data))


def decode_image(data: bytes, config: PreprocessConfig) -> Image.Image:
    """Encoded image to an upright RGB image of its own size: the first frame, transparency on white.

    Raises:
        Refusal: the image is refused, with an IMG_ code.
    """
    return _load(_open_checked(data, config), data)


def _decode_sound_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """None where libjpeg-turbo so much as warns, or reads another size than the one that was checked."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return simplejpeg.decode_jpeg(data, "RGB") if (width, height) == size else None
    except ValueError:
        return None


def _load(image: Image.Image, data: bytes) -> Image.Image:
    try:
        image.load()
        turn = _turn(image)
        return _on_white(image if turn is None else image.transpose(turn))
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise Refusal(Code.IMG_TRUNCATED, f"the {image.format} data is incomplete") from error
        raise Refusal(Code.IMG_UNDECODABLE, f"the {image.format} data is damaged") from error


def _open_checked(data: bytes, config: PreprocessConfig) -> Image.Image:
    """Read the header and hold everything against the limits that needs no decoding."""
    if not data:
        raise Refusal(Code.IMG_EMPTY, "the image has 0 bytes")
    if len(data) > config.max_image_bytes:
        raise Refusal(Code.IMG_TOO_MANY_BYTES, f"{len(data)} bytes, at most {config.max_image_bytes} are accepted")
    image = _open(data, config)
    if image.width * image.height > config.max_pixels:
        raise Refusal(
            Code.IMG_TOO_MANY_PIXELS, f"{image.width} x {image.height}, at most {config.max_pixels} pixels are accepted"
        )
    if _ends_too_early(data):
        raise Refusal(Code.IMG_TRUNCATED, f"the {image.format} data stops after {len(data)} bytes, before its end")
    return image


def _open(data: bytes, config: PreprocessConfig) -> Image.Image:
    """Read the header only; the parsers of other formats never see the data."""
    try:
        return Image.open(io.BytesIO(data), formats=config.formats)
    except Image.DecompressionBombError:
        raise Refusal(Code.IMG_TOO_MANY_PIXELS, f"at most {config.max_pixels} pixels are accepted") from None
    except Exception as error:  # as above: any failure here means that this is no readable image
        name = next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)
        if name in config.formats:
            raise Refusal(Code.IMG_TRUNCATED, f"no complete {name} header in {len(data)} bytes") from error
        if name:
            raise Refusal(Code.IMG_FORMAT_NOT_ALLOWED, f"{name} is not among {', '.join(config.formats)}") from error
        raise Refusal(Code.IMG_UNDECODABLE, "the data is not an image") from error


def _ends_too_early(data: bytes) -> bool:
    """Whether the end marker is missing: Pillow decodes a JPEG that lacks its last bytes without a word."""
    if data.startswith(b"\xff\xd8"):
        return not _jpeg_has_end(data)
    return data.startswith(b"\x89PNG") and PNG_END not in data


def _jpeg_has_end(data: bytes) -> bool:
    """Step from segment to segment, so that neither a thumbnail's end nor a trailer is taken for the image's."""
    position = 2
    while marker := JPEG_MARKER.search(data, position):
        if data[marker.start() + 1] == JPEG_END:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What puts it upright, by its EXIF block."""
    try:
        return UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the image itself
        return None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
