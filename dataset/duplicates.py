"""The same image and title under several ids: found, counted, and kept in one split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from dataset.seen_ids import hash_of


@dataclass
class Links:
    """Groups that belong together: each leads to the one that came first; a group that is not noted stands alone."""

    earlier: dict[int, str] = field(default_factory=dict)

    def first_of(self, group: str) -> str:
        while (before := self.earlier.get(hash_of(group))) is not None:
            group = before
        return group

    def join(self, group: str, other: str) -> None:
        """`other` came later."""
        first, second = self.first_of(group), self.first_of(other)
        if first != second:
            self.earlier[hash_of(second)] = first


@dataclass(frozen=True)
class Duplicates:
    """`products` whose image and title an earlier product of another id has; `apart`: of those, in another split."""

    products: int
    apart: int
    links: Links


@dataclass(frozen=True)
class Twin:
    """A product by what it shows: `content` is image bytes and title together."""

    id: str
    group: str
    split: str
    content: bytes

    @property
    def key(self) -> int:
        return int.from_bytes(hashlib.blake2b(self.content, digest_size=8).digest(), "big")


def find_duplicates(twins: Iterable[Twin], links: Links) -> Duplicates:
    """Join the groups of equal products; `twins` are products in the order of the table, at least all that have one."""
    first: dict[int, tuple[str, str, str]] = {}
    products = apart = 0
    for twin in twins:
        id, group, split = first.setdefault(twin.key, (twin.id, twin.group, twin.split))
        if id != twin.id:
            products += 1
            apart += split != twin.split
            links.join(group, twin.group)
    return Duplicates(products, apart, links)
