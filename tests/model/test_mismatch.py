"""The answer that tells whether title and image belong together: its column, its absence, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import TASKS, tiny_bundle_config, tiny_config, tiny_network

from model.config import BundleConfig
from model.mismatch import MismatchPart
from model.tasks import MISSING, Mismatch, SingleLabel, TaskSet

BOTH, TITLE, IMAGE = [True, True], [True, False], [False, True]


def tasks(*, refuses: bool = False, threshold: float = 0.7) -> TaskSet:
    return TaskSet([*TASKS, Mismatch(thresholds=[threshold], refuses=refuses)])


def answers(scores: list[float], **settings: object) -> list[dict[str, dict]]:
    logits = np.zeros((len(scores), 6), dtype=np.float32)
    logits[:, 5] = np.log(np.array(scores) / (1 - np.array(scores)))
    own = tasks(**settings)
    return own.predictions(own.scores(logits), np.full((len(scores), 3), 0.5), np.ones((len(scores), 2), dtype=bool))


def test_it_is_a_task_that_no_data_set_has_labels_of():
    own = tasks()
    assert own.labelled == TASKS and own.labelled.label_set_hash == TASKS.label_set_hash != own.label_set_hash
    assert own.is_mismatch_C.tolist() == [False] * 5 + [True]
    targets = own.encode({"id": "a", "color": "red", "pattern": None})
    assert targets.tolist() == [1, 0, 0, MISSING, MISSING, MISSING]
    assert TASKS.with_mismatch().label_set_hash == own.label_set_hash


def test_a_bundle_keeps_it_with_its_threshold():
    config = tiny_bundle_config(tasks=tasks(refuses=True, threshold=0.25))
    again = BundleConfig.model_validate_json(config.model_dump_json())
    assert again.tasks == config.tasks and isinstance(again.tasks[-1], Mismatch) and again.tasks[-1].refuses


def test_only_a_network_that_tells_mismatches_can_be_made_to_refuse_them():
    assert tasks().refusing() == tasks(refuses=True)
    with pytest.raises(ValueError, match="the network does not tell mismatches: train it with --mismatch true"):
        TASKS.refusing()


def test_a_task_of_the_data_set_may_not_have_its_name():
    taken = TaskSet([SingleLabel(name="mismatch", labels=["a", "b"])])
    with pytest.raises(ValueError, match="a task of the data set is called mismatch: rename it, or set --mismatch fal"):
        taken.with_mismatch()


def test_it_is_answered_from_its_threshold_on():
    low, high = answers([0.6, 0.8])
    assert [low["mismatch"][key] for key in ("accepted", "label", "labels")] == [False, "match", []]
    assert [high["mismatch"][key] for key in ("accepted", "label", "labels")] == [True, "mismatch", ["mismatch"]]
    assert [answer["mismatch"]["score"] for answer in (low, high)] == pytest.approx([0.6, 0.8], abs=1e-6)
    assert high["mismatch"]["scores"] == [pytest.approx(0.8, abs=1e-6)]
    assert low["mismatch"]["top"] == [["mismatch", pytest.approx(0.6, abs=1e-6)]]
    assert low["color"]["accepted"] and high["color"]["accepted"] and "refused" not in high["color"]


def test_where_it_refuses_no_other_answer_is_accepted_and_each_says_why():
    low, high = answers([0.6, 0.8], refuses=True)
    assert low["color"]["accepted"] and low["pattern"]["accepted"] and "refused" not in low["color"]
    for name in ("color", "pattern"):
        assert high[name]["accepted"] is False and high[name]["refused"] == "mismatch"
        assert high[name]["label"] == low[name]["label"]
    assert high["mismatch"]["accepted"] and "refused" not in high["mismatch"]
    json.dumps(high, allow_nan=False)


@torch.no_grad()
def test_a_product_without_title_or_image_has_none():
    network = tiny_network(tiny_config(sequence_norm="gated", head_inputs="both"), tasks()).eval()
    inputs = torch.tensor([[8190, 40, 8191]] * 3), torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8)
    logits, text_share = network(*inputs, torch.tensor([BOTH, TITLE, IMAGE]))
    scores = tasks().scores(logits.numpy())
    assert 0.1 < scores[0, 5] < 0.9 and (scores[1:, 5] < 1e-9).all() and (scores[:, :5] > 0.01).all()
    assert text_share.shape == (3, 3)


@torch.no_grad()
def test_title_and_image_are_compared_by_the_cosine_of_clips_features():
    torch.manual_seed(0)
    part, logits, text, image = MismatchPart(tasks()), torch.randn(4, 6), torch.randn(4, 8), torch.randn(4, 8)
    cosine = torch.tensor([float(a @ b / (a.norm() * b.norm())) for a, b in zip(text, image, strict=True)])[:, None]
    hidden = torch.nn.functional.gelu(cosine @ part.hidden.weight.T + part.hidden.bias)
    expected = logits[:, 5] + (hidden @ part.output.weight.T + part.output.bias)[:, 0]
    found = part(logits, torch.nn.functional.cosine_similarity(text, image)[:, None])
    torch.testing.assert_close(found[:, 5], expected)
    torch.testing.assert_close(found[:, :5], logits[:, :5])
    present = torch.tensor([BOTH, TITLE, IMAGE, BOTH])
    assert part.only_of_both(found, present)[1:3, 5].tolist() == [-30.0] * 2
    assert torch.equal(part.only_of_both(found, present)[:, :5], found[:, :5])


def test_columns_of_logits_and_of_targets_may_be_other_ones():
    class Steps(SingleLabel):
        @property
        def columns(self) -> int:
            return len(self.labels) - 1

    own = TaskSet([Steps(name="size", labels=["s", "m", "l"]), Mismatch()])
    assert own.is_mismatch_C.tolist() == [False] * 2 + [True]
    assert own.is_mismatch_L.tolist() == [False] * 3 + [True]
