"""Small npm packages laid out like those of the emoji: 35 things that four vendors drew."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from open_clipart_files import drawn
from PIL import Image

from train.prepare.emoji import source
from train.prepare.emoji.names import LANGUAGES

GROUPS = {"1": "people-body", "2": "component", "3": "animals-nature", "4": "food-drink", "9": "flags"}
SUBGROUPS = {"25": "person-role", "32": "skin-tone", "34": "animal-mammal", "43": "food-fruit", "98": "country-flag"}
# Code -> group, subgroup, English tags; more than 40 drawings by four vendors are more than 10 emoji.
PLACES = {f"1f34{n:x}": (4, 43, ["living", "fruit"]) for n in range(13)}
PLACES |= {f"1f40{n:x}": (3, 34, ["living"]) for n in range(13)}
PLACES |= {f"{person}-200d-1f373": (1, 25, ["cook"]) for person in ("1f9d1", "1f468", "1f469")}
PLACES |= {f"1f9d1-200d-{thing}": (1, 25, ["job"]) for thing in ("1f33e", "1f4bb", "1f527", "1f3a8")}
PLACES |= {"2764-fe0f": (1, 25, [])}
LEFT_OUT = {"1f3fb": (2, 32, []), "1f1e9-1f1ea": (9, 98, [])}
WORDS = {"en": "thing", "de": "Ding", "es": "cosa", "fr": "chose", "it": "oggetto", "nl": "ding", "pt": "coisa"}


def texts() -> dict[str, bytes]:
    """The files of the package of names."""
    files = {"package/meta/groups.json": json.dumps({"groups": GROUPS, "subgroups": SUBGROUPS}).encode()}
    for language in LANGUAGES:
        entries: list[dict[str, object]] = [{"label": "regional indicator A", "hexcode": "1F1E6", "version": 0}]
        for code, (group, subgroup, tags) in (PLACES | LEFT_OUT).items():
            label = f"{WORDS[language]} {code[:5]}"
            own = tags if language == "en" else [f"{language}-{tag}" for tag in tags] + [WORDS[language]]
            entries.append({"label": label, "hexcode": code.upper(), "tags": own, "group": group, "subgroup": subgroup})
        files[f"package/{language}/data.json"] = json.dumps(entries).encode()
    return files


def drawings(vendor: str) -> dict[str, bytes]:
    """The files of a vendor's package: each emoji differs, and no two vendors draw one alike."""
    start, ending = source.VENDORS[vendor].folder, source.VENDORS[vendor].ending
    seed = 1000 * list(source.VENDORS).index(vendor)
    return {f"{start}{code}{ending}": encoded(drawn(seed + n), ending) for n, code in enumerate(PLACES | LEFT_OUT)}


def encoded(image: Image.Image, ending: str = ".png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {".png": "PNG", ".webp": "WEBP"}[ending], lossless=True)
    return buffer.getvalue()


def write_package(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_packages(folder: Path) -> Path:
    """All five of them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_package(folder / source.NAMES.file, texts())
    for name, vendor in source.VENDORS.items():
        write_package(folder / vendor.package.file, drawings(name))
    return folder


def expect(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """From now on the packages as they are in the folder are the right ones."""
    patch.setattr(source, "NAMES", replace(source.NAMES, sha512=_sum(folder / source.NAMES.file)))
    for name, vendor in source.VENDORS.items():
        package = replace(vendor.package, sha512=_sum(folder / vendor.package.file))
        patch.setitem(source.VENDORS, name, replace(vendor, package=package))


def _sum(path: Path) -> str:
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
