"""Walk over a JPEG's segments: frame, scans, and the metadata that says how it is turned and coloured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from model.image_header.header import Header, Parts, cut_header, damaged, orientation_of
from model.refusal import Code, Refusal

# A marker in JPEG data: 0xFF followed by neither a stuffed zero, nor a restart, nor filling.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
EOI, SOS, APP0, APP14, APP15, COM = 0xD9, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
FIRST_FRAME = 0xC0
FRAMES = frozenset(range(FIRST_FRAME, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = 0xC2
# The others are lossless, hierarchical or of arithmetic coding: no browser reads them, and they take much longer.
READABLE = (0xC0, 0xC1, PROGRESSIVE)


@dataclass
class Walk:
    """What has been seen so far. `components`: id -> samples, blocks filled up."""

    frame: int = 0
    width: int = 0
    height: int = 0
    components: dict[int, int] = field(default_factory=dict)
    scans: int = 0
    scan_pixels: int = 0
    exif: bytes = b""
    xmp: bytes = b""
    profile: list[bytes] = field(default_factory=list)


def walk(data: bytes, parts: Parts) -> Header:
    """Step from segment to segment: neither a thumbnail's end nor a trailer is taken for the image's.

    Raises:
        Refusal: IMG_TOO_COSTLY, IMG_TRUNCATED, IMG_UNDECODABLE or IMG_FORMAT_NOT_ALLOWED.
    """
    seen, position, kept, essential = Walk(), 2, 0, []
    complete = False
    while found := MARKER.search(data, position):
        marker, start = data[found.start() + 1], found.end()
        if marker == EOI:
            complete = True
            break
        parts.add()
        position = start + max(int.from_bytes(data[start : start + 2]), 2)
        if marker == COM or APP0 < marker <= APP15 and marker != APP14:
            essential.append(slice(kept, found.start()))
            kept = position
        _read(marker, data[start + 2 : position], seen)
    essential.append(slice(kept, len(data)))
    if not seen.frame:
        raise damaged("JPEG", "it ends before its frame") if complete else cut_header("JPEG", data)
    if complete and not seen.scans:
        raise damaged("JPEG", "it has no scan")
    return Header(
        format="JPEG",
        kind=_kind(seen),
        width=seen.width,
        height=seen.height,
        channels=len(seen.components),
        complete=complete,
        scans=seen.scans,
        scan_pixels=seen.scan_pixels,
        orientation=orientation_of(seen.exif, seen.xmp) if seen.exif or seen.xmp else 1,
        profile=_joined(seen.profile),
        essential=tuple(essential) if len(essential) > 1 else (),
    )


def _kind(seen: Walk) -> str:
    """A sequential JPEG of several scans needs all coefficients at once as a progressive one does."""
    if len(seen.components) == 4:
        return "CMYK_JPEG"
    return "PROGRESSIVE_JPEG" if seen.frame == PROGRESSIVE or seen.scans > 1 else "JPEG"


def _read(marker: int, body: bytes, seen: Walk) -> None:
    if marker in FRAMES:
        _read_frame(marker, body, seen)
    elif marker == SOS:
        seen.scans += 1
        count = body[0] if body else 0
        seen.scan_pixels += sum(seen.components.get(id, 0) for id in body[1 : 1 + 2 * count : 2])
    elif marker == 0xE1 and not seen.exif and body.startswith(b"Exif\0\0"):
        seen.exif = body
    elif marker == 0xE1 and not seen.xmp and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        seen.xmp = body
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        seen.profile.append(body[12:])


def _read_frame(marker: int, body: bytes, seen: Walk) -> None:
    """Size and components."""
    if seen.frame:
        raise damaged("JPEG", "it has two frames")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        return  # cut within it; else the decoder says so
    bits, seen.height, seen.width, count = body[0], *(int.from_bytes(body[i : i + 2]) for i in (1, 3)), body[5]
    if bits != 8 or marker not in READABLE:
        what = f"{bits} bits a sample" if bits != 8 else f"frame type {marker - FIRST_FRAME}"
        raise Refusal(Code.IMG_FORMAT_NOT_ALLOWED, f"a JPEG with {what}; 8 bits, and types 0 to 2, are read")
    samplings = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * count, 3)]
    if not seen.width or not seen.height or count not in (1, 3, 4) or any(not h or not v for _, h, v in samplings):
        raise damaged("JPEG", f"{seen.width} x {seen.height} pixels of {count} components")
    seen.frame = marker
    wide, high = (8 * max(sampling[axis] for sampling in samplings) for axis in (1, 2))
    blocks = -(-seen.width // wide) * -(-seen.height // high)
    seen.components = {id: 64 * blocks * h * v for id, h, v in samplings}


def _joined(pieces: list[bytes]) -> bytes:
    """An ICC profile out of its segments: number, count, data; empty where one is missing."""
    if not pieces or any(len(piece) < 2 for piece in pieces):
        return b""
    pieces = sorted(pieces, key=lambda piece: piece[0])
    return b"".join(piece[2:] for piece in pieces) if pieces[0][1] == len(pieces) else b""
