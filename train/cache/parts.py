"""What a process computes of a cache in one go: the products of a few row groups."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cma_clip.files import file_sha256, write_atomically
from cma_clip.settings import read_json
from dataset.format import DatasetInfo, Shard
from dataset.parts import part_rows
from dataset.resume import PARTS
from dataset.splits import SPLITS
from model.bundle import build_network
from model.clip_towers import TokenSequences, text_mask
from model.cma_clip import CMAClip
from model.config import BundleConfig, ModelConfig, PreprocessConfig
from model.preprocess import TitleTokenizer
from model.tokenizer import build_tokenizer
from train.cache.files import TEXT, to_bits, write_part
from train.cache.layout import CacheInfo, columns_of
from train.data import IN_ORDER, Batch, ProductDataset
from train.recipe import load_recipe

# B batch, T token ids, D width


@dataclass(frozen=True, eq=False)
class Making:
    """What all parts have in common; sent to each process once.

    Attributes:
        source: as of `open_source`.
        folder: of the work; the files go to `folder/data`.
        threads: that each process computes with; None leaves them as they are.
    """

    source: Path
    data: Path
    info: CacheInfo
    folder: Path
    batch_size: int
    threads: int | None
    loader_workers: int


@dataclass(frozen=True)
class Part:
    """Products `first` to `last` (not with it) of a split."""

    split: str
    number: int
    first: int
    last: int

    @property
    def file(self) -> str:
        return f"split={self.split}/{self.number:05d}.arrow"

    def note(self, folder: Path) -> Path:
        return folder / PARTS / f"{self.split}-{self.number:05d}.json"


def cut(split: str, starts: Sequence[int]) -> list[Part]:
    """A split's row groups, so many together as a data set's own parts have."""
    parts, first, rows = list[Part](), 0, part_rows(starts[-1])
    for end in starts[1:]:
        if end - first >= rows or end == starts[-1]:
            parts.append(Part(split, len(parts), first, end))
            first = end
    return parts


def finished(making: Making, part: Part) -> Shard:
    """The part's file: as an earlier run has noted it, where it is whole, or made now."""
    path, note = making.folder / "data" / part.file, part.note(making.folder)
    if note.is_file() and path.is_file():
        shard = read_json(Shard, note)
        if file_sha256(path) == shard.sha256:
            return shard
    _write(making, part, path)
    shard = Shard(file=part.file, rows=part.last - part.first, bytes=path.stat().st_size, sha256=file_sha256(path))
    write_atomically(note, shard.model_dump_json())
    return shard


def open_source(source: Path, data: Path) -> tuple[CMAClip, ModelConfig, PreprocessConfig]:
    """The network whose frozen part speaks, on the CPU, its settings, and how it wants products.

    Args:
        source: a bundle, or a recipe whose towers are pretrained.
    Raises:
        ValueError: it cannot be had, its towers have learned nothing, or it is not CMA-CLIP's.
    """
    weights: Path | None = None
    if source.is_dir():
        config = BundleConfig.read(source / "config.json")
        model, tasks, preprocess, weights = config.model, config.tasks, config.preprocess, source / "model.safetensors"
        config.check_weights(weights)
    else:
        model, tasks, preprocess = load_recipe(source, ()).model, DatasetInfo.read(data).tasks, None
        if model.pretrained is None:
            raise ValueError(f"{source}: model.pretrained is not set, so its towers are random; give a bundle instead")
    if model.architecture != "cma_clip":
        raise ValueError(f"{source}: only cma_clip can read a cache, not {model.architecture}")
    network, preprocess = build_network(model, tasks, preprocess, weights)
    assert isinstance(network, CMAClip)
    return network.eval(), model, preprocess


@torch.inference_mode()
def _write(making: Making, part: Part, path: Path) -> None:
    network, dataset, device = _opened(making, part.split)
    columns = columns_of(making.info.kind, network, making.info.preprocess.context_length)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*columns, TEXT)}
    places = range(part.first, part.last)
    order = [list(places[start : start + making.batch_size]) for start in range(0, len(places), making.batch_size)]
    with closing(dataset.batches(order, making.loader_workers)) as batches:
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                values = _values(network, batch.to(device), making.info)
            for name, value in values.items():
                found[name].append(value)
    text = np.concatenate(found.pop(TEXT)) if making.info.kind == "tokens" else None
    write_part(path, columns, {name: np.concatenate(found[name]) for name in columns}, text)


@lru_cache(maxsize=len(SPLITS))
def _opened(making: Making, split: str) -> tuple[CMAClip, ProductDataset, torch.device]:
    """Once a process; with several GPUs each process has its own."""
    number = next(iter(multiprocessing.current_process()._identity), 1) - 1
    gpus = torch.cuda.device_count()
    device = torch.device(f"cuda:{number % gpus}" if gpus else "cpu")
    if making.threads:
        torch.set_num_threads(making.threads)
    preprocess = making.info.preprocess
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    dataset = ProductDataset(making.data, split, preprocess, tokenizer, IN_ORDER)
    return _network(making).to(device), dataset, device


@lru_cache(maxsize=1)
def _network(making: Making) -> CMAClip:
    return open_source(making.source, making.data)[0]


def _values(network: CMAClip, batch: Batch, info: CacheInfo) -> dict[str, np.ndarray]:
    """Of each column, and TEXT, the values of a batch."""
    ids_BT, pixels_BHWC = batch.input_ids_BT, batch.pixels_BHWC
    mask_BT = text_mask(ids_BT)
    padded_BT = F.pad(ids_BT * mask_BT, (0, info.preprocess.context_length - ids_BT.shape[1]))
    values = {
        "length": mask_BT.sum(dim=1).cpu().numpy(),
        "input_ids": padded_BT.cpu().numpy(),
        "present": batch.present_B2.cpu().numpy(),
        "readable": batch.readable_B.cpu().numpy(),
    }
    tokens = network.towers(ids_BT, pixels_BHWC)
    if network.wide is not None:
        values["statistics"] = network.wide.seen(pixels_BHWC).cpu().numpy()
    if info.kind == "tokens":
        values |= {TEXT: to_bits(tokens.text_BTD[mask_BT]), "image": to_bits(tokens.image_BPD)}
        if network.convolutions is not None:
            values["small"] = network.convolutions.small(pixels_BHWC).cpu().numpy()
        return values
    return values | _vectors(network, batch, tokens)


def _vectors(network: CMAClip, batch: Batch, tokens: TokenSequences) -> dict[str, np.ndarray]:
    """`vectors` and `alike` of columns_of."""
    convolved_BD = None if network.convolutions is None else network.convolutions(batch.pixels_BHWC)
    present_B2 = batch.present_B2
    title_B1, image_B1 = present_B2[:, :1], present_B2[:, 1:]
    nothing_B1 = torch.zeros_like(title_B1)
    # Where a side is not there, the other alone is looked at twice: nothing at all would be no number.
    title_alone_B2 = torch.where(title_B1, torch.cat([title_B1, nothing_B1], dim=1), present_B2)
    image_alone_B2 = torch.where(image_B1, torch.cat([nothing_B1, image_B1], dim=1), present_B2)
    shown = (present_B2, title_alone_B2, image_alone_B2)
    both, title, image = (network.mixed(tokens, convolved_BD, each) for each in shown)
    vectors_B4D = torch.stack([both.text_BD, both.image_BD, title.text_BD * title_B1, image.image_BD * image_B1], dim=1)
    alike = {} if both.alike_B1 is None else {"alike": both.alike_B1.cpu().numpy()}
    return {"vectors": to_bits(vectors_B4D), **alike}
