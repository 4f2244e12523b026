"""Walk over a GIF's blocks up to its first frame; nobody looks at the others."""

from __future__ import annotations

from model.image_header.header import Header, Parts, cut_header, damaged

EXTENSION, FRAME, TRAILER = 0x21, 0x2C, 0x3B


def walk(data: bytes, parts: Parts) -> Header:
    """
    Raises:
        Refusal: IMG_TOO_COSTLY, IMG_TRUNCATED or IMG_UNDECODABLE.
    """
    if len(data) < 13:
        raise cut_header("GIF", data)
    width, height = (int.from_bytes(data[start : start + 2], "little") for start in (6, 8))
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while position < len(data) and data[position] != FRAME:
        if data[position] == TRAILER:
            raise damaged("GIF", "it has no frame")
        parts.add()
        position = _after_blocks(data, position + 2, parts) if data[position] == EXTENSION else position + 1
    if len(data) < position + 10:
        raise cut_header("GIF", data)
    left, top, wide, high = (int.from_bytes(data[position + i : position + i + 2], "little") for i in (1, 3, 5, 7))
    width, height = max(width, left + wide), max(height, top + high)  # as Pillow enlarges the canvas
    if not width or not height:
        raise damaged("GIF", f"{width} x {height} pixels")
    return Header(format="GIF", kind="GIF", width=width, height=height)


def _after_blocks(data: bytes, position: int, parts: Parts) -> int:
    """Behind an extension's blocks, of which each begins with its length, and the last one's is 0."""
    while position < len(data) and data[position]:
        parts.add()
        position += 1 + data[position]
    return position + 1
