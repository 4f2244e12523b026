"""A BMP's header."""

from __future__ import annotations

import struct

from model.image_header.header import Header, Parts, cut_header, damaged

OLD_HEADER_BYTES = 12
V5_HEADER_BYTES = 124
RLE = (1, 2)


def walk(data: bytes, parts: Parts) -> Header:
    """
    Raises:
        Refusal: IMG_TRUNCATED or IMG_UNDECODABLE.
    """
    header_bytes = int.from_bytes(data[14:18], "little")
    if len(data) < 26 or len(data) < 14 + header_bytes:
        raise cut_header("BMP", data)
    if header_bytes == OLD_HEADER_BYTES:
        (width, height, _, bits), compression = struct.unpack_from("<HHHH", data, 18), 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    if width <= 0 or not height or bits not in (1, 2, 4, 8, 16, 24, 32):
        raise damaged("BMP", f"{width} x {height} pixels of {bits} bits")
    rle = compression in RLE
    pixels_begin = int.from_bytes(data[10:14], "little")
    row_bytes = (width * bits + 31) // 32 * 4
    complete = rle or pixels_begin + row_bytes * height <= len(data)
    return Header(
        format="BMP",
        kind="BMP_RLE" if rle else "BMP",
        width=width,
        height=height,
        complete=complete,
        profile=_profile(data) if header_bytes == V5_HEADER_BYTES else b"",
    )


def _profile(data: bytes) -> bytes:
    """What bV5CSType says is embedded ("MBED"), from the header's begin on."""
    begin, size = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + begin :][:size] if data[14 + 56 : 14 + 60] == b"DEBM" else b""
