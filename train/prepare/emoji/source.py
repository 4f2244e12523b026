"""Where the emoji are: npm packages of fixed versions and known sums, in a folder, the cache, or downloaded."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train.prepare import packages

CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """One npm package: `name@version`, and the sum that npm lists as `integrity`, sha512 in base64."""

    spec: str
    sha512: str

    @property
    def file(self) -> str:
        return packages.packed_name(self.spec)


@dataclass(frozen=True)
class Vendor:
    """Who drew a set of emoji.

    Attributes:
        title: of the set.
        license: of the drawings.
        folder, ending: before and after the code points in the names of the package's files.
    """

    title: str
    license: str
    package: Package
    folder: str
    ending: str = ".png"


NAMES = Package(
    "emojibase-data@17.0.0", "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="
)
VENDORS = {
    "noto": Vendor(
        "Noto Emoji",
        "Apache-2.0",
        Package(
            "emoji-datasource-google@16.0.0",
            "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        ),
        "package/img/google/64/",
    ),
    "twemoji": Vendor(
        "Twemoji",
        "CC-BY-4.0",
        Package(
            "emoji-datasource-twitter@16.0.0",
            "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        ),
        "package/img/twitter/64/",
    ),
    "fluent": Vendor(
        "Fluent Emoji 3D",
        "MIT",
        Package(
            "@lobehub/fluent-emoji-3d@1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        "package/assets/",
        ".webp",
    ),
    # The last 2.x: from 3.0 on the drawings are not free.
    "emojione": Vendor(
        "EmojiOne",
        "CC-BY-4.0",
        Package(
            "emojione@2.2.7",
            "Gbf8qysc34+TFUS5HPwOUY62v8gjLuPmfVTWUR/zirULSYUe/D3MrvYo0W5Y2gScF1YI7EBe5t81IbD8q144Ag==",
        ),
        "package/assets/png/",
    ),
}


def all_packages() -> list[Package]:
    """The names first, then the drawings."""
    return [NAMES, *(vendor.package for vendor in VENDORS.values())]


def find() -> Path:
    """The folder with all packages: the cache, filled by npm with 253 MB if it lacks one.

    Raises:
        ValueError: they cannot be downloaded.
    """
    wanted = all_packages()
    specs = " ".join(package.spec for package in wanted)
    cure = f"install npm, or run `npm pack {specs}` elsewhere and pass --source FOLDER with the .tgz files"
    cache = packages.cache_directory("emoji")
    return packages.find("Emoji", (cache,), [package.file for package in wanted], (from_npm,), cure)


def from_npm(work: Path) -> Path:
    """The packages, in `work`.

    Raises:
        OSError, subprocess.SubprocessError: there is no npm, it failed, or a package is another one.
    """
    for package in all_packages():
        packages.pack(package.spec, work)
        if wrong := _wrong(package, work):
            raise OSError(wrong)
    return work


def check(folder: Path) -> None:
    """Refuse a folder that lacks a package, or holds a damaged one.

    Raises:
        ValueError: naming the first such file.
    """
    for package in all_packages():
        if not (folder / package.file).is_file():
            raise ValueError(f"{folder / package.file}: no such file; `npm pack {package.spec}` makes it")
        if wrong := _wrong(package, folder):
            raise ValueError(f"{folder / wrong}; delete it and run `npm pack {package.spec}` there")


def _wrong(package: Package, folder: Path) -> str | None:
    digest = hashlib.sha512()
    with (folder / package.file).open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    found = base64.b64encode(digest.digest()).decode()
    return None if found == package.sha512 else f"{package.file}: not {package.spec}, its sha512 is {found}"


def read_drawings(folder: Path, vendor: Vendor) -> dict[str, bytes]:
    """Code points, such as `1f469-200d-1f373`, to the encoded image of all that the vendor drew.

    Raises:
        ValueError: that is nothing.
    """
    start, end = vendor.folder, vendor.ending
    found = _members(folder / vendor.package.file, lambda name: name.startswith(start) and name.endswith(end))
    if not found:
        raise ValueError(f"{folder / vendor.package.file}: no {start}*{end} in it")
    return {plain_code(name[len(start) : -len(end)]): data for name, data in found.items()}


def read_texts(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Those files below `package/` of the package of names.

    Raises:
        ValueError: one is missing.
    """
    found = _members(folder / NAMES.file, {f"package/{name}" for name in names}.__contains__)
    if missing := [name for name in names if f"package/{name}" not in found]:
        raise ValueError(f"{folder / NAMES.file}: no package/{missing[0]} in it")
    return {name: found[f"package/{name}"] for name in names}


def plain_code(code: str) -> str:
    """Code points in one spelling: packages differ in case, and in where they write U+FE0F, "in colour"."""
    return code.lower().replace("-fe0f", "")


def _members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if wanted(member.name) and (file := archive.extractfile(member)) is not None:
                found[member.name] = file.read()
    return found
