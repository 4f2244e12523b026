"""Walk over a PNG's chunks: what its pixels need, and of the metadata EXIF, XMP and the ICC profile.

Pillow gets a PNG of a header, palette, transparency and one IDAT: texts of any size, broken ones too, change nothing.
"""

from __future__ import annotations

import struct
import zlib

from model.image_header.header import Header, Parts, cut_header, damaged, orientation_of

SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOUR: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), COLOUR_ALPHA: (8, 16)}
CHECKED = (b"IHDR", b"PLTE", b"tRNS")
METADATA = (b"eXIf", b"iTXt", b"iCCP", b"zTXt", b"tEXt")
MOST_METADATA_BYTES = 4_000_000
XMP_KEYWORD, RAW_EXIF_KEYWORD = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"


def walk(data: bytes, parts: Parts) -> Header:
    """
    Raises:
        Refusal: IMG_TOO_COSTLY, IMG_TRUNCATED or IMG_UNDECODABLE.
    """
    if len(data) < 33:
        raise cut_header("PNG", data)
    chunks: dict[bytes, bytes] = {}
    idat: list[slice] = []
    position, complete = 8, False
    while position + 12 <= len(data):
        length, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        body = slice(position + 8, position + 8 + length)
        position = body.stop + 4
        parts.add()
        if name == b"IDAT":
            idat.append(body)
        elif name == b"IEND":
            complete = True
            break
        elif not name.isalpha():
            raise damaged("PNG", f"a chunk named {name!r}")
        elif name in CHECKED or name in METADATA:
            _remember(name, data[body], data[body.stop : position], chunks)
    return _header(chunks, idat, complete)


def _remember(name: bytes, body: bytes, checksum: bytes, chunks: dict[bytes, bytes]) -> None:
    if name in CHECKED:
        if len(checksum) == 4 and zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(checksum):
            raise damaged("PNG", f"the checksum of {name.decode()}")
    elif name in (b"iTXt", b"zTXt", b"tEXt"):
        name = next((key for key in (XMP_KEYWORD, RAW_EXIF_KEYWORD) if body.startswith(key)), b"")
    chunks.setdefault(name, body)


def _header(chunks: dict[bytes, bytes], idat: list[slice], complete: bool) -> Header:
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise damaged("PNG", "it begins without IHDR")
    width, height, depth, colour, compression, filters, _ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if depth not in DEPTHS.get(colour, ()) or compression or filters or not width or not height:
        raise damaged("PNG", f"{width} x {height} pixels of colour type {colour} with {depth} bits")
    if complete and not idat:
        raise damaged("PNG", "it has no IDAT")
    if b"tRNS" in chunks:
        chunks[b"tRNS"] = _transparency(chunks[b"tRNS"], colour, depth)
    length = sum(body.stop - body.start for body in idat)
    needed = [chunk(name, chunks[name]) for name in CHECKED if name in chunks]
    # Pillow reads no checksum of an IDAT.
    essential: tuple[bytes | slice, ...] = (
        SIGNATURE,
        *needed,
        struct.pack(">I", length),
        b"IDAT",
        *idat,
        bytes(4),
        END,
    )
    exif = chunks.get(b"eXIf") or _raw_exif(chunks.get(RAW_EXIF_KEYWORD, b""))
    xmp = _text(chunks.get(XMP_KEYWORD, b""))
    return Header(
        format="PNG",
        kind="PNG_16" if depth == 16 else "PNG",
        width=width,
        height=height,
        channels=1 if colour in (GREY, GREY_ALPHA) else 3,
        complete=complete,
        orientation=orientation_of(exif, xmp) if exif or xmp else 1,
        profile=_inflated(chunks.get(b"iCCP", b"").partition(b"\0")[2][1:]),
        essential=essential,
    )


def _transparency(body: bytes, colour: int, depth: int) -> bytes:
    """The transparent sample values as Pillow compares them: scaled to 8 bits where it scales the pixels.

    It keeps the upper byte of 16-bit colours: they are transparent where the upper bytes are equal.
    """
    values = [int.from_bytes(body[start : start + 2]) for start in range(0, len(body) - 1, 2)]
    if colour == GREY and depth in (2, 4):
        return b"".join((value * (255 // (2**depth - 1)) & 255).to_bytes(2) for value in values)
    if colour == COLOUR and depth == 16:
        return b"".join((value >> 8).to_bytes(2) for value in values)
    return body


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _text(chunk: bytes) -> bytes:
    """The text of an iTXt chunk, empty where it cannot be read."""
    compressed, _, rest = (fields := chunk.partition(b"\0")[2])[:1], fields[1:2], fields[2:]
    text = rest.split(b"\0", 2)[-1]
    return _inflated(text) if compressed == b"\1" else text


def _raw_exif(chunk: bytes) -> bytes:
    """EXIF as ImageMagick writes it into a text: three lines, then hexadecimal digits."""
    text = chunk.partition(b"\0")[2]
    text = _inflated(text[1:]) if text[:1] == b"\0" else text
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _inflated(body: bytes) -> bytes:
    """Inflated up to MOST_METADATA_BYTES; empty where it is more, or broken."""
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(body, MOST_METADATA_BYTES)
    except zlib.error:
        return b""
    return b"" if stream.unconsumed_tail else text
