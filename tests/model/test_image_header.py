"""Headers: what is refused before anything is decoded, and the ordinary images that are not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from cost import costs_less_than
from PIL import Image, ImageCms

from model.config import PreprocessConfig
from model.image_header import inspect
from model.image_header.jpeg import MARKER
from model.images import decode_pixels, image_to_pixels
from model.refusal import Refusal

CONFIG = PreprocessConfig()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def chunk(name: bytes, body: bytes, checksum: bytes | None = None) -> bytes:
    return struct.pack(">I", len(body)) + name + body + (checksum or struct.pack(">I", zlib.crc32(name + body)))


def png(depth: int, colour: int, rows: bytes, *chunks: bytes, side: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + body


def code(data: bytes, config: PreprocessConfig = CONFIG) -> str:
    with pytest.raises(Refusal) as error:
        image_to_pixels(data, config)
    assert "\n" not in str(error.value)
    return error.value.code


JPEG, PNG = encoded(photograph(), "JPEG"), encoded(photograph())
PROGRESSIVE = encoded(photograph(), "JPEG", progressive=True)
COSTLY = {
    "JPEG, EXIF": JPEG[:2] + b"\xff\xe1\x00\x08Exif\0\0" * 500_000 + JPEG[2:],
    "JPEG, empty comments": JPEG[:2] + b"\xff\xfe\x00\x02" * 900_000 + JPEG[2:],
    "JPEG, comments between scans": PROGRESSIVE[:-2] + b"\xff\xfe\x00\x02" * 900_000 + PROGRESSIVE[-2:],
    "PNG, iCCP": PNG[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"y")) * 300_000 + PNG[33:],
    "PNG, empty IDAT": PNG[:33] + chunk(b"IDAT", b"") * 300_000 + PNG[33:],
    "PNG, empty chunks at the end": PNG[:-12] + chunk(b"abCd", b"") * 300_000 + PNG[-12:],
    "GIF, comments": b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe\1a\0" * 100_000 + b"\x3b",
}


@pytest.mark.parametrize("name", COSTLY)
def test_many_small_parts_are_refused_from_the_header(name):
    assert code(COSTLY[name]) == "IMG_TOO_COSTLY"
    assert costs_less_than(0.5, lambda: code(COSTLY[name]))


def test_many_scans_are_refused_and_ten_are_not():
    data = encoded(photograph(640, 480), "JPEG", progressive=True)
    assert inspect(data, CONFIG).scans == 10
    last = [found.start() for found in MARKER.finditer(data) if data[found.start() + 1] == 0xDA][-1]
    again = data[:-2] + data[last:-2] * 400
    limits = {"PROGRESSIVE_JPEG": {"pixels": 27_000_000, "scan_pixels": 100_000_000}}
    assert code(again + data[-2:], PreprocessConfig(image_limits=limits)) == "IMG_TOO_COSTLY"
    assert image_to_pixels(data, PreprocessConfig(image_limits=limits)).any()


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_progressive_photograph_of_24_megapixels_is_accepted(subsampling):
    data = bytearray(encoded(photograph(), "JPEG", progressive=True, subsampling=subsampling))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 4000, 6000)
    header = inspect(bytes(data), CONFIG)
    assert (header.width, header.height, header.scans, header.kind) == (6000, 4000, 10, "PROGRESSIVE_JPEG")


def test_ordinary_metadata_is_accepted():
    """EXIF with a thumbnail, XMP, Photoshop's, an ICC profile, a depth map of 5 MB, and a PNG in pieces of 8 kB."""
    pieces = [b"Exif\0\0" + JPEG, b"http://ns.adobe.com/xap/1.0/\0<x/>", b"Photoshop 3.0\0" + bytes(60_000)]
    pieces += [b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)] * 80
    segments = b"".join(
        struct.pack(">BBH", 0xFF, 0xED if piece[:1] == b"P" else 0xE1, len(piece) + 2) + piece for piece in pieces
    )
    np.testing.assert_array_equal(decode_pixels(JPEG[:2] + segments + JPEG[2:], CONFIG), decode_pixels(JPEG, CONFIG))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    whole = encoded(noise)
    start = whole.index(b"IDAT") + 4
    body = zlib.compress(zlib.decompress(_idat(whole)), 1)
    split = b"".join(chunk(b"IDAT", body[at : at + 1000]) for at in range(0, len(body), 1000))
    data = whole[: start - 8] + split + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_pixels(data, CONFIG), np.asarray(noise))


def _idat(data: bytes) -> bytes:
    found, at = b"", 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        found += data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    return found


TEXTS = {
    "zTXt": chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(bytes(1_200_000))),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(1_200_000))),
    "iCCP": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_200_000))),
    "iCCP bomb": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000))),
    "zTXt of no method": chunk(b"zTXt", b"k\0\7abc"),
    "bad checksum": chunk(b"tEXt", b"a\0b", bytes(4)),
    "broken eXIf": chunk(b"eXIf", b"\xff" * 50),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("behind", [False, True])
def test_metadata_of_a_png_changes_nothing(name, behind):
    at = len(PNG) - 12 if behind else 33
    np.testing.assert_array_equal(decode_pixels(PNG[:at] + TEXTS[name] + PNG[at:], CONFIG), np.asarray(photograph()))


def row_of(value: int, depth: int, samples: int) -> bytes:
    bits = "".join(f"{value:0{depth}b}" for _ in range(8 * samples))
    return b"\0" + int(bits, 2).to_bytes(len(bits) // 8)


@pytest.mark.parametrize(
    ("depth", "colour", "value"),
    [(1, 0, 1), (2, 0, 1), (4, 0, 5), (8, 0, 80), (16, 0, 0x1234), (8, 2, 80), (16, 2, 0x1234)],
)
def test_I12_a_transparent_colour_of_a_png_is_white(depth, colour, value):
    rows = row_of(value, depth, 3 if colour else 1) * 8
    transparent = chunk(b"tRNS", struct.pack(">H", value) * (3 if colour else 1))
    assert (decode_pixels(png(depth, colour, rows, transparent), CONFIG) == 255).all()
    another = chunk(b"tRNS", struct.pack(">H", value ^ (1 << depth - 1)) * (3 if colour else 1))
    np.testing.assert_array_equal(
        decode_pixels(png(depth, colour, rows, another), CONFIG), decode_pixels(png(depth, colour, rows), CONFIG)
    )


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"grey": True}, {"cmyk": True}, {"turned": True}])
@pytest.mark.parametrize("share", [0.35, 0.7])
def test_I3_a_scan_that_was_cut_and_closed_is_truncated(options, share):
    image = photograph(320, 240)
    image = image.convert("L") if "grey" in options else image.convert("CMYK") if "cmyk" in options else image
    exif = Image.Exif()
    exif[0x0112] = 6 if "turned" in options else 1
    more = {"restart_marker_rows": 1} if "restart_marker_rows" in options else {}
    data = encoded(image, "JPEG", quality=90, exif=exif.tobytes(), **more)
    begin = data.index(b"\xff\xda")
    assert code(data[: begin + int(share * (len(data) - begin))].rstrip(b"\xff") + b"\xff\xd9") == "IMG_TRUNCATED"


def test_a_sampling_without_a_name_is_decoded_as_pillow_does():
    """4:4:1: the blocks of 4:2:0 in another order, so that a frame header makes one of the other."""
    data = bytearray(encoded(photograph(64, 64), "JPEG", subsampling="4:2:0"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 128, 32)
    data[frame + 11] = 0x14
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_pixels(bytes(data), CONFIG), np.asarray(image))


def ftyp(*brands: bytes) -> bytes:
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(80)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (ftyp(b"avif", b"mif1"), "AVIF"),
        (ftyp(b"mif1", b"miaf", b"avif"), "AVIF"),
        (ftyp(b"heic", b"mif1"), "HEIC"),
        (ftyp(b"mif1", b"heix"), "HEIC"),
        (ftyp(b"isom", b"mp42"), "MP4"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JXL"),
        (b"\xff\x0a" + bytes(50), "JXL"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "WAV"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(40), "AVI"),
    ],
)
def test_I4_other_formats_are_refused_by_name(data, name):
    with pytest.raises(Refusal, match=f"^IMG_FORMAT_NOT_ALLOWED: {name} is not among JPEG"):
        inspect(data, CONFIG)


def test_the_code_says_what_is_wrong():
    twelve_bits = bytearray(JPEG)
    twelve_bits[JPEG.index(b"\xff\xc0") + 4] = 12
    assert code(bytes(twelve_bits)) == "IMG_FORMAT_NOT_ALLOWED"
    assert code(b"RIFF\x24\0\0\0sfbk" + bytes(40)) == "IMG_UNDECODABLE"
    for text in (b"BMW 320d touring, blue", b"BM", b"BM 46 long enough to hold a header " * 9):
        assert code(text) == "IMG_UNDECODABLE"
    assert code(encoded(photograph(), "BMP")[:500]) == code(encoded(photograph(), "BMP")[:20]) == "IMG_TRUNCATED"
    assert code(PNG[:29] + bytes(4) + PNG[33:]) == "IMG_UNDECODABLE"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_limits_are_of_a_kind_and_configurable(kind):
    data = encoded(photograph(), kind)
    limited = PreprocessConfig(image_limits={kind: {"pixels": 64 * 48 - 1}})
    assert code(data, limited) == "IMG_TOO_MANY_PIXELS"
    assert image_to_pixels(data, PreprocessConfig(image_limits={kind: {"pixels": 64 * 48}})).any()
    assert limited == PreprocessConfig.model_validate_json(limited.model_dump_json())
    assert (inspect(data, CONFIG).width, inspect(data, CONFIG).height) == (64, 48)
    with pytest.raises(ValueError, match="no kind of image TIFF"):
        PreprocessConfig(image_limits={"TIFF": {"pixels": 1}})


def wide_gamut() -> bytes:
    """A profile of linear samples with sRGB's primaries: sRGB's own with other curves, so far from it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in [found for found in range(len(profile) - 4) if profile[found : found + 4] == b"para"]:
        profile[at + 8 : at + 12] = bytes(4)  # one parameter: the exponent
        profile[at + 12 : at + 16] = (1 << 16).to_bytes(4)
    return bytes(profile)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_colours_of_a_profile_become_srgb(kind):
    profile, image = wide_gamut(), Image.new("RGB", (32, 32), (100, 60, 160))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, icc_profile=profile, **options)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    flat = Image.fromarray(decode_pixels(data, CONFIG))
    expected = np.asarray(ImageCms.profileToProfile(flat, source, ImageCms.createProfile("sRGB")))[0, 0]
    found = image_to_pixels(data, CONFIG)[100, 100].astype(int)
    assert np.abs(found - expected).max() <= 1 and np.abs(found - [100, 60, 160]).max() > 20


@pytest.mark.parametrize("profile", [b"broken", bytes(500), wide_gamut()[:200]])
def test_a_broken_profile_and_srgbs_own_change_nothing(profile):
    plain = image_to_pixels(JPEG, CONFIG)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one in (profile, own):
        data = encoded(photograph(), "JPEG", icc_profile=one)
        np.testing.assert_array_equal(image_to_pixels(data, CONFIG), plain)
    grey = encoded(photograph().convert("L"), "JPEG")
    tagged = encoded(photograph().convert("L"), "JPEG", icc_profile=own)
    np.testing.assert_array_equal(image_to_pixels(tagged, CONFIG), image_to_pixels(grey, CONFIG))
