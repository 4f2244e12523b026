"""How long a new task takes, from cached features to a new bundle: `cma-clip add` over synthetic products.

    python -m bench.adding --products 100000 --size full

The network has random weights; what it would say of the products is drawn around a direction for each label, so that
there is something to learn, and lies in a cache as train.cache writes it. Everything else is real: reading labels,
training to the end, what validation decides, and the bundle.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure

from bench.harness import Report
from bench.training import SIZES
from cma_clip.command import command
from cma_clip.files import file_sha256, write_atomically
from cma_clip.tables import markdown
from dataset.format import DatasetInfo, Shard, Split, shard_schema
from dataset.splits import SPLITS
from model.bundle import build_network, save_bundle
from model.cma_clip import CMAClip
from model.config import BundleConfig, ModelConfig
from model.preprocess import TitleTokenizer
from model.tasks import SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from train.add.__main__ import main as add
from train.cache.files import to_bits, write_part
from train.cache.layout import CACHE, CacheInfo, cache_info, columns_of

FORMS = SIZES | {
    "robust": SIZES["tiny"].model_copy(
        update={"sequence_norm": "gated", "head_inputs": "both", "wide": True, "convolutions": True}
    )
}
SHARES = dict(zip(SPLITS, (0.8, 0.1, 0.1), strict=True))
WORDS = ("red", "blue", "large", "small", "cotton", "summer", "winter", "classic", "soft", "shirt", "dress", "shoe")
NOISE = 2.0  # times as long as what tells the label


class Synthetic:
    """A data set without images, a bundle, and a cache of what the bundle's network might say of it, in a folder."""

    def __init__(self, folder: Path, model: ModelConfig, products: int, labels: int) -> None:
        self.data, self.bundle, self.cache = folder / "data", folder / "bundle", folder / "cache"
        self.rng = np.random.default_rng(0)
        old = TaskSet([SingleLabel(name="color", labels=[f"color {place}" for place in range(17)])])
        network, self.preprocess = build_network(model, old)
        assert isinstance(network, CMAClip)
        self.network = network
        save_bundle(self.bundle, BundleConfig(model=model, preprocess=self.preprocess, tasks=old), network)
        self.task = SingleLabel(name="sleeve", labels=[f"sleeve {place}" for place in range(labels)])
        self.labels = {split: self.rng.integers(labels, size=int(share * products)) for split, share in SHARES.items()}
        info = self._write_data()
        self._write_cache(cache_info("vectors", network, model, self.preprocess, info.hash))

    def _write_data(self) -> DatasetInfo:
        splits: dict[Any, Split] = {}
        for split, label_N in self.labels.items():
            path = self.data / f"split={split}/00000.parquet"
            path.parent.mkdir(parents=True)
            names = [self.task.labels[place] for place in label_N]
            rows = {"id": [f"{split}{place}" for place in range(len(names))], "image": [b""] * len(names)}
            rows |= {"title": [" ".join(self.rng.choice(WORDS, 8)) for _ in names], "sleeve": names}
            pq.write_table(pa.table(rows, schema=shard_schema([self.task])), path, row_group_size=256)
            file = str(path.relative_to(self.data))
            shard = Shard(file=file, rows=len(names), bytes=path.stat().st_size, sha256=file_sha256(path))
            splits[split] = Split(rows=len(names), shards=[shard], label_counts={})
        info = DatasetInfo(tasks=TaskSet([self.task]), splits=splits, source="bench.adding", hash="")
        info.hash = info.hash_of_shards()
        write_atomically(self.data / "dataset.json", info.model_dump_json())
        return info

    def _write_cache(self, info: CacheInfo) -> None:
        columns = columns_of("vectors", self.network, self.preprocess.context_length)
        tokenizer = TitleTokenizer(build_tokenizer(self.preprocess.vocab_size), self.preprocess)
        means_LVD = self.rng.normal(size=(len(self.task.labels), *columns["vectors"].shape)).astype(np.float32)
        for split, label_N in self.labels.items():
            ids = [
                tokenizer.encode(title) for title in pq.read_table(self.data / f"split={split}")["title"].to_pylist()
            ]
            padded_NT = np.zeros((len(ids), self.preprocess.context_length), dtype=np.uint16)
            for row, of_title in zip(padded_NT, ids, strict=True):
                row[: len(of_title)] = of_title
            noise_NVD = NOISE * self.rng.normal(size=(len(ids), *columns["vectors"].shape)).astype(np.float32)
            values = {
                "length": np.array([len(of_title) for of_title in ids]), "input_ids": padded_NT,
                "present": np.ones((len(ids), 2)), "readable": np.ones(len(ids)),
                "vectors": to_bits(torch.from_numpy(means_LVD[label_N] + noise_NVD)),
            }  # fmt: skip
            values |= {
                name: self.rng.random((len(ids), *columns[name].shape), dtype=np.float32)
                for name in columns.keys() - values.keys()
            }
            path = self.cache / f"split={split}/00000.arrow"
            write_part(path, columns, values, None)
            shard = Shard(file=str(path.relative_to(self.cache)), rows=len(ids), bytes=path.stat().st_size, sha256="")
            info.splits[split] = [shard]
        write_atomically(self.cache / CACHE, info.model_dump_json())


def table(result: dict[str, Any]) -> str:
    rows = [[row["size"], f"{row['seconds']:.0f}"] for row in result["rows"]]
    about = "{products} products, {labels} labels, from cached features to a bundle"
    return f"{about.format(**result)}\n\n{markdown(('network', 'seconds'), rows)}"


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Seconds of each size."""
    axes = figure.subplots()
    axes.bar([row["size"] for row in result["rows"]], [row["seconds"] for row in result["rows"]])
    axes.set(ylabel="seconds")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time a new task, from cached features to a bundle")
    parser.add_argument("--products", type=int, default=100_000, help="of all splits (%(default)s)")
    parser.add_argument("--labels", type=int, default=12, help="of the new task (%(default)s)")
    parser.add_argument("--size", choices=[*FORMS, "all"], default="all", help="of the network (%(default)s)")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/adding)")
    args = parser.parse_args(arguments)
    if args.products < 1000 or args.labels < 2:
        raise ValueError("--products is 1000 or more, --labels 2 or more")
    sizes = list(FORMS) if args.size == "all" else [args.size]
    with Report("adding", args.output, table, draw, products=args.products, labels=args.labels) as report:
        for size in sizes:
            with tempfile.TemporaryDirectory() as name:
                made = Synthetic(Path(name), FORMS[size], args.products, args.labels)
                options = ["--data", str(made.data), "--cache", str(made.cache), "--task", "sleeve"]
                del made.network
                start = time.perf_counter()
                code = add([str(made.bundle), *options, "--output", str(Path(name, "new"))])
                seconds = time.perf_counter() - start
            if code:
                return code
            report.add({"size": size, "seconds": seconds})
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
