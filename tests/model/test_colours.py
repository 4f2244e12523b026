"""Profiles built here from published primaries, and their colours against arithmetic that knows no littleCMS."""

from __future__ import annotations

import io
import struct
from itertools import product

import numpy as np
import pytest
from PIL import Image

from model.colours import conversion_to_srgb
from model.config import PreprocessConfig
from model.images import image_to_pixels

CONFIG = PreprocessConfig()
D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Name -> chromaticities x, y of red, green and blue (IEC 61966-2-1, SMPTE EG 432-1, Adobe RGB (1998), ISO 22028-2),
# the white that they are of, the curve: an exponent, or sRGB's.
SPACES = {
    "sRGB": ([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], D65, SRGB_CURVE),
    "Display P3": ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], D65, SRGB_CURVE),
    "Adobe RGB": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], D65, (563 / 256,)),
    "ProPhoto RGB": ([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], D50, (1.8,)),
}


def to_xyz(name: str) -> np.ndarray:
    """Linear samples of a space to XYZ of D50, [3, 3]."""
    primaries, white, _ = SPACES[name]
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    cones = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ columns @ np.diag(np.linalg.solve(columns, white))


def linear(samples: np.ndarray, curve: tuple[float, ...]) -> np.ndarray:
    if len(curve) == 1:
        return samples ** curve[0]
    g, a, b, c, d = curve
    return np.where(samples >= d, (a * samples + b) ** g, c * samples)


def srgb_levels(xyz: np.ndarray) -> np.ndarray:
    """XYZ of D50 [..., 3] to sRGB 0..255, what lies outside cut off."""
    samples = np.clip(xyz @ np.linalg.inv(to_xyz("sRGB")).T, 0, 1)
    return 255 * np.where(samples > 0.0031308, 1.055 * samples ** (1 / 2.4) - 0.055, 12.92 * samples)


def fixed(*numbers: float) -> bytes:
    """ICC's s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def icc(space: bytes, connection: bytes, version: int, **tags: bytes) -> bytes:
    """A profile of no more than that."""
    body, table = b"", b""
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sB3x4s4s4s12x4s", 0, b"", version, b"mntr", space, connection, b"acsp")
    head = head.ljust(68, b"\0") + fixed(*D50)
    profile = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def curve_tag(curve: tuple[float, ...]) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">H2x", 0 if len(curve) == 1 else 3) + fixed(*curve)


def rgb_profile(name: str) -> bytes:
    columns = dict(zip(("rXYZ", "gXYZ", "bXYZ"), to_xyz(name).T, strict=True))
    tags = {tag: b"XYZ \0\0\0\0" + fixed(*column) for tag, column in columns.items()}
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve_tag(SPACES[name][2]))
    return icc(b"RGB ", b"XYZ ", 4, **tags, **curves)


def lab_of_inks(inks: np.ndarray) -> np.ndarray:
    """L*, a*, b* of full inks [..., 4], each 0 or 1, of an invented press: each lets a share of linear sRGB through."""
    lets_through = np.array([[0.05, 0.4, 0.75], [0.7, 0.06, 0.25], [0.9, 0.75, 0.06], [0.04, 0.04, 0.05]])
    rgb = np.array([0.9, 0.88, 0.8]) * np.where(inks[..., None] == 1, lets_through, 1).prod(axis=-2)
    rgb[inks.sum(-1) == 4] = 0  # so that black point compensation has nothing to do
    shares = rgb @ to_xyz("sRGB").T / D50
    f = np.where(shares > (6 / 29) ** 3, np.cbrt(shares), shares / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def cmyk_profile() -> bytes:
    """A table of the 16 full inks (lut16Type)."""
    grid = np.array(list(product((0, 1), repeat=4)), dtype=float)
    lab = lab_of_inks(grid) * [652.8, 256, 256] + [0, 32768, 32768]
    table = b"mft2\0\0\0\0\4\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    straight = struct.pack(">HH", 0, 65535)
    A2B0 = table + 4 * straight + lab.round().astype(">u2").tobytes() + 3 * straight
    return icc(b"CMYK", b"Lab ", 2, A2B0=A2B0)


def xyz_of_lab(lab: np.ndarray) -> np.ndarray:
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return D50 * np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2)


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB", "ProPhoto RGB"])
def test_colours_of_wide_spaces_are_those_of_their_primaries(name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    convert = conversion_to_srgb(rgb_profile(name), 3)
    assert convert is not None
    expected = srgb_levels(linear(pixels / 255, SPACES[name][2]) @ to_xyz(name).T)
    assert np.abs(convert(pixels) - expected).max() <= 1
    assert np.abs(expected - pixels).max() > 100  # what is lost where the profile is ignored


def test_srgb_built_from_its_primaries_is_left_alone():
    assert conversion_to_srgb(rgb_profile("sRGB"), 3) is None
    np.testing.assert_allclose(to_xyz("sRGB").sum(axis=1), D50, atol=2e-4)


def test_a_profile_of_any_length_is_not_remembered():
    assert conversion_to_srgb(rgb_profile("Display P3").ljust(4_000_000, b"\0"), 3)
    assert conversion_to_srgb(rgb_profile("Display P3").ljust(4_000_001, b"\0"), 3) is None


def test_grey_with_a_linear_curve():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    convert = conversion_to_srgb(icc(b"GRAY", b"XYZ ", 4, kTRC=curve_tag((1.0,))), 1)
    assert convert is not None
    assert np.abs(convert(levels) - srgb_levels(levels / 255 * D50)).max() <= 1


def test_inks_of_a_cmyk_profile():
    """The full inks, and along each: there every way to interpolate is a straight line in L*a*b*."""
    corners = np.array(list(product((0, 1), repeat=4)), dtype=float)
    pairs = [(a, b) for a, b in product(corners, corners) if (b - a).sum() == 1 and (b >= a).all()]
    edges = np.array([[255 * (a + t * (b - a)) for t in (0, 0.2, 0.6, 1)] for a, b in pairs]).round()
    shares = (edges - edges[:, :1]).sum(axis=-1, keepdims=True) / 255
    begin, end = (lab_of_inks(edges[:, at] / 255)[:, None] for at in (0, -1))
    convert = conversion_to_srgb(cmyk_profile(), 4)
    assert convert is not None
    expected = srgb_levels(xyz_of_lab(begin + shares * (end - begin)))
    assert np.abs(convert(edges.astype(np.uint8)) - expected).max() <= 2


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_cmyk_jpeg_with_a_profile():
    inks = np.array([255, 0, 51, 0])
    image = Image.new("CMYK", (32, 32), tuple(inks.tolist()))
    plain, tagged = (encoded(image, "JPEG", quality=100, icc_profile=p) for p in (b"", cmyk_profile()))
    begin, end = lab_of_inks(np.array([[1.0, 0, 0, 0], [1.0, 0, 1, 0]]))
    expected = srgb_levels(xyz_of_lab(begin + 0.2 * (end - begin)))
    assert np.abs(image_to_pixels(tagged, CONFIG)[100, 100] - expected).max() <= 4
    assert np.abs(image_to_pixels(plain, CONFIG)[100, 100] - expected).max() > 30


def test_a_bmp_of_version_5_with_a_profile():
    profile, side = rgb_profile("Display P3"), 8
    begin, row = 124, bytes((40, 60, 200)) * side  # blue first
    info = struct.pack("<IiiHHI", 124, side, side, 1, 24, 0).ljust(56, b"\0") + b"DEBM"
    info = info.ljust(112, b"\0") + struct.pack("<III", begin + side * len(row), len(profile), 0)
    pixels = row * side
    head = b"BM" + struct.pack("<IIi", 14 + len(info + pixels + profile), 0, 14 + len(info))
    expected = srgb_levels(linear(np.array([200, 60, 40]) / 255, SRGB_CURVE) @ to_xyz("Display P3").T)
    found = image_to_pixels(head + info + pixels + profile, CONFIG)[100, 100]
    assert np.abs(found - expected).max() <= 1 and np.abs(expected - [200, 60, 40]).max() > 10
    for damaged in (head + info + pixels, (head + info + pixels + profile).replace(b"DEBM", b"KNIL")):
        assert image_to_pixels(damaged, CONFIG)[100, 100].tolist() == [200, 60, 40]
