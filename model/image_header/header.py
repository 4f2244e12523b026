"""What a walk over an image's parts finds out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from PIL import Image

from model.refusal import Code, Refusal

EXIF_ORIENTATION = 0x0112
# One segment of a JPEG holds no more; what an entry of a longer block claims is read, so it is not handed on.
MOST_EXIF_BYTES = 65_536
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
# Bytes a pixel that decoding takes at its peak, the pixels of the result (3) and a copy to turn it (3) included.
BYTES_A_PIXEL = {
    "JPEG": 7,
    "PROGRESSIVE_JPEG": 7,
    "CMYK_JPEG": 12,
    "PNG": 8,
    "PNG_16": 8,
    "WEBP": 19,
    "GIF": 8,
    "BMP": 8,
    "BMP_RLE": 10,
}


@dataclass(frozen=True)
class Header:
    """An image before it is decoded.

    Attributes:
        format: Pillow's name, such as JPEG.
        kind: its row in the table of limits.
        width, height: as stored, before it is turned.
        channels: stored samples of a pixel but for transparency: 1 grey, 3 colours (a palette's too), 4 CMYK.
        complete: the data reaches its end.
        scans, scan_pixels: of a JPEG, as ImageLimit has them; elsewhere 1 and the pixels.
        orientation: EXIF's, 1 to 8.
        profile: the embedded ICC profile, empty without one.
        essential: slices of the data that make an image without metadata; empty: all of it.
    """

    format: str
    kind: str
    width: int
    height: int
    channels: int = 3
    complete: bool = True
    scans: int = 1
    scan_pixels: int = 0
    orientation: int = 1
    profile: bytes = field(default=b"", repr=False)
    essential: tuple[bytes | slice, ...] = field(default=(), repr=False)

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def memory(self) -> int:
        """Bytes that decoding takes at most, about."""
        coefficients = 8 * self.pixels if "JPEG" in self.kind and self.scans > 1 else 0
        return BYTES_A_PIXEL[self.kind] * self.pixels + coefficients

    def without_metadata(self, data: bytes) -> bytes:
        """What a decoder needs of the data, and nothing else."""
        if not self.essential:
            return data
        return b"".join(data[piece] if isinstance(piece, slice) else piece for piece in self.essential)


class Parts:
    """Counts the parts of an image that are walked over."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most, self.count = name, most, 0

    def add(self) -> None:
        """
        Raises:
            Refusal: IMG_TOO_COSTLY, there are more than `most`.
        """
        self.count += 1
        if self.count > self.most:
            raise Refusal(Code.IMG_TOO_COSTLY, f"more than {self.most} parts in a {self.name}")


def cut_header(name: str, data: bytes) -> Refusal:
    return Refusal(Code.IMG_TRUNCATED, f"no complete {name} header in {len(data)} bytes")


def damaged(name: str, what: str) -> Refusal:
    return Refusal(Code.IMG_UNDECODABLE, f"the {name} data is damaged: {what}")


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """EXIF's orientation, 1 to 8, of an EXIF block with or without its `Exif` prefix; else XMP's; else 1."""
    block = Image.Exif()
    try:
        block.load(exif[:MOST_EXIF_BYTES])
        value = block.get(EXIF_ORIENTATION)
    except Exception:  # a broken EXIF block says nothing about the image itself
        return 1
    if value is None and (found := XMP_ORIENTATION.search(xmp)):
        value = int(found[1])
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
