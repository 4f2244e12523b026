"""What a cache saves: stages of training that read one beside the same stages over titles and images, in one run.

    python -m bench.caching --data data/apa_mini --size full

Each turn is a pass over the same products, from the disk to the optimizer's step, in one process (one rank), by
DeepSpeed's engine. `made` is how long the cache of these products took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from bench.device import device, waited
from bench.harness import Report, in_turn, number, percentiles
from bench.training import ACCUMULATION, DTYPES, SIZES, Update, build, engine_loop, one_rank
from cma_clip.command import command
from cma_clip.tables import markdown
from dataset.format import DatasetInfo
from model.bundle import save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import CMAClip
from model.config import BundleConfig
from model.networks import StageName
from train.cache.make import Pace, make_cache
from train.cache.use import KINDS, as_cached
from train.data import ProductDataset, open_splits
from train.recipe import Recipe, StageConfig, Stages

COLUMNS = (
    "stage", "reads", "products/s", "p20 to p80", "times titles and images (least to most)", "cache made in s",
    "bytes a product",
)  # fmt: skip
TITLES_AND_IMAGES, CACHE = "titles and images", "cache"


def passed(products: ProductDataset, order: Sequence[list[int]], update: Update) -> float:
    """Products a second of a pass in this order."""

    def one_pass() -> None:
        batches = products.batches(order, workers=0)
        for together in zip(*[batches] * ACCUMULATION, strict=True):
            update([batch.to(device()) for batch in together])

    return sum(map(len, order)) / waited(one_pass)


def measure(
    recipe: Recipe, stage: StageName, data: Path, order: Sequence[list[int]], rounds: int
) -> list[dict[str, Any]]:
    """A row for each way to read."""
    tasks, preprocess = DatasetInfo.read(data).tasks, preprocess_config(create_clip(recipe.model))
    objective = build(recipe, stage, tasks)
    network = objective.network
    assert isinstance(network, CMAClip)
    live = open_splits(data, preprocess, 64, tasks)[0]
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(
            Path(folder, "bundle"), BundleConfig(model=recipe.model, preprocess=preprocess, tasks=tasks), network
        )
        start = time.perf_counter()
        directory = make_cache(Path(folder, "bundle"), data, KINDS[stage], Path(folder, "cache"), Pace())
        made = time.perf_counter() - start
        size = sum(path.stat().st_size for path in directory.rglob("*.arrow"))
        update = engine_loop(objective, recipe, getattr(recipe.stages, stage))
        ways = {TITLES_AND_IMAGES: live, CACHE: as_cached(directory, network, "train", live)}
        for products in ways.values():
            passed(products, order[:ACCUMULATION], update)
        rates = in_turn({name: partial(passed, products, order, update) for name, products in ways.items()}, rounds)
    rows = sum(split.rows for split in DatasetInfo.read(data).splits.values())
    return [
        {
            "stage": stage, "reads": name, "products_per_s": percentiles(rates[name]),
            "ratios": [rate / other for rate, other in zip(rates[name], rates[TITLES_AND_IMAGES], strict=True)],
            "made_s": made if name == CACHE else None, "bytes": size / rows if name == CACHE else None,
        }
        for name in ways
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    lines = []
    for row in result["rows"]:
        rate, ratios = row["products_per_s"], row["ratios"]
        cells = [row["stage"], row["reads"], number(rate["median"]), f"{number(rate['p20'])} to {number(rate['p80'])}"]
        cells.append(f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})")
        lines.append([*cells, *("" if row[name] is None else f"{row[name]:.0f}" for name in ("made_s", "bytes"))])
    about = "{size} network, {precision}, {data}, {products} products a pass, micro-batches of {micro_batch}"
    return f"{about.format(**result)}\n\n{markdown(COLUMNS, lines)}"


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Products a second of each way to read, stage by stage."""
    stages = list(dict.fromkeys(row["stage"] for row in result["rows"]))
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        rates = {row["reads"]: row["products_per_s"]["median"] for row in result["rows"] if row["stage"] == stage}
        axes.bar(list(rates), list(rates.values()), log=True)
        axes.set(title=stage, ylabel="products/s")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time stages that read a cache beside those over titles and images")
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="of the network (%(default)s)")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--micro-batch", type=int, default=32, metavar="N", help="(%(default)s); two an update")
    parser.add_argument("--updates", type=int, default=2, metavar="N", help="of a pass (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(%(default)s)")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/caching)")
    args = parser.parse_args(arguments)
    products = args.micro_batch * ACCUMULATION * args.updates
    if products > (rows := DatasetInfo.read(args.data).splits["train"].rows):
        raise ValueError(
            f"{args.data}: {rows} products to train on, a pass of --updates {args.updates} takes {products}"
        )
    order = [list(range(first, first + args.micro_batch)) for first in range(0, products, args.micro_batch)]
    config = StageConfig(batch_size=ACCUMULATION * args.micro_batch, micro_batch_size=args.micro_batch)
    recipe = Recipe(model=SIZES[args.size], precision=args.precision, stages=Stages(**dict.fromkeys(KINDS, config)))
    about = {
        "size": args.size, "precision": args.precision, "micro_batch": args.micro_batch, "data": str(args.data),
        "products": products,
    }  # fmt: skip
    with one_rank(), Report("caching", args.output, table, draw, **about) as report:
        for stage in tqdm(KINDS):
            report.add(*measure(recipe, stage, args.data, order, args.rounds))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
