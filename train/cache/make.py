"""Makes a cache: how much room it takes is said first, and what is finished outlives a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from cma_clip.files import put_in_place, write_atomically
from cma_clip.machine import usable_cores
from dataset.format import DatasetInfo, Shard
from dataset.parallel import process_map
from dataset.resume import work_on
from dataset.stored import StoredRows
from dataset.verify import check_sizes
from model.cma_clip import CMAClip
from model.config import PreprocessConfig
from model.preprocess import TitleTokenizer
from model.tokenizer import build_tokenizer
from train.cache.layout import CACHE, CacheInfo, Kind, cache_info, columns_of
from train.cache.parts import Making, Part, cut, finished, open_source
from train.data import IN_ORDER

MOST_PROCESSES = 8  # on a CPU: each holds a network
LOOKED_AT = 1000  # titles of a split, for how long they are


class Pace(NamedTuple):
    """batch_size: products at once. processes: that compute. loader_workers: that decode images for each of them."""

    batch_size: int = 64
    processes: int = max(1, torch.cuda.device_count() or min(MOST_PROCESSES, usable_cores()))
    loader_workers: int = 4 if torch.cuda.is_available() else 0


def make_cache(source: Path, data: Path, kind: Kind, output: Path | None, pace: Pace) -> Path:
    """Make it, or what an earlier run left to do of it; returns its directory.

    Args:
        source: as train.cache.parts.open_source.
        output: None is beside the data set.
    Raises:
        ValueError: source or data do not fit, the directory is taken, or there is no room for it.
    """
    described = DatasetInfo.read(data)
    check_sizes(data, described)
    network, model, preprocess = open_source(source, data)
    info = cache_info(kind, network, model, preprocess, described.hash)
    output = output or info.directory(data)
    if output.exists():
        CacheInfo.read(output).check(info, output)
        print(f"{output}: already there")
        return output
    parts: dict[str, list[Part]] = {split: cut(split, StoredRows(data, split, 1).starts) for split in described.splits}
    say_how_much(output, sum(bytes_of(split, data, network, info) for split in parts))
    settings = info.model_dump(mode="json") | {"batch_size": pace.batch_size}
    with work_on(output, settings, clear=True) as folder:
        threads = max(1, usable_cores() // pace.processes) if pace.processes > 1 else None
        making = Making(source, data, info, folder, pace.batch_size, threads, pace.loader_workers)
        whole = info.model_copy(update={"splits": _made(making, parts, pace.processes)})
        write_atomically(folder / "data" / CACHE, whole.model_dump_json(indent=1) + "\n")
        put_in_place(folder / "data", output)
    return output


def _made(making: Making, parts: Mapping[str, list[Part]], processes: int) -> dict[str, list[Shard]]:
    in_order = [part for of_split in parts.values() for part in of_split]
    shards: dict[str, list[Shard]] = {split: [] for split in parts}
    total = sum(part.last - part.first for part in in_order)
    with (
        process_map(finished, making, in_order, min(processes, len(in_order))) as made,
        tqdm(total=total, unit="product", desc="caching", mininterval=2) as bar,
    ):
        for part, shard in zip(in_order, made, strict=True):
            shards[part.split].append(shard)
            bar.update(shard.rows)
    return shards


def bytes_of(split: str, data: Path, network: CMAClip, info: CacheInfo) -> int:
    """About how many a split takes."""
    rows = StoredRows(data, split, IN_ORDER)
    fixed = sum(column.row_bytes for column in columns_of(info.kind, network, info.preprocess.context_length).values())
    if info.kind == "vectors":
        return rows.starts[-1] * fixed
    return rows.starts[-1] * (fixed + int(2 * network.towers.width * _title_length(rows, info.preprocess)))


def _title_length(rows: StoredRows, preprocess: PreprocessConfig) -> float:
    """Mean tokens of a title, by some evenly spread."""
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    places = np.unique(np.linspace(0, rows.starts[-1] - 1, LOOKED_AT, dtype=int)).tolist()
    lengths = []
    for title in (rows.product(place)["title"] or "" for place in places):
        try:
            lengths.append(len(tokenizer.encode(title)))
        except ValueError:  # a title that is refused is cached as an empty one
            lengths.append(2)
    return float(np.mean(lengths))


def say_how_much(output: Path, needed: int) -> None:
    """Raises ValueError: the disk has not so many bytes."""
    there = next(folder for folder in output.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    print(f"{output}: takes about {needed / 1e6:,.1f} MB of {free / 1e6:,.0f} MB that are free")
    if needed > free:
        have, need = (f"{size / 1e6:,.1f} MB" for size in (free, needed))
        raise ValueError(f"{output}: needs {need}, {there} has {have} free; name another --output")
