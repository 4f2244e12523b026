"""The population stability index against its definition by other means, and the window that it is taken over."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, entropy

from model.reference import BIN_NAMES, NONE, Reference, TaskReference
from serve.population import BLOCK, BLOCKS, LEAST, Key, Population, by_chance, stability, stability_index

HALVES = [50, *[0] * 8, 50]
COLOR = TaskReference(labels={"red": 60, "blue": 40}, scores=HALVES, text_share=HALVES)
TAGS = TaskReference(labels={"a": 70, "b": 20, NONE: 30}, scores=HALVES, text_share=HALVES)
REFERENCE = Reference(products=100, tasks={"color": COLOR, "tags": TAGS})


def like_reference(hundreds: int) -> dict[Key, float]:
    """What the counters of a step increase by where so many hundred products are those of validation."""
    labels = [("color", "red", 60), ("color", "blue", 40), ("tags", "a", 50), ("tags", "b", 20)]
    counted = {("cma_clip_answers_total", (("task", t), ("label", n), ("accepted", "true"))): c for t, n, c in labels}
    counted["cma_clip_answers_total", (("task", "tags"), ("label", "a"), ("accepted", "false"))] = 20
    for task, none in (("color", 0), ("tags", 30)):
        counted["cma_clip_unlabelled_total", (("task", task),)] = none
        counted["cma_clip_score_sum", (("task", task),)] = 99.5
        for name in ("cma_clip_score_bins_total", "cma_clip_text_share_bins_total"):
            counted |= {(name, (("task", task), ("bin", BIN_NAMES[place]))): 50 for place in (0, 9)}
    return {key: hundreds * count for key, count in counted.items()}


def only_red(products: int) -> dict[Key, float]:
    counted: dict[Key, float] = {
        ("cma_clip_answers_total", (("task", "color"), ("label", "red"), ("accepted", "true"))): products,
        ("cma_clip_unlabelled_total", (("task", "tags"),)): products,
    }
    for task in ("color", "tags"):
        for name in ("cma_clip_score_bins_total", "cma_clip_text_share_bins_total"):
            counted[name, (("task", task), ("bin", "0.9"))] = products
    return counted


@pytest.mark.parametrize("bins", [2, 10, 200])
def test_the_index_is_both_relative_entropies_together(bins: int):
    rng = np.random.default_rng(bins)
    now, before = rng.integers(1, 100, bins).astype(float), rng.integers(1, 100, bins).astype(float)
    expected = entropy(now, before) + entropy(before, now)
    assert stability_index(now, before) == pytest.approx(expected, rel=1e-12)
    assert stability_index(7 * now, before) == pytest.approx(expected, rel=1e-12)
    assert stability_index(now, now) == 0


def test_an_empty_bin_counts_as_half_a_product_or_as_the_other_side_where_that_is_less():
    by_hand = (0.1 - 0.05) * np.log(0.1 / 0.05) + (0.9 - 1) * np.log(0.9 / 1)
    assert stability_index(np.array([1.0, 9, 0]), np.array([0.0, 10, 0])) == pytest.approx(by_hand, rel=1e-12)
    # One of 1,000 products has a label that none of 100 had: no wonder, and no more than the change of the other bin.
    rare = stability_index(np.array([1.0, 999]), np.array([0.0, 100]))
    assert rare == pytest.approx((0.999 - 1) * np.log(0.999), rel=1e-9) and rare < 1e-5


@pytest.mark.parametrize(
    ("bins", "now", "before"), [(2, 1000, 300), (10, 1000, 100), (10, 10_000, 2000), (50, 1000, 300)]
)
def test_by_chance_is_what_samples_of_one_population_rarely_exceed(bins: int, now: int, before: int):
    told = by_chance(bins, now, before)
    assert told == pytest.approx((1 / now + 1 / before) * chi2.ppf(0.999, bins - 1), rel=0.035)  # with one freedom
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, bins + 1)
    shares /= shares.sum()
    samples = zip(rng.multinomial(now, shares, 1000), rng.multinomial(before, shares, 1000), strict=True)
    drawn = [stability(*(counts.astype(float) for counts in pair), now, before) for pair in samples]
    assert sum(one.value > one.by_chance for one in drawn) <= 6  # of 1,000


def test_ten_of_a_hundred_products_with_another_label_are_more_than_chance():
    shares, moved = np.full(10, 0.1), np.array([0.2, 0.0, *[0.1] * 8])
    told = stability(10_000 * moved, 2_000 * shares, 10_000, 2_000)
    assert told.value > 0.2 > 10 * told.by_chance


def test_nothing_is_told_before_enough_was_answered_and_then_that_all_is_as_before():
    population = Population(REFERENCE)
    population.take(like_reference(LEAST // 100 - 1))
    assert population.stability() == {}
    population.take(like_reference(1))
    told = population.stability()
    assert {key: one.value for key, one in told.items()} == {
        (task, kind): 0 for task in ("color", "tags") for kind in ("labels", "scores", "text_share")
    }
    assert told["color", "labels"].by_chance == by_chance(2, LEAST, 100)
    assert told["tags", "labels"].by_chance == by_chance(3, LEAST, 100)
    assert told["tags", "scores"].by_chance == by_chance(2, LEAST, 100)


def test_one_kind_of_product_alone_is_told():
    population = Population(REFERENCE)
    population.take(only_red(LEAST))
    told = population.stability()
    half = 0.5 / LEAST
    expected = (1 - 0.6) * np.log(1 / 0.6) + (half - 0.4) * np.log(half / 0.4)
    assert told["color", "labels"].value == pytest.approx(expected, rel=1e-12)
    assert all(one.value > max(0.2, one.by_chance) for one in told.values())
    shares = np.array([70, 20, 30]) / 120
    none = (1 - shares[2]) * np.log(1 / shares[2]) + sum((half - p) * np.log(half / p) for p in shares[:2])
    assert told["tags", "labels"].value == pytest.approx(none, rel=1e-12)


def test_the_window_slides_and_its_memory_has_an_end():
    population = Population(REFERENCE)
    for _ in range(BLOCKS * BLOCK // 500):
        population.take(only_red(500))
    before = population.stability()
    for _ in range(BLOCKS * BLOCK // 500 - 2):
        population.take(like_reference(5))
    assert 0 < population.stability()["color", "labels"].value < before["color", "labels"].value / 10
    for _ in range(4):
        population.take(like_reference(5))
    assert population.stability()["color", "labels"].value == 0
    assert len(population._blocks) == BLOCKS and max(map(len, population._blocks)) < 30


def test_a_reference_of_no_products_tells_nothing():
    nothing = TaskReference(labels={"red": 0}, scores=[0] * 10, text_share=[0] * 10)
    population = Population(Reference(products=0, tasks={"color": nothing}))
    population.take({("cma_clip_text_share_bins_total", (("task", "color"), ("bin", "0.5"))): 2 * LEAST})
    assert population.stability() == {}
