"""What an image is and what it will cost, from a walk over its headers; no decoder sees bytes that are not accepted.

A walker of each format steps from part to part, counts, and remembers what decoding needs, so that metadata neither
costs anything nor decides anything: `Header.without_metadata` is what the decoders read.
"""

from __future__ import annotations

from model.config import PreprocessConfig
from model.image_header import bmp, gif, jpeg, png, webp
from model.image_header.header import Header, Parts
from model.image_header.signature import name_of
from model.refusal import Code, Refusal

WALKERS = {"JPEG": jpeg.walk, "PNG": png.walk, "WEBP": webp.walk, "GIF": gif.walk, "BMP": bmp.walk}


def inspect(data: bytes, config: PreprocessConfig) -> Header:
    """The image's header, once everything that needs no decoding has been held against the limits; takes milliseconds.

    Raises:
        Refusal: IMG_EMPTY, IMG_TOO_MANY_BYTES, IMG_FORMAT_NOT_ALLOWED, IMG_TOO_MANY_PIXELS, IMG_TOO_COSTLY,
            IMG_TRUNCATED or IMG_UNDECODABLE.
    """
    if not data:
        raise Refusal(Code.IMG_EMPTY, "the image has 0 bytes")
    if len(data) > config.max_image_bytes:
        raise Refusal(Code.IMG_TOO_MANY_BYTES, f"{len(data)} bytes, at most {config.max_image_bytes} are accepted")
    name = name_of(data)
    if name is None:
        raise Refusal(Code.IMG_UNDECODABLE, "the data is not an image")
    if name not in config.formats:
        raise Refusal(Code.IMG_FORMAT_NOT_ALLOWED, f"{name} is not among {', '.join(config.formats)}")
    header = WALKERS[name](data, Parts(name, config.image_limits[name].parts))
    _check(header, config)
    if not header.complete:
        raise Refusal(Code.IMG_TRUNCATED, f"the {name} data stops after {len(data)} bytes, before its end")
    return header


def _check(header: Header, config: PreprocessConfig) -> None:
    limit, kind = config.image_limits[header.kind], header.kind.replace("_", " ")
    most = min(limit.pixels, config.max_pixels)
    if header.pixels > most:
        size = f"{header.width} x {header.height}"
        raise Refusal(Code.IMG_TOO_MANY_PIXELS, f"{size}, at most {most} pixels are accepted of a {kind}")
    if header.scan_pixels > limit.scan_pixels:
        work = f"{header.scans} scans go over {header.scan_pixels} samples"
        raise Refusal(Code.IMG_TOO_COSTLY, f"{work}, at most {limit.scan_pixels} are accepted of a {kind}")
