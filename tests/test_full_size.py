"""The paper's full-size network, random weights: bundle, ONNX, parity, server, answer over gRPC."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from server_process import ServerProcess, in_float32

from client.classifier import Classifier
from model.bundle import Bundle, load_bundle, save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import CMAClip
from model.config import BundleConfig, ModelConfig, Task
from model.export.publish import export

TASKS = [
    Task(name="color", kind="single_label", labels=[f"color {i}" for i in range(17)]),
    Task(name="pattern", kind="single_label", labels=[f"pattern {i}" for i in range(12)]),
]


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig()
    clip = create_clip(config)
    network = CMAClip(config, preprocess_config(clip), TASKS, clip)
    directory = tmp_path_factory.mktemp("full") / "bundle"
    save_bundle(directory, BundleConfig(model=config, preprocess=preprocess_config(clip), tasks=TASKS), network)
    return directory


@pytest.fixture(scope="module")
def full_size(bundle_dir: Path) -> Bundle:
    return load_bundle(bundle_dir)


def test_it_has_the_papers_sizes(full_size: Bundle):
    network = full_size.network
    visual, clip = network.towers.clip.visual, network.towers.clip
    assert (len(visual.transformer.resblocks), visual.conv1.out_channels, visual.patch_size) == (12, 768, (32, 32))
    assert visual.transformer.resblocks[0].attn.num_heads == 12
    assert (len(clip.transformer.resblocks), clip.transformer.width) == (12, 512)
    assert clip.transformer.resblocks[0].attn.num_heads == 8
    sequence = network.sequence_attention
    assert (len(sequence.blocks), sequence.blocks[0].heads, network.towers.width) == (12, 8, 512)
    assert 189e6 < sum(parameter.numel() for parameter in network.parameters()) < 190e6


def test_it_is_exported_served_and_answers_as_in_process(full_size: Bundle, bundle_dir: Path, tmp_path: Path):
    reports = export(bundle_dir, tmp_path / "deploy")
    assert all(report["passed"] and report["label_flips"] == 0 for report in reports.values())
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    products = [("Rosewood red maxi dress", buffer.getvalue()), ("", buffer.getvalue()), ("a blue dress", b"")]
    with (
        ServerProcess(in_float32(tmp_path / "deploy"), tmp_path / "server.log") as server,
        Classifier(server.url, 60) as classifier,
    ):
        answers = [classifier.classify(title, image).prediction for title, image in products]
    for answer, expected in zip(answers, full_size.classify(products), strict=True):
        for task in TASKS:
            ours, theirs = answer[task.name], expected[task.name]
            assert ours["label"] == theirs["label"] and ours["modality"] == theirs["modality"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert ours["text_share"] == pytest.approx(theirs["text_share"], abs=1e-4)
