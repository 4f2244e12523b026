"""Walk over a WebP's chunks."""

from __future__ import annotations

from model.image_header.header import Header, Parts, cut_header, damaged, orientation_of


def walk(data: bytes, parts: Parts) -> Header:
    """
    Raises:
        Refusal: IMG_TOO_COSTLY, IMG_TRUNCATED or IMG_UNDECODABLE.
    """
    if len(data) < 30:
        raise cut_header("WEBP", data)
    end = 8 + int.from_bytes(data[4:8], "little")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= min(end, len(data)):
        parts.add()
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (b"ICCP", b"EXIF", b"XMP "):
            chunks.setdefault(name, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    width, height = _size(data)
    exif, xmp = chunks.get(b"EXIF", b""), chunks.get(b"XMP ", b"")
    return Header(
        format="WEBP",
        kind="WEBP",
        width=width,
        height=height,
        complete=len(data) >= end,
        orientation=orientation_of(exif, xmp) if exif or xmp else 1,
        profile=chunks.get(b"ICCP", b""),
    )


def _size(data: bytes) -> tuple[int, int]:
    """Of the canvas, by the first chunk; the lossy bit stream has 14 bits for a side, and the lossless one."""
    name = data[12:16]
    if name == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if name == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[start : start + 2], "little") & 0x3FFF for start in (26, 28))
        if width and height:
            return width, height
    raise damaged("WEBP", f"its first chunk is {name!r}")
