"""The paper's full-size network, random weights: bundle, ONNX, parity, server, answer over gRPC."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import full_size as made
import numpy as np
import pytest
from full_size import TASKS
from PIL import Image
from server_process import ServerProcess, in_float32

from client import Classifier
from model.bundle import Bundle, load_bundle


@pytest.fixture(scope="module")
def full_size() -> Bundle:
    return load_bundle(made.bundle_dir())


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


def test_it_is_exported_served_and_answers_as_in_process(full_size: Bundle, tmp_path: Path):
    exported = made.exported()
    assert all(report["passed"] and report["flips"] == 0 for report in exported.reports.values())
    deploy = in_float32(Path(shutil.copytree(exported.deploy, tmp_path / "deploy")))
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    products = [("Rosewood red maxi dress", buffer.getvalue()), ("", buffer.getvalue()), ("a blue dress", b"")]
    with (
        ServerProcess(deploy, tmp_path / "server.log") as server,
        Classifier(server.url, 60) as classifier,
    ):
        answers = [classifier.classify(title, image).prediction for title, image in products]
    for answer, expected in zip(answers, full_size.classify(products), strict=True):
        for task in TASKS:
            ours, theirs = answer[task.name], expected[task.name]
            assert ours["label"] == theirs["label"] and ours["modality"] == theirs["modality"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert ours["text_share"] == pytest.approx(theirs["text_share"], abs=1e-4)
