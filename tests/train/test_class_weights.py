"""Weights of labels from a data set on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tagged_files import COLOR, TAGS, write_tagged
from tiny import tiny_bundle_config

from cma_clip.command import EXIT_BAD_INPUT
from dataset.format import DatasetInfo
from model.preprocess import TitleTokenizer
from model.tokenizer import build_tokenizer
from train.class_weights import check_class_weights, positive_weights
from train.data import ProductDataset
from train.main import main


def open_train(directory: Path) -> ProductDataset:
    preprocess = tiny_bundle_config().preprocess
    return ProductDataset(
        directory, "train", preprocess, TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    )


def test_inverse_frequency_among_the_products_that_have_tags(tmp_path: Path):
    directory = write_tagged(tmp_path / "data")
    # 18 of 24 have tags: 9 are new, 6 on sale; a label that never occurs keeps its weight
    assert positive_weights(open_train(directory)).tolist() == [1, 1, 1, 18 / 9, 18 / 6, 1]
    counts = DatasetInfo.read(directory).splits["train"].label_counts["tags"]
    assert counts == {"new": 9, "sale": 6, "never": 0}


def test_the_order_of_tasks_is_that_of_the_logits(tmp_path: Path):
    assert positive_weights(open_train(write_tagged(tmp_path / "data", (TAGS, COLOR)))).tolist() == [2, 3, 1, 1, 1, 1]


def test_tasks_without_weights_are_refused_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    check_class_weights("inverse_frequency", [COLOR, TAGS])
    output = tmp_path / "run"
    arguments = [
        "--stage",
        "contrastive",
        "--config",
        "tests/support/tiny.yaml",
        "--data",
        str(data),
        "--output",
        str(output),
    ]
    assert main([*arguments, "--class_weights", "inverse_frequency"]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: class_weights inverse_frequency is for multi-label tasks, and color, pattern have")
    assert error.count("\n") == 1 and not output.exists()
