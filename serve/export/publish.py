"""Fill a Triton model repository from a bundle: engine, stamp, tokenizer, configuration. Nothing half-made is seen."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from cma_clip.command import Failure
from cma_clip.files import new_directory, write_atomically
from model.bundle import Bundle, load_bundle
from serve.export.built import Candidate, Order
from serve.export.parity import compare, product_cases, random_cases
from serve.runtimes import RUNTIMES, builder, row_of
from serve.stamp import EngineStamp, stamp_path

REPOSITORY = Path(__file__).parents[2] / "deploy"
COMPARED_PRODUCTS = 500


def export(
    bundle_dir: Path,
    deploy: Path,
    runtime: str = "openvino",
    precision: str | None = None,
    data: Path | None = None,
    refuse_mismatches: bool = False,
) -> dict[str, Any]:
    """Fill a model repository from a bundle.

    Args:
        bundle_dir: as written by training.
        deploy: the repository; made as a copy of the project's where it does not exist. Engines of other
            runtimes in it stay if they were exported from the same bundle.
        runtime: one of RUNTIMES.
        precision: of the matrix products, one of the runtime's; None is the first of them.
        data: data set directory. Its validation split is compared too, on its training split int8 is calibrated.
        refuse_mismatches: where title and image do not belong together, no answer is accepted.
    Returns:
        parity report of each candidate by name; also stored in the stamp beside the engine file.
    Raises:
        ValueError: the bundle is unfit, the graph is invalid, or the runtime cannot be built here.
        Failure: the engine is too far from torch. What `deploy` served before stays, in both cases.
    """
    row = row_of(runtime)
    if precision not in (None, *row.precisions):
        raise ValueError(f"--precision {precision}: {runtime} has {', '.join(row.precisions)}")
    build, bundle = builder(runtime), load_bundle(bundle_dir)
    if refuse_mismatches:
        bundle.config = bundle.config.model_copy(update={"tasks": bundle.config.tasks.refusing()})
    prepare_repository(deploy)
    served_config = bundle.config.model_dump_json(indent=2) + "\n"
    bundle_sha256 = hashlib.sha256(served_config.encode()).hexdigest()
    with new_directory(deploy / "engine" / "1") as partial:
        built = build(Order(bundle, partial / row.file, runtime, precision or row.precisions[0], data))
        served = built.candidates[-1]
        reports = {each.name: judge(bundle, each, data if each is served else None) for each in built.candidates}
        # The engine refuses to load beside another bundle.json: a kill between the renames shows.
        known = {"runtime": runtime, "precision": built.precision, "bundle_sha256": bundle_sha256, "parity": reports}
        EngineStamp(**known, **built.target._asdict()).write(partial / row.file)
        _keep(deploy / "engine" / "1", partial, bundle_sha256)
    write_atomically(deploy / "tokenizer.json", (bundle_dir / "tokenizer.json").read_bytes())
    write_atomically(deploy / "bundle.json", served_config)
    return reports


def judge(bundle: Bundle, candidate: Candidate, data: Path | None) -> dict[str, Any]:
    """The parity report of one candidate: on random inputs, or on products where a data set is given.

    Raises:
        Failure: it is too far from torch.
    """
    products = product_cases(bundle, data, "validation", COMPARED_PRODUCTS) if data else iter(())
    # 8 bits are scaled for products, not for noise.
    noise = random_cases(bundle.config, candidate.lengths) if candidate.precision != "int8" else iter(())
    cases = itertools.chain(noise, products)
    report = compare(bundle, candidate.run, candidate.precision, cases)
    if not report["passed"]:
        where = f"; {candidate.where()}" if candidate.where else ""
        raise Failure(f"{candidate.name} differs from torch: {report}{where}; nothing published")
    return report


def _keep(version: Path, partial: Path, bundle_sha256: str) -> None:
    """Take over the python step, and other runtimes' engines where they fit the bundle."""
    for step in version.glob("*.py"):
        shutil.copy2(step, partial)
    for engine in (version / name for name in engine_files()):
        if (partial / engine.name).exists() or not stamp_path(engine).is_file():
            continue
        if EngineStamp.read(engine).bundle_sha256 == bundle_sha256:
            for file in (engine, stamp_path(engine)):
                os.link(file, partial / file.name)


def engine_files() -> list[str]:
    return sorted({row.file for row in RUNTIMES.values()})


def prepare_repository(deploy: Path) -> None:
    """Make `deploy` a copy of the project's model repository unless it is one already.

    Raises:
        ValueError: `deploy` holds something else, or there is nothing to copy from.
    """
    if (deploy / "engine" / "config.pbtxt").is_file():
        return
    if deploy.exists() and any(deploy.iterdir()):
        raise ValueError(f"{deploy}: neither empty nor a model repository of this project")
    if not (REPOSITORY / "engine" / "config.pbtxt").is_file():
        raise ValueError(
            f"{deploy}: no such model repository; run this from a checkout of the project, or copy its deploy/"
        )
    engines = [pattern for name in engine_files() for pattern in (name, f"{name}.*")]
    for model in sorted(REPOSITORY.iterdir()):
        if (model / "config.pbtxt").is_file():
            shutil.copytree(
                model, deploy / model.name, ignore=shutil.ignore_patterns(*engines, "__pycache__", ".*.partial")
            )
