"""A small tree of drawings, laid out like Debian's openclipart-png and openclipart-svg."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

FRUITS, BIRDS = 44, 41
SIDE = 24

SVG = """<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"><title>editor's own</title><metadata>
<rdf:RDF xmlns:cc="{cc}" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">{title}
<dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator>
<dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata><rect width="9" height="9"/></svg>
"""


def svg(
    title: str | None = "A Pear",
    keywords: tuple[str, ...] = ("fruit",),
    creator: str = "Nicu Buculei",
    cc: str = "http://web.resource.org/cc/",
) -> bytes:
    """An SVG with its RDF; no title element for None."""
    listed = "".join(f"<rdf:li>{escape(keyword)}</rdf:li>" for keyword in keywords)
    written = "" if title is None else f"<dc:title>{escape(title)}</dc:title>"
    return SVG.format(cc=cc, title=written, creator=escape(creator), keywords=listed).encode()


def drawn(seed: int) -> Image.Image:
    """Nine patches of random colours that reach the border; no two seeds alike."""
    patches = np.random.default_rng(seed).integers(0, 240, (3, 3, 3), np.uint8)
    return Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def write_drawing(tree: Path, id: str, image: Image.Image, content: bytes | None = None) -> None:
    """One drawing as SVG and PNG."""
    for kind in ("svg", "png"):
        (tree / kind / id).parent.mkdir(parents=True, exist_ok=True)
    (tree / "svg" / f"{id}.svg").write_bytes(svg() if content is None else content)
    image.save(tree / "png" / f"{id}.png", compress_level=1)


def letters(number: int) -> str:
    """A name without digits, for a number is what a series ends with."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def write_tree(tree: Path) -> Path:
    """Two folders full enough for a category, a small one and unsorted drawings; the titles are those of the names."""
    counts = {"food/fruit": FRUITS, "animals/birds": BIRDS, "tools": 5, "unsorted": 42}
    for start, (folder, count) in enumerate(counts.items()):
        for number in range(count):
            word = folder.rpartition("/")[2]
            content = svg(f"{word} {letters(number)}", (word, "hash", "icons"))
            write_drawing(tree, f"{folder}/{letters(number)}", drawn(1000 * start + number), content)
    return tree
