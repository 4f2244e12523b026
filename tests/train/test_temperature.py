"""Scores say how sure an answer is, whatever the sharpness of the logits; and nothing else changes by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle import load_bundle
from model.config import BundleConfig
from model.tasks import MISSING, Mismatch, MultiLabel, SingleLabel, TaskSet
from train.data import IN_ORDER, ProductDataset
from train.losses import classification_losses
from train.predict import answers_for
from train.temperature import MOST, fit_temperatures

COLOR = SingleLabel(name="color", labels=["red", "blue", "green"])
TAGS = MultiLabel(name="tags", labels=["new", "sale"])


def drawn(products: int = 6000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both tasks, and labels drawn with just the chances that they give."""
    generator = torch.Generator().manual_seed(0)
    logits_NC = 1.5 * torch.randn(products, 5, generator=generator)
    color_N = torch.multinomial(logits_NC[:, :3].softmax(dim=1), 1, generator=generator)[:, 0]
    tags_N2 = torch.rand(products, 2, generator=generator) < logits_NC[:, 3:].sigmoid()
    return logits_NC, torch.cat([torch.eye(3)[color_N], tags_N2.float()], dim=1)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 3.0])
def test_logits_that_are_too_sharp_or_too_blunt_are_found_out(sharpness: float):
    logits_NC, targets_NC = drawn()
    color, tags = fit_temperatures(sharpness * logits_NC, targets_NC, TaskSet([COLOR, TAGS]))
    assert color.temperature == pytest.approx(sharpness, rel=0.06)
    assert tags.temperature == pytest.approx(sharpness, rel=0.06)


def test_scores_are_those_of_the_divided_logits_and_labels_are_what_they_were():
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    sharp = COLOR.model_copy(update={"temperature": 0.5})
    np.testing.assert_array_equal(sharp.scores(logits), COLOR.scores(2 * logits))
    assert TaskSet([sharp]).label_set_hash == TaskSet([COLOR]).label_set_hash
    assert "temperature" not in COLOR.model_dump() and sharp.model_dump()["temperature"] == 0.5
    assert SingleLabel.model_validate_json(sharp.model_dump_json()) == sharp
    with pytest.raises(ValueError, match="temperature"):
        SingleLabel(name="color", labels=COLOR.labels, temperature=0.0)


def test_who_has_no_label_and_a_mismatch_stay_as_they_are():
    logits_NC, targets_NC = drawn(60)
    targets_NC[:, :3] = MISSING
    logits_NC, targets_NC = torch.cat([logits_NC, logits_NC[:, :1]], 1), torch.cat([targets_NC, targets_NC[:, 3:4]], 1)
    color, tags, mismatch = fit_temperatures(4 * logits_NC, targets_NC, TaskSet([COLOR, TAGS, Mismatch()]))
    assert color.temperature == mismatch.temperature == 1 and tags.temperature > 2


def test_answers_that_are_all_right_are_not_made_infinitely_sharp():
    targets_NC = torch.eye(3).repeat(20, 1)
    (color,) = fit_temperatures(targets_NC, targets_NC, TaskSet([COLOR]))
    assert color.temperature == pytest.approx(1 / MOST)


def test_a_stage_without_a_wide_part_publishes_the_temperature_with_the_least_loss(bundle_dir: Path, data: Path):
    bundle = load_bundle(bundle_dir)
    tasks = BundleConfig.read(bundle_dir / "config.json").tasks.labelled
    dataset = ProductDataset(data, "validation", bundle.config.preprocess, bundle.tokenizer, IN_ORDER)
    answers = answers_for(bundle, dataset, 16)

    def losses(factor: float) -> torch.Tensor:
        parts = [own_NC / (factor * task.temperature) for task, own_NC in tasks.split_logits(answers.logits_NC)]
        return classification_losses(torch.cat(parts, dim=1), answers.targets_NC, tasks)[0]

    least = losses(1.0)
    assert all(task.temperature != 1 for task in tasks)
    for factor in (0.7, 1.4):
        assert (losses(factor) >= least).all(), factor
