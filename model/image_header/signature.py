"""Which format some bytes are of, by their beginning."""

from __future__ import annotations

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II\xbc": "JPEG XR",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"\x00\x00\x01\x00": "ICO",
    b"SIMPLE  =": "FITS",
    b"8BPS": "PSD",
    b"qoif": "QOI",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "JXL",
    b"\xff\x0a": "JXL",
}
RIFF = {b"WEBP": "WEBP", b"WAVE": "WAV", b"AVI ": "AVI"}
BMP_HEADER_BYTES = {12, 40, 52, 56, 64, 108, 124}
AVIF_BRANDS, HEIC_BRANDS = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def name_of(data: bytes) -> str | None:
    """Pillow's name of the format where Pillow has one, or another usual name; None: nothing that is known."""
    if data.startswith(b"RIFF"):
        return RIFF.get(data[8:12]) if len(data) >= 12 else "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    return next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)


def _iso_media(data: bytes) -> str:
    """AVIF and HEIC share a container with video: the brands tell."""
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[start : start + 4] for start in (0, *range(8, len(box) - 3, 4))}
    return "AVIF" if brands & AVIF_BRANDS else "HEIC" if brands & HEIC_BRANDS else "MP4"


def _bmp(data: bytes) -> str | None:
    """A text may begin with the same two letters."""
    if len(data) < 18:
        return "BMP" if b"\0" in data else None
    return "BMP" if int.from_bytes(data[14:18], "little") in BMP_HEADER_BYTES else None
