"""What emoji are called: names and keywords in several languages, groups, and which are variants of one another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.prepare.emoji.source import plain_code, read_texts

# Of those that emojibase has: in Latin letters, for CLIP's tokenizer cuts all others into bytes.
LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pt")
# A flag's name is a country, and its image no vendor's own; a skin tone is a patch of colour.
LEFT_OUT = ("country-flag", "subdivision-flag", "skin-tone")
# Signs of gender and direction, and what joins them: what is left names the drawing.
NO_MATTER = {"200d", "2640", "2642", "27a1"}
SAME_PERSON = {
    "1f468": "1f9d1",  # man, woman: person
    "1f469": "1f9d1",
    "1f466": "1f9d2",  # boy, girl: child
    "1f467": "1f9d2",
    "1f474": "1f9d3",  # old man, old woman: older person
    "1f475": "1f9d3",
    "1f478": "1f934",  # princess, person with crown: prince
    "1fac5": "1f934",
    "1f57a": "1f483",  # man dancing: woman dancing
    "1f936": "1f385",  # Mrs Claus: Santa Claus
    "1fac3": "1f930",  # pregnant man, pregnant person: pregnant woman
    "1fac4": "1f930",
}
SAME_SEQUENCE = {
    "1f9d1-200d-1f384": "1f385",
    "1f46a": "1f9d1-1f9d1-1f9d2",  # family
    "1f46b": "1f9d1-1f91d-1f9d1",  # couples who hold hands
    "1f46c": "1f9d1-1f91d-1f9d1",
    "1f46d": "1f9d1-1f91d-1f9d1",
    "1f491": "1f9d1-2764-1f9d1",  # couple with heart
    "1f48f": "1f9d1-2764-1f48b-1f9d1",  # kiss
}


@dataclass(frozen=True)
class Name:
    """What one language calls an emoji; `tags` in the order of the alphabet."""

    label: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Emoji:
    """One emoji; `code` as of `plain_code`, `group` and `subgroup` Unicode's, `names` by language."""

    code: str
    group: str
    subgroup: str
    names: dict[str, Name]


def read_emoji(folder: Path) -> list[Emoji]:
    """All but those of LEFT_OUT, in the order of their codes; skin tones are none of their own.

    Raises:
        ValueError: a file is missing in the package.
    """
    files = read_texts(folder, ["meta/groups.json", *(f"{language}/data.json" for language in LANGUAGES)])
    texts: dict[str, Any] = {name: json.loads(data) for name, data in files.items()}
    groups, subgroups = (texts["meta/groups.json"][kind] for kind in ("groups", "subgroups"))
    names: dict[str, dict[str, Name]] = {}
    for language in LANGUAGES:
        for entry in texts[f"{language}/data.json"]:
            name = Name(entry["label"], tuple(entry.get("tags", ())))
            names.setdefault(plain_code(entry["hexcode"]), {})[language] = name
    found = [
        Emoji(code, groups[str(entry["group"])], subgroups[str(entry["subgroup"])], names[code])
        for entry in texts["en/data.json"]
        if "group" in entry and (code := plain_code(entry["hexcode"]))
    ]
    return sorted((emoji for emoji in found if emoji.subgroup not in LEFT_OUT), key=lambda emoji: emoji.code)


def kin_of(code: str) -> str:
    """What variants of gender and direction have in common: a cook, a man cook and a woman cook are of a kin."""
    points = SAME_SEQUENCE.get(code, code).split("-")
    kept = [SAME_PERSON.get(point, point) for point in points if point not in NO_MATTER]
    return "-".join(sorted(kept)) or code
