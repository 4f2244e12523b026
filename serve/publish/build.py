"""A set of models for a bundle, in a repository beside what is served: steps like the plain ones, and an engine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cma_clip.files import new_directory, to_disk
from model.bundle import Bundle
from serve.export.publish import build_engine, served_config
from serve.repository import Repository, engine_files
from serve.sets import STEPS, StepSet

QUIETLY = Path(__file__).with_name("quietly.py")
NO_PART = ("__pycache__", ".*.partial", *engine_files(), *(f"{name}.json" for name in engine_files()))


def suffix_of(repository: Repository, bundle: Bundle, tokenizer: Path, runtime: str, precision: str) -> str:
    """`_` and 12 hex digits that change with all that decides how the set answers."""
    digest = hashlib.sha256(f"{runtime} {precision} {served_config(bundle)}".encode())
    digest.update(tokenizer.read_bytes())
    for path in template_files(repository):
        digest.update(f"{path.relative_to(repository.template())}\n".encode())
        digest.update(path.read_bytes())
    return f"_{digest.hexdigest()[:12]}"


def template_files(repository: Repository) -> Iterator[Path]:
    """What a set takes over from the plain steps."""
    ignored = shutil.ignore_patterns(*NO_PART)
    for step in STEPS:
        for folder, folders, files in os.walk(repository.template() / step):
            folders[:] = sorted(set(folders) - ignored(folder, folders))
            yield from (Path(folder) / name for name in sorted(set(files) - ignored(folder, files)))


def build_set(
    repository: Repository,
    suffix: str,
    bundle: Bundle,
    tokenizer: Path,
    runtime: str,
    precision: str,
    data: Path | None = None,
) -> dict[str, Any]:
    """Write the set aside, whole or not at all.

    Returns:
        parity reports, as serve.export.publish.export.
    Raises:
        ValueError: the runtime cannot be built here.
        Failure: the engine is too far from torch.
        OSError: no space on the disk.
    """
    with new_directory(repository.place_aside(suffix)) as partial:
        steps = StepSet(partial, suffix)
        for file in template_files(repository):
            step, *inside = file.relative_to(repository.template()).parts
            copy = steps.folder(step).joinpath(*inside)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        for cache in repository.root.glob("*.timing"):  # TensorRT's, which makes the next build fast
            shutil.copy2(cache, partial)
        reports = build_engine(bundle, steps.folder("engine") / "1", runtime, precision, data)
        for cache in partial.glob("*.timing"):
            os.replace(cache, repository.root / cache.name)
        steps.tokenizer.write_bytes(tokenizer.read_bytes())
        steps.bundle.write_text(served_config(bundle))
        for step in STEPS:
            _name(steps, step)
    repository.seal(suffix)
    return reports


def _name(steps: StepSet, step: str) -> None:
    """Let each configuration of a step name it by its own name, and begin quietly where it is in python."""
    folder = steps.folder(step)
    for path in folder.glob("configs/*.pbtxt"):
        _rename(path, step, steps.name(step))
    if any((folder / "1").glob("*_step.py")):
        shutil.copy2(QUIETLY, folder / "1")
    _rename(folder / "config.pbtxt", step, steps.name(step))
    to_disk(folder)


def _rename(path: Path, step: str, name: str) -> None:
    text = re.sub(rf'^name: *"{step}"', f'name: "{name}"', path.read_text(), count=1, flags=re.MULTILINE)
    path.write_text(
        re.sub(rf'^(default_model_filename: *)"{step}_step.py"', rf'\1"{QUIETLY.name}"', text, flags=re.MULTILINE)
    )
