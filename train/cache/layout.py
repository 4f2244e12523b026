"""A cache on disk: Arrow files `split=NAME/*.arrow` beside `cache.json`; their columns, and what they are of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from cma_clip.settings import StrictModel, read_json
from dataset.format import Shard
from dataset.resume import beside
from model.cma_clip import CMAClip
from model.config import ModelConfig, PreprocessConfig
from model.image_statistics import FEATURES
from model.small_image import SIDE

Kind = Literal["tokens", "vectors"]
BFLOAT16 = "bfloat16"  # NumPy has none: its bits lie in uint16
CACHE = "cache.json"
# The modules whose weights decide what each kind holds.
FROZEN: dict[Kind, tuple[str, ...]] = {
    "tokens": ("towers",),
    "vectors": ("towers", "sequence_attention", "convolutions"),
}
SETTINGS = {"architecture", "clip", "sequence_attention", "sequence_layers", "sequence_heads", "sequence_norm"}


class Column(NamedTuple):
    """`shape` of a product's value, `dtype` as NumPy's or BFLOAT16."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def stored(self) -> np.dtype:
        return np.dtype("uint16" if self.dtype == BFLOAT16 else self.dtype)

    @property
    def row_bytes(self) -> int:
        return self.stored.itemsize * int(np.prod(self.shape))


class CacheInfo(StrictModel):
    """The content of `cache.json`.

    Attributes:
        kind: `tokens` is what the towers say, for warmup; `vectors` what heads are given, for tuning and new tasks.
        data_hash: of the data set.
        weights: from `weights_of`.
        preprocess: how the products were read.
        splits: in the order of the data set's products.
    """

    format: Literal[1] = 1
    kind: Kind
    data_hash: str
    weights: str
    preprocess: PreprocessConfig
    splits: dict[str, list[Shard]] = {}

    @classmethod
    def read(cls, directory: Path) -> CacheInfo:
        """Raises ValueError: it is missing or does not fit."""
        if not (directory / CACHE).is_file():
            raise ValueError(f"{directory / CACHE}: no such file; make a cache with cma-clip cache")
        return read_json(cls, directory / CACHE)

    def directory(self, data: Path) -> Path:
        """Where it lies unless said otherwise: each of what it depends on has its own."""
        key = self.model_dump_json(exclude={"splits"})
        return beside(data, "cache") / f"{self.kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    def check(self, wanted: CacheInfo, directory: Path) -> None:
        """Raises ValueError: it is of something else than is wanted, or a file of it is not whole."""
        names = {"kind": "kind", "data_hash": "products", "weights": "weights", "preprocess": "preprocessing"}
        other = [what for name, what in names.items() if getattr(self, name) != getattr(wanted, name)]
        if other:
            raise ValueError(f"{directory}: a cache of other {' and '.join(other)}; make one with cma-clip cache")
        for shard in (shard for shards in self.splits.values() for shard in shards):
            path = directory / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise ValueError(
                    f"{path}: missing or not {shard.bytes} bytes; make the cache again with cma-clip cache"
                )


def cache_info(
    kind: Kind, network: CMAClip, model: ModelConfig, preprocess: PreprocessConfig, data_hash: str
) -> CacheInfo:
    """What a cache of this network and data set is of."""
    return CacheInfo(kind=kind, data_hash=data_hash, weights=weights_of(kind, network, model), preprocess=preprocess)


def weights_of(kind: Kind, network: CMAClip, model: ModelConfig) -> str:
    """Sha256 of the weights that decide what is cached, the settings that they do not show, and the columns."""
    known = model.model_dump(include=SETTINGS)
    columns = {name: list(column) for name, column in columns_of(kind, network, context_length=0).items()}
    digest = hashlib.sha256(json.dumps([known, columns], sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if name.partition(".")[0] in FROZEN[kind] and not name.endswith("logit_scale"):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def columns_of(kind: Kind, network: CMAClip, context_length: int) -> dict[str, Column]:
    """All but the tokens of the titles, of which each has its own number.

    `length` of `input_ids`; `present` title, image; `readable` or not. `vectors`: T' and I' of both together, T' of the
    title alone, I' of the image alone; zeros where there is nothing.
    """
    width = network.towers.width
    columns = {
        "length": Column("int16", ()),
        "input_ids": Column("uint16", (context_length,)),
        "present": Column("uint8", (2,)),
        "readable": Column("uint8", ()),
    }
    if kind == "vectors":
        columns["vectors"] = Column(BFLOAT16, (4, width))
        if network.mismatch is not None:
            columns["alike"] = Column("float32", (1,))
    else:
        columns["image"] = Column(BFLOAT16, (network.towers.image_tokens, width))
        if network.convolutions is not None:
            columns["small"] = Column("float16", (3, SIDE, SIDE))
    if network.wide is not None:
        columns["statistics"] = Column("float16", (FEATURES,))
    return columns
