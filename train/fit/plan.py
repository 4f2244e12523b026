"""What `cma-clip fit` is going to do: settled before anything is done, and kept for the run that goes on."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from cma_clip.files import write_atomically
from cma_clip.machine import usable_cores
from cma_clip.settings import StrictModel, read_json
from cma_clip.tables import aligned
from model.networks import NETWORKS, StageName
from train.fit.catalog import Catalog, open_catalog, state_of_further, state_of_table
from train.fit.language import note_for_clips_weights
from train.fit.pace import seconds_per_product
from train.fit.sizes import LEAST, RECIPE, Epochs, epochs_for, training_seconds, within
from train.fit_wide import FITTED_TO, MEASURED_ON
from train.recipe import Recipe, load_recipe

PLAN, RECIPE_FILE, DATA, LOGS, RIVALS, SCORE = "plan.json", "recipe.yaml", "data", "logs", "rivals", "score"
MOST_RANKS = 4  # on a CPU: each holds a network and products of its own
ONE_GPU_UP_TO = 200_000  # products
RIVALS_UP_TO = 50_000  # products: 50 KB of each are kept in memory
# Seconds that what is not training takes, and more a product: on two cores of an EPYC without AVX-512; WIDE by one.
REST_S = {"prepare": (5.0, 0.003), "rivals": (20.0, 0.012), "score": (15.0, 0.001), "export": (80.0, 0.0)}
START_S = 15.0  # a stage, before its first update and after its last
WIDE_S = 14.0  # of a task: finding how to fit the wide part, on as many products as that takes at most
WIDE_PRODUCT_S = (1.5e-3, 0.7e-3)  # of a product: to be read for the wide part, and in each task to be fitted
# What decides the plan, of the options.
DECIDING = ("pretrain", "image", "title", "id", "task", "image_root", "minutes", "recipe", "no_rivals", "no_export")


class Plan(StrictModel):
    """The content of OUTPUT/plan.json, beside the recipe that it filled in.

    Attributes:
        given: all that decided it, by name; the same command goes on, another is refused.
        columns: column -> what it is taken for, for people.
        data: the data set's directory.
        prepare: what follows `python -m train.prepare`; nothing where the data set was there before.
        pretrain: data set that the towers are trained on first, where it is another one.
        products: rows of the table, or of the data set.
        epochs: stage -> epochs, in the stages' order.
        ranks, threads: processes that train, and cores of each.
        seconds: step -> estimate, in the order of the steps.
        notes: what else to know before it begins.
    """

    given: dict[str, Any]
    columns: dict[str, str]
    data: Path
    prepare: list[str]
    pretrain: Path | None
    products: int
    epochs: dict[StageName, int]
    ranks: int
    threads: int
    seconds: dict[str, float]
    notes: list[str] = []

    def text(self) -> str:
        """For people."""
        columns = [aligned([[f"  {name}", what] for name, what in self.columns.items()])] if self.columns else []
        epochs = ", ".join(f"{stage} {count}" for stage, count in self.epochs.items())
        times = ", ".join(f"{step} {duration(seconds)}" for step, seconds in self.seconds.items())
        lines = [
            f"{self.products:,} products; epochs: {epochs}; {self.ranks} ranks",
            f"about {duration(sum(self.seconds.values()))}: {times}",
        ]
        return "\n".join(columns + lines + self.notes)


def duration(seconds: float) -> str:
    """For people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def settle(args: argparse.Namespace, overrides: Sequence[str], further: Sequence[str]) -> Plan:
    """The plan of these options, or the one that the output was begun with.

    Args:
        args: of train.fit.
        overrides: dotted options of the recipe.
        further: options of train.prepare catalog.
    Raises:
        ValueError: options, table, recipe and output do not fit each other.
    """
    path = args.output / PLAN
    given = {name: _plain(getattr(args, name)) for name in DECIDING}
    given |= {"table": str(args.table.resolve()), "what the table holds": state_of_table(args.table)}
    given |= {"settings of the recipe": list(overrides), "options of prepare": list(further)}
    given |= {"what the corrections hold": state_of_further(further)}
    if path.exists() and not args.overwrite:
        plan = read_json(Plan, path)
        if other := [name for name, value in given.items() if plan.given.get(name) != value]:
            raise ValueError(
                f"{args.output}: begun with other settings ({', '.join(other)}); --overwrite begins anew,"
                " or name another --output"
            )
        return plan
    if not path.exists() and args.output.exists() and any(args.output.iterdir()):
        raise ValueError(f"--output {args.output}: holds something else; name another directory")
    plan, recipe = _new_plan(args, overrides, open_catalog(args, args.output / DATA, further), given)
    if not args.dry_run:
        _clear(args.output)
        args.output.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        write_atomically(args.output / RECIPE_FILE, f"# Written by cma-clip fit of {args.table}.\n{settings}")
        write_atomically(path, plan.model_dump_json(indent=1) + "\n")
    return plan


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _clear(output: Path) -> None:
    """Remove what an earlier fit made, and nothing else; its plan last."""
    for name in (DATA, f"{DATA}.partial", LOGS, RIVALS, SCORE, "bundle", "contrastive", *_stages(), RECIPE_FILE, PLAN):
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _stages() -> set[str]:
    return {stage for row in NETWORKS.values() for stage in row.stages}


def _new_plan(
    args: argparse.Namespace, overrides: Sequence[str], catalog: Catalog, given: dict[str, Any]
) -> tuple[Plan, Recipe]:
    if catalog.products < LEAST:
        raise ValueError(
            f"{args.table}: {catalog.products} products; {LEAST} or more are needed to train on and to judge by"
        )
    ranks, threads = _ranks(catalog.products)
    options = _options(args.recipe, overrides, catalog)
    recipe = load_recipe(args.recipe or RECIPE, options)
    epochs = _epochs(recipe, len(catalog.tasks), args.pretrain is not None)
    tasks = catalog.tasks.with_mismatch() if recipe.mismatch else catalog.tasks
    micro = max(1, min(recipe.stages.end_to_end.micro_batch_size, recipe.stages.end_to_end.batch_size // ranks))
    pace_s = seconds_per_product(recipe, tasks, micro, threads)
    epoch_s = pace_s * catalog.train / ranks
    rest = {step: start + each * catalog.products for step, (start, each) in REST_S.items()}
    skipped = {"prepare": not catalog.prepare, "export": args.no_export}
    skipped["rivals"] = args.no_rivals or catalog.products > RIVALS_UP_TO
    rest = {step: seconds for step, seconds in rest.items() if not skipped.get(step)}
    wide_s = _wide_seconds(catalog.train, len(catalog.tasks)) if recipe.model.wide else 0.0
    if args.minutes:
        epochs = within(epochs, epoch_s, START_S, 60 * args.minutes - sum(rest.values()) - wide_s)
        recipe = load_recipe(args.recipe or RECIPE, [*options, *_epoch_options(epochs)])
    training = {stage: training_seconds({stage: count}, epoch_s, START_S) for stage, count in epochs.items()}
    training["warmup"] += wide_s
    order = ["prepare", "rivals", *epochs, "score", "export"]
    plan = Plan(
        given=given,
        columns=catalog.columns,
        data=catalog.data,
        prepare=catalog.prepare,
        pretrain=args.pretrain,
        products=catalog.products,
        epochs=epochs,
        ranks=ranks,
        threads=threads,
        seconds={step: (rest | training)[step] for step in order if step in rest or step in training},
        notes=[note] if recipe.model.pretrained and (note := note_for_clips_weights(catalog.titles)) else [],
    )
    return plan, recipe


def _wide_seconds(products: int, tasks: int) -> float:
    reading_s, task_s = (each * min(products, FITTED_TO) for each in WIDE_PRODUCT_S)
    return reading_s + tasks * (task_s + WIDE_S * min(1.0, products / MEASURED_ON))


def _options(path: Path | None, overrides: Sequence[str], catalog: Catalog) -> list[str]:
    """What lies over the recipe: the default has epochs by the rule of the size, and no batch is so large that the
    products do not fill it twice.
    """
    options = [*([] if path else _epoch_options(epochs_for(catalog.train))), *overrides]
    stages = load_recipe(path or RECIPE, options).stages
    most = 1 << (max(1, catalog.train // 2).bit_length() - 1)
    large = [name for name in type(stages).model_fields if getattr(stages, name).batch_size > most]
    return options + [f"--stages.{name}.batch_size={most}" for name in large]


def _epochs(recipe: Recipe, tasks: int, has_captions: bool) -> Epochs:
    """Of the stages that are to run: contrastive where there is a data set for it, or where the towers have no weights
    and nothing else sees titles and images. A single task needs no tuning (paper, section 3.2.2).
    """
    needs_towers = not (recipe.model.pretrained or recipe.model.sees_beside_towers)
    first: tuple[StageName, ...] = ("contrastive",) if has_captions or needs_towers else ()
    stages = (*first, *NETWORKS[recipe.model.architecture].stages)
    return {name: getattr(recipe.stages, name).epochs for name in stages if name != "tuning" or tasks > 1}


def _epoch_options(epochs: Epochs) -> list[str]:
    return [f"--stages.{stage}.epochs={count}" for stage, count in epochs.items()]


def _ranks(products: int) -> tuple[int, int]:
    """Processes that train, a power of two so that they share any batch, and cores of each."""
    gpus, cores = torch.cuda.device_count(), usable_cores()
    most = (gpus if products > ONE_GPU_UP_TO else 1) if gpus else min(cores, MOST_RANKS)
    ranks = 1 << (most.bit_length() - 1)
    return ranks, max(1, cores // ranks)
