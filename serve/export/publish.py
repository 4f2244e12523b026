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
from serve.repository import Repository, engine_files
from serve.runtimes import builder, row_of
from serve.sets import StepSet
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
            runtimes in it stay if they were exported from the same bundle; published sets go.
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
    precision = checked_precision(runtime, precision)
    bundle = bundle_to_serve(bundle_dir, refuse_mismatches)
    prepare_repository(deploy)
    repository, plain = Repository(deploy), StepSet(deploy)
    version = repository.template() / "engine" / "1"
    with new_directory(version) as partial:
        reports = build_engine(bundle, partial, runtime, precision, data)
        _keep(version, partial, served_sha256(bundle))
    # The engine refuses to load beside another bundle.json: a kill between the renames shows.
    write_atomically(plain.tokenizer, (bundle_dir / "tokenizer.json").read_bytes())
    write_atomically(plain.bundle, served_config(bundle))
    repository.serve_plain()
    return reports


def checked_precision(runtime: str, precision: str | None) -> str:
    """One of the runtime's; None is the first of them.

    Raises:
        ValueError: it has no such precision, or cannot be built here.
    """
    known, _ = row_of(runtime).precisions, builder(runtime)
    if precision not in (None, *known):
        raise ValueError(f"--precision {precision}: {runtime} has {', '.join(known)}")
    return precision or known[0]


def bundle_to_serve(bundle_dir: Path, refuse_mismatches: bool) -> Bundle:
    """Raises ValueError as load_bundle, or where there are no mismatches to refuse."""
    bundle = load_bundle(bundle_dir)
    if refuse_mismatches:
        bundle.config = bundle.config.model_copy(update={"tasks": bundle.config.tasks.refusing()})
    return bundle


def served_config(bundle: Bundle) -> str:
    """The content of the bundle.json beside its engine."""
    return bundle.config.model_dump_json(indent=2) + "\n"


def served_sha256(bundle: Bundle) -> str:
    return hashlib.sha256(served_config(bundle).encode()).hexdigest()


def build_engine(bundle: Bundle, folder: Path, runtime: str, precision: str, data: Path | None) -> dict[str, Any]:
    """Write an engine and its stamp into a version folder, which lies in an engine's with its configurations.

    Returns, raises: as `export`.
    """
    file = folder / row_of(runtime).file
    built = builder(runtime)(Order(bundle, file, runtime, precision, data))
    served = built.candidates[-1]
    reports = {each.name: judge(bundle, each, data if each is served else None) for each in built.candidates}
    known = {"runtime": runtime, "precision": built.precision, "bundle_sha256": served_sha256(bundle)}
    EngineStamp(**known, parity=reports, **built.target._asdict()).write(file)
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


def prepare_repository(deploy: Path) -> None:
    """Make `deploy` a copy of the project's model repository unless it is one already.

    Raises:
        ValueError: `deploy` holds something else, or there is nothing to copy from.
    """
    if (Repository(deploy).template() / "engine" / "config.pbtxt").is_file():
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
