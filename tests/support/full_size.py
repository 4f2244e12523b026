"""The paper's full-size network with random weights, made and exported once for all test files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.bundle import save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.config import BundleConfig, ModelConfig
from model.networks import create_network
from model.tasks import SingleLabel, TaskSet
from serve.export.publish import export

TASKS = TaskSet(
    [
        SingleLabel(name="color", labels=[f"color {i}" for i in range(17)]),
        SingleLabel(name="pattern", labels=[f"pattern {i}" for i in range(12)]),
    ]
)
_FOLDER = tempfile.TemporaryDirectory(prefix="full-size-")


class Exported(NamedTuple):
    """deploy: a model repository with model.onnx; reports: what its export found."""

    bundle_dir: Path
    deploy: Path
    reports: dict[str, Any]


@functools.cache
def bundle_dir() -> Path:
    torch.manual_seed(0)
    config = ModelConfig()
    clip = create_clip(config)
    network = create_network(config, preprocess_config(clip), TASKS, clip)
    directory = Path(_FOLDER.name, "bundle")
    save_bundle(directory, BundleConfig(model=config, preprocess=preprocess_config(clip), tasks=TASKS), network)
    return directory


@functools.cache
def exported() -> Exported:
    """With the bundle's ONNX graph at deploy/engine/1/model.onnx."""
    deploy = Path(_FOLDER.name, "deploy")
    return Exported(bundle_dir(), deploy, export(bundle_dir(), deploy))
