"""What title and image say of one task, held against each other: by hand, and by what they mean."""

from __future__ import annotations

import math

import pytest
import torch

from model.evidence import LEAST, compare

EVEN = torch.zeros(3)


def of(chances: list[float]) -> torch.Tensor:
    return torch.tensor([chances]).log()


def test_agreement_and_gain_of_one_label_by_hand():
    prior, title, image, together = [0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.5, 0.25]
    found = compare(of(prior)[0], of(title), of(image), of(together), several_labels=False)
    ratio = 0.7 * 0.1 / 0.5 + 0.2 * 0.6 / 0.3 + 0.1 * 0.3 / 0.2
    gain = 0.25 * math.log(0.7 / 0.1) + 0.5 * math.log(0.2 / 0.6) + 0.25 * math.log(0.1 / 0.3)
    assert found.agreement_B.item() == pytest.approx(math.log(ratio + LEAST), rel=1e-5)
    assert found.title_gain_B.item() == pytest.approx(gain, rel=1e-5)


def test_several_labels_are_as_many_questions():
    said = [torch.tensor(logits) for logits in ([0.2, -1.0], [1.2, 0.0], [-0.3, 1.0], [0.5, -0.7])]
    found = compare(said[0], *(logits[None] for logits in said[1:]), several_labels=True)
    yes_or_no = [[torch.stack([logits[n], torch.tensor(0.0)]) for logits in said] for n in range(2)]
    each = [compare(one[0], *(logits[None] for logits in one[1:]), several_labels=False) for one in yes_or_no]
    assert found.agreement_B.item() == pytest.approx(sum(e.agreement_B.item() for e in each), abs=1e-6)
    assert found.title_gain_B.item() == pytest.approx(sum(e.title_gain_B.item() for e in each), abs=1e-6)


SAYS_RED, SAYS_BLUE, SILENT = torch.tensor([[6.0, 0, 0]]), torch.tensor([[0, 6.0, 0]]), torch.zeros(1, 3)


def energy(title: torch.Tensor, image: torch.Tensor) -> float:
    found = compare(EVEN, title, image, title + image, several_labels=False)
    return (found.agreement_B + found.title_gain_B).item()


def test_a_title_is_believed_where_it_says_what_the_image_shows_and_not_where_it_is_silent_or_lies():
    named, silent, lying = energy(SAYS_RED, SAYS_RED), energy(SILENT, SAYS_RED), energy(SAYS_BLUE, 1.5 * SAYS_RED)
    assert named == pytest.approx(math.log(3), abs=0.05)
    assert silent < -0.9 and lying < -3
    assert energy(SAYS_RED, SILENT) > 0.9, "where the image shows nothing, the title speaks"


def test_nothing_said_is_no_evidence_and_sure_contradiction_is_finite():
    for several in (False, True):
        found = compare(EVEN, SILENT, SILENT, SILENT, several)
        assert found.agreement_B.abs().item() < 1e-3 and found.title_gain_B.item() == 0
        extreme = compare(EVEN, 1e4 * SAYS_RED, 1e4 * SAYS_BLUE, 1e4 * (SAYS_RED + SAYS_BLUE), several)
        assert extreme.agreement_B.isfinite().all() and extreme.title_gain_B.isfinite().all()
