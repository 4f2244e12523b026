"""Training's stages beside a plain PyTorch loop in one run: samples a second, share of the machine's peak, memory.

    python -m bench.training --data data/apa_mini --size tiny

Both loops train the same network from the same weights on the same prepared micro-batches, so that no disk and no
decoder counts, in one process (one rank). `engine` is what a stage runs: DeepSpeed's engine over the project's
objective, AdamW, schedule, autocast and kernels. `plain` is the same recipe in plain PyTorch. MFU is the
floating-point operations that the plain loop was seen to make, frozen parts as they are, over what a large matrix
product reaches here, in the same precision and in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bench.device import Memory, device, matrix_product, waited
from bench.harness import Report, in_turn, number, percentiles
from cma_clip.command import command
from cma_clip.tables import markdown
from model.bundle import build_network
from model.clip_towers import create_clip, preprocess_config
from model.config import BundleConfig, ModelConfig
from model.networks import NETWORKS, StageName
from model.preprocess import TitleTokenizer
from model.tasks import SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from serve.export.parity import random_inputs
from train.data import Batch, ProductDataset
from train.engine import attention_kernel, create_engine, parameter_groups, warmup_cosine
from train.losses import ClassificationObjective
from train.ranks import meet
from train.recipe import Recipe, StageConfig, Stages, deepspeed_config
from train.stages import freeze, train_mode

STAGES: tuple[StageName, ...] = ("warmup", "end_to_end", "tuning")
SIZES = {
    "tiny": ModelConfig(clip="cma-clip-tiny", sequence_layers=2, sequence_heads=4, dropout=0.0),
    "full": ModelConfig(),
}
RANDOM_LABELS, RANDOM_LENGTH = {"color": 17, "pattern": 12}, 24  # as many as APA's
ACCUMULATION = 2  # micro-batches of an update
UPDATES = 1000  # of the schedule
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
DATA_SHEET = {"A100": 312, "H100": 989, "H200": 989}  # TFLOP/s, dense bf16, SXM
COLUMNS = (
    "stage", "loop", "samples/s", "p20 to p80", "times plain (least to most)", "MFU", "tokens/s", "peak memory MB"
)  # fmt: skip

Update = Callable[[Sequence[Batch]], None]
Loop = Callable[[ClassificationObjective, Recipe, StageConfig], Update]


@contextmanager
def one_rank() -> Iterator[None]:
    """This process alone as DeepSpeed's ranks."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    with meet():
        yield


def read_batches(recipe: Recipe, data: Path | None, micro: int, count: int) -> tuple[TaskSet, list[Batch]]:
    """Tasks and `count` micro-batches: the first products to train on, or random ones."""
    preprocess = preprocess_config(create_clip(recipe.model))
    if data is None:
        labels = {name: [str(label) for label in range(count)] for name, count in RANDOM_LABELS.items()}
        tasks = TaskSet(SingleLabel(name=name, labels=labels[name]) for name in labels)
        config = BundleConfig(model=recipe.model, preprocess=preprocess, tasks=tasks)
        return tasks, [random_batch(config, micro, seed) for seed in range(count)]
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    products = ProductDataset(data, "train", preprocess, tokenizer)
    if len(products) < micro * count:
        raise ValueError(f"{data}: {len(products)} products to train on, but --updates takes {micro * count}")
    starts = range(0, micro * count, micro)
    return products.tasks, [products.collate([products[first + i] for i in range(micro)]) for first in starts]


def random_batch(config: BundleConfig, micro: int, seed: int) -> Batch:
    ids, pixels, _ = map(torch.from_numpy, random_inputs(config, micro, RANDOM_LENGTH, seed))
    rng, present = np.random.default_rng(seed), torch.ones(micro, 2, dtype=torch.bool)
    rows = [{task.name: str(rng.choice(task.labels)) for task in config.tasks} for _ in range(micro)]
    targets = torch.from_numpy(np.stack([config.tasks.encode(row) for row in rows]))
    return Batch([""] * micro, ids, pixels, present, targets, present[:, 0], [])


def build(recipe: Recipe, stage: StageName, tasks: TaskSet) -> ClassificationObjective:
    """What the stage minimises, frozen and switched to training as the stage wants it; always the same weights."""
    torch.manual_seed(recipe.seed)
    network, _ = build_network(recipe.model, tasks)
    architecture = NETWORKS[recipe.model.architecture]
    freeze(network, stage, architecture)
    objective = ClassificationObjective(network, tasks, StageConfig()).to(device()).train()
    train_mode(network, stage, architecture)
    return objective


def engine_loop(objective: ClassificationObjective, recipe: Recipe, config: StageConfig) -> Update:
    settings = deepspeed_config(recipe, config, 1, torch.cuda.is_available())
    engine = create_engine(objective, config, UPDATES, settings)

    def update(batches: Sequence[Batch]) -> None:
        with attention_kernel(device(), recipe.precision == "bf16"):
            for batch in batches:
                engine.backward(engine(batch).loss)
                engine.step()

    return update


def plain_loop(objective: ClassificationObjective, recipe: Recipe, config: StageConfig) -> Update:
    optimizer = AdamW(parameter_groups(objective, config.weight_decay), config.learning_rate)
    schedule = LambdaLR(optimizer, warmup_cosine(UPDATES, config.warmup_fraction))

    def update(batches: Sequence[Batch]) -> None:
        for batch in batches:
            with torch.autocast(device().type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = objective(batch).loss
            (loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), config.gradient_clipping)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return update


def count_flops(objective: ClassificationObjective, batch: Batch) -> float:
    """Of matrix products and convolutions, forward and backward, a sample; no gradient stays.

    Attention as separate products, for of what is fused nothing is counted.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            objective(batch).loss.backward()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    objective.zero_grad()
    return counter.get_total_flops() / len(batch.ids)


class Contestant(NamedTuple):
    """A loop after its first update, which took `peak_bytes`, network and all."""

    objective: ClassificationObjective
    update: Update
    peak_bytes: int


def start(loop: Loop, recipe: Recipe, stage: StageName, tasks: TaskSet, batches: Sequence[Batch]) -> Contestant:
    memory, objective = Memory(), build(recipe, stage, tasks)
    update = loop(objective, recipe, getattr(recipe.stages, stage))
    waited(partial(update, batches))
    return Contestant(objective, update, memory.peak_bytes())


def rate_of(update: Update, batches: Sequence[Batch]) -> float:
    """Samples a second over all updates that the micro-batches make."""

    def updates() -> None:
        for first in range(0, len(batches), ACCUMULATION):
            update(batches[first : first + ACCUMULATION])

    return sum(len(batch.ids) for batch in batches) / waited(updates)


def measure(
    recipe: Recipe, stage: StageName, tasks: TaskSet, batches: Sequence[Batch], rounds: int
) -> list[dict[str, Any]]:
    """A row for each loop; what the machine reaches is the most that a matrix product between their turns did."""
    unfused = recipe.model_copy(update={"model": recipe.model.model_copy(update={"kernels": "reference"})})
    engine = start(engine_loop, recipe, stage, tasks, batches[:ACCUMULATION])
    plain = start(plain_loop, unfused, stage, tasks, batches[:ACCUMULATION])
    loops = {"engine": engine, "plain": plain}
    turns = {"product": matrix_product(DTYPES[recipe.precision])}
    rates = in_turn(turns | {name: partial(rate_of, loop.update, batches) for name, loop in loops.items()}, rounds)
    flops, reached = count_flops(plain.objective, batches[0]), max(rates["product"])
    ids = sum(batch.input_ids_BT.numel() for batch in batches) / sum(len(batch.ids) for batch in batches)
    tokens = ids + plain.objective.network.towers.image_tokens
    return [
        {
            "stage": stage, "loop": name, "samples_per_s": percentiles(rates[name]), "flops_per_sample": flops,
            "ratios": [rate / other for rate, other in zip(rates[name], rates["plain"], strict=True)],
            "machine_flops_per_s": reached, "mfu": flops * median(rates[name]) / reached,
            "tokens_per_s": tokens * median(rates[name]), "peak_bytes": loop.peak_bytes,
        }
        for name, loop in loops.items()
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    lines, rows = [], result["rows"]
    for r in rows:
        rate, ratios = r["samples_per_s"], r["ratios"]
        cells = [r["stage"], r["loop"], number(rate["median"]), f"{number(rate['p20'])} to {number(rate['p80'])}"]
        cells.append(f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        lines.append([*cells, f"{r['mfu']:.1%}", number(r["tokens_per_s"]), f"{r['peak_bytes'] / 1e6:.0f}"])
    work = {r["stage"]: f"{r['stage']} {number(r['flops_per_sample'] / 1e9)}" for r in rows}
    reached = number(max(r["machine_flops_per_s"] for r in rows) / 1e12)
    gpu = result["machine"]["gpu"] or ""
    sheet = "".join(f" (data sheet, bf16: {most})" for name, most in DATA_SHEET.items() if name in gpu)
    about = "{size} network, {precision}, {data}, micro-batches of {micro_batch}".format(**result)
    head = f"{about}; GFLOP a sample: {', '.join(work.values())}; a matrix product reaches {reached} TFLOP/s{sheet}"
    return f"{head}\n\n{markdown(COLUMNS, lines)}"


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Samples a second of each loop, stage by stage."""
    stages = list(dict.fromkeys(r["stage"] for r in result["rows"]))
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        rates = {r["loop"]: r["samples_per_s"]["median"] for r in result["rows"] if r["stage"] == stage}
        axes.bar(list(rates), list(rates.values()))
        axes.set(title=stage, ylabel="samples/s")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time training beside plain PyTorch")
    parser.add_argument("--data", type=Path, help="directory written by train.prepare (default: random products)")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="of the network (%(default)s)")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument(
        "--micro-batch", type=int, default=32, metavar="N", help="products (%(default)s); two an update"
    )
    parser.add_argument("--updates", type=int, default=4, metavar="N", help="of each loop in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(%(default)s)")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/training)")
    args = parser.parse_args(arguments)
    config = StageConfig(batch_size=ACCUMULATION * args.micro_batch, micro_batch_size=args.micro_batch)
    recipe = Recipe(model=SIZES[args.size], precision=args.precision, stages=Stages(**dict.fromkeys(STAGES, config)))
    tasks, on_host = read_batches(recipe, args.data, args.micro_batch, ACCUMULATION * args.updates)
    about = {
        "size": args.size, "precision": args.precision, "micro_batch": args.micro_batch,
        "data": str(args.data or "random products"), "accumulation": ACCUMULATION,
    }  # fmt: skip
    with one_rank(), Report("training", args.output, table, draw, **about) as report:
        batches = [batch.to(device()) for batch in on_host]
        for stage in tqdm(STAGES):
            report.add(*measure(recipe, stage, tasks, batches, args.rounds))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
