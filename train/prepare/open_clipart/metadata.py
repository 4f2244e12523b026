"""Title and keywords of a drawing, from the RDF in its SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from model.refusal import Code, Refusal

DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
WORKS = ("{http://web.resource.org/cc/}Work", "{http://creativecommons.org/ns#}Work")
LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
PEOPLE = [DUBLIN_CORE + role for role in ("creator", "publisher", "rights", "contributor")]
MOST_BYTES = 16_000_000
SHORTEST_NAME = 3
# The second at which a whole collection was written: it tells the folder, and no image shows it.
TIMESTAMP = re.compile(r"\s*\(\w{3} \w{3} \d+ [\d:]+ \d{4}\)")


@dataclass(frozen=True)
class Metadata:
    """What people wrote about a drawing.

    Attributes:
        title: without the names of its authors; empty if it has none.
        keywords: lower case, as written otherwise; None if there is no keyword at all.
    """

    title: str
    keywords: list[str] | None


def read_metadata(data: bytes) -> Metadata:
    """Read an SVG.

    Raises:
        Refusal: it is too large or no well-formed SVG.
    """
    work = next((element for element in _root(data).iter() if element.tag in WORKS), None)
    if work is None:
        return Metadata("", None)
    title = _text(work.find(f"{DUBLIN_CORE}title"))
    names = {_text(name) for role in PEOPLE for agent in work.iter(role) for name in agent.iter(f"{DUBLIN_CORE}title")}
    authors = {name.lower() for name in names}
    listed = [_text(item).lower() for subject in work.iter(f"{DUBLIN_CORE}subject") for item in subject.iter(LIST_ITEM)]
    keywords = list(dict.fromkeys(keyword for keyword in listed if keyword and keyword not in authors))
    return Metadata(without_names(TIMESTAMP.sub("", title), names), keywords or None)


def without_names(title: str, names: set[str]) -> str:
    """Take authors out of a title, with "Clipart by" before them; two words of a longer name count as the name."""
    for name in sorted({part for name in names for part in _parts(name)}, key=lambda name: (-len(name), name)):
        title = re.sub(rf"(?i)(?:\b(?:clip ?art )?by\s+)?(?<!\w){re.escape(name)}(?!\w)", " ", title)
    return re.sub(r"\s+([,.])", r"\1", " ".join(title.split())).strip(" -,:;")


def _parts(name: str) -> list[str]:
    words = name.split()
    pairs = [" ".join(pair) for pair in zip(words, words[1:], strict=False)]
    return [part for part in (" ".join(words), *pairs) if len(part) >= SHORTEST_NAME]


def _root(data: bytes) -> ET.Element:
    """Expat resolves no external entity and stops at entities that grow a document a hundredfold."""
    if len(data) > MOST_BYTES:
        raise Refusal(Code.ROW_UNUSABLE, f"SVG of more than {MOST_BYTES:,} bytes")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, LookupError, ValueError) as error:
        raise Refusal(Code.ROW_UNUSABLE, f"SVG is not well-formed: {error}") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise Refusal(Code.ROW_UNUSABLE, f"SVG begins with <{root.tag.rpartition('}')[2]}>")
    return root


def _text(element: ET.Element | None) -> str:
    return " ".join((element.text or "").split()) if element is not None else ""
