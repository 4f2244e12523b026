"""The table of limits: what each row accepts at most is built, decoded in a process of its own, and measured."""

from __future__ import annotations

import pytest

from bench.image_limits import MOST_MEGABYTES, MOST_SECONDS, WORST, cost_of
from model.image_limits import IMAGE_LIMITS

SLOWER_CPU = 4  # another machine, or both cores busy


def test_every_row_of_the_table_has_its_worst_image():
    assert {kind for kind, _ in WORST.values()} == set(IMAGE_LIMITS)


@pytest.mark.parametrize("name", WORST)
def test_the_costliest_image_that_is_accepted_costs_a_second_and_400_megabytes(name):
    cost = cost_of(WORST[name][1]())
    print(f"{name}: {cost.seconds:.2f} s of CPU, {cost.megabytes:.0f} MB")
    assert cost.answer == "decoded"
    assert cost.seconds <= MOST_SECONDS * SLOWER_CPU
    assert cost.megabytes <= MOST_MEGABYTES
