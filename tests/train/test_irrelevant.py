"""Titles and pictures that are of no help: what is exchanged, what stays, and what it is compared with."""

from __future__ import annotations

import json
from functools import partial
from itertools import product as pairs_of
from pathlib import Path

import numpy as np
import pytest
import torch
from study_files import ROWS, TASKS, random_bundle, write_products
from tiny import TASKS as OTHER_TASKS
from tiny import tiny_bundle_config, tiny_config, tiny_network
from typos import kind_of_typo

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.bundle import save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.preprocess import TitleTokenizer
from model.tasks import TaskSet
from model.tokenizer import build_tokenizer
from train.data import MISSING, ProductDataset
from train.predict import Predictions, answers_for, open_bundle
from train.study import irrelevant
from train.study.perturbed import (
    NO_DONOR,
    PERTURBATIONS,
    PerturbedDataset,
    contradicting_donors,
    derangement,
    near_donors,
)

PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)
COMPLETE = [0, 1, 2, 5, 6, 7, 8]  # with a title and a picture
UNREADABLE = 6


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(tmp_path_factory.mktemp("study") / "data")


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("study") / "bundle")


def perturbed(products: Path, perturbation: str, seed: int = 0) -> PerturbedDataset:
    return PerturbedDataset(untouched(products), perturbation, seed)


def untouched(products: Path) -> ProductDataset:
    return ProductDataset(products, "test", PREPROCESS, TOKENIZER)


BY_LABELS = ("titles_contradicting", "titles_of_a_near_product")


@pytest.mark.parametrize("perturbation", [p for p in PERTURBATIONS if p not in BY_LABELS])
def test_complete_products_take_part_with_their_own_id_and_labels(products: Path, perturbation: str):
    dataset, original = perturbed(products, perturbation), untouched(products)
    assert dataset.products == COMPLETE and len(dataset) == 7 and dataset.left_out == 2
    for index, before in enumerate(COMPLETE):
        sample = dataset[index]
        assert sample.id == f"test{before}"
        if sample.problem is None and before != UNREADABLE:
            np.testing.assert_array_equal(sample.targets, original[before].targets)


def test_shuffled_titles_come_from_another_product_and_pictures_stay(products: Path):
    dataset, original = perturbed(products, "titles_shuffled"), untouched(products)
    assert sorted(dataset.donors) == COMPLETE
    assert all(donor != product for donor, product in zip(dataset.donors, dataset.products, strict=True))
    for index, (product, donor) in enumerate(zip(dataset.products, dataset.donors, strict=True)):
        sample = dataset[index]
        np.testing.assert_array_equal(sample.pixels, original[product].pixels)
        if product != UNREADABLE:
            np.testing.assert_array_equal(sample.input_ids, TOKENIZER.encode(ROWS[donor][0]))
            assert sample.present == (True, True)


def test_shuffled_pictures_come_from_another_product_and_titles_stay(products: Path):
    dataset, original = perturbed(products, "pictures_shuffled"), untouched(products)
    for index, (product, donor) in enumerate(zip(dataset.products, dataset.donors, strict=True)):
        sample = dataset[index]
        assert donor != product and sample.present == (True, True)
        assert (sample.problem is not None) == (donor == UNREADABLE)
        np.testing.assert_array_equal(sample.pixels, original[donor].pixels)
        if donor != UNREADABLE:
            np.testing.assert_array_equal(sample.input_ids, TOKENIZER.encode(ROWS[product][0]))


def test_blank_counts_as_present_and_absent_does_not(products: Path):
    nothing, original = TOKENIZER.encode("").tolist(), untouched(products)[0]
    assert len(nothing) == 2
    title, picture = perturbed(products, "titles_blank")[0], perturbed(products, "pictures_blank")[0]
    assert title.input_ids.tolist() == nothing and title.present == (True, True)
    np.testing.assert_array_equal(title.pixels, original.pixels)
    assert (picture.pixels == 255).all() and picture.present == (True, True)
    np.testing.assert_array_equal(picture.input_ids, original.input_ids)
    title, picture = perturbed(products, "titles_absent")[0], perturbed(products, "pictures_absent")[0]
    assert title.input_ids.tolist() == nothing and title.present == (False, True)
    assert not picture.pixels.any() and picture.present == (True, False)


def test_contradicting_titles_differ_in_every_task_that_both_have(products: Path):
    # Who may give to whom, by hand: 0 red new, 1 red -, 2 blue dot, 5 green new+dot, 6 blue ?, 7 ? dot, 8 nothing.
    allowed = {0: {2, 6, 7}, 1: {2, 5, 6}, 2: {0, 1}, 5: {1, 6}, 6: {0, 1, 5}, 7: {0}}
    seen: dict[int, set[int]] = {product: set() for product in allowed}
    for seed in range(40):
        dataset = perturbed(products, "titles_contradicting", seed)
        assert dataset.products == list(allowed) and dataset.left_out == 3
        for product, donor in zip(dataset.products, dataset.donors, strict=True):
            seen[product].add(donor)
    assert seen == allowed


def test_near_titles_agree_in_one_task_and_differ_in_the_other(products: Path):
    # By hand, as above: 0 and 5 are both new, 2 and 5 both dotted, in other colours; 0 and 1 are red, but 1 has no tag.
    allowed = {0: {5}, 2: {5}, 5: {0, 2}}
    seen: dict[int, set[int]] = {product: set() for product in allowed}
    for seed in range(20):
        dataset = perturbed(products, "titles_of_a_near_product", seed)
        assert dataset.products == list(allowed) and dataset.left_out == 6
        for index, (product, donor) in enumerate(zip(dataset.products, dataset.donors, strict=True)):
            seen[product].add(donor)
            np.testing.assert_array_equal(dataset[index].input_ids, TOKENIZER.encode(ROWS[donor][0]))
    assert seen == allowed


@pytest.mark.parametrize("choose", [near_donors, contradicting_donors])
def test_donors_by_sets_of_labels(choose):
    rng = np.random.default_rng(7)
    # 0 to 2 a colour, 3 none known; tags as bits, 4 not known.
    chosen = [(int(color), int(tags)) for color, tags in rng.integers(0, (4, 5), (60, 2))]
    sets = [
        ({color} - {3}, set() if tags == 4 else {bit for bit in (0, 1) if tags >> bit & 1}) for color, tags in chosen
    ]
    targets = np.array([encoded(color, tags) for color, tags in chosen], dtype=np.float32)
    allowed: dict[int, set[int]] = {n: set() for n in range(60)}
    for (n, ours), (m, theirs) in pairs_of(enumerate(sets), repeat=2):
        agree = [bool(a & b) for a, b in zip(ours, theirs, strict=True)]
        differ = [bool(a and b and not a & b) for a, b in zip(ours, theirs, strict=True)]
        if any(differ) and any(agree) == (choose is near_donors):
            allowed[n].add(m)
    assert any(allowed.values()) and not all(allowed.values())
    for seed in range(5):
        donors = choose(targets, TASKS, np.random.default_rng(seed))
        assert all(donor in allowed[n] if allowed[n] else donor == NO_DONOR for n, donor in enumerate(donors))


def encoded(color: int, tags: int) -> list[float]:
    colors = [MISSING] * 3 if color == 3 else [float(color == n) for n in range(3)]
    return colors + ([MISSING] * 2 if tags == 4 else [float(tags & 1), float(tags >> 1 & 1)])


def test_cut_titles_by_hand_and_pictures_stay(products: Path):
    dataset, original = perturbed(products, "titles_cut"), untouched(products)
    expected = {0: "red", 1: "gown", 2: "blue, with", 5: "new", 6: "sk", 7: "tunic", 8: "no label"}
    for index, (product, title) in enumerate(expected.items()):
        sample = dataset[index]
        assert dataset.product(index) == original.product(product) | {"title": title}
        np.testing.assert_array_equal(sample.pixels, original[product].pixels)
        if product != UNREADABLE:
            np.testing.assert_array_equal(sample.input_ids, TOKENIZER.encode(title))
            assert sample.present == (True, True)


def test_misspelled_titles_differ_by_typos_and_hang_on_seed_and_id(products: Path, tmp_path: Path):
    first, again, other = (perturbed(products, "titles_misspelled", seed) for seed in (0, 0, 1))
    titles = [[dataset.product(n)["title"] for n in range(7)] for dataset in (first, other)]
    assert [again.product(n)["title"] for n in reversed(range(7))] == titles[0][::-1] != titles[1][::-1]
    changed = set()
    for seed in range(30):
        dataset = perturbed(products, "titles_misspelled", seed)
        for n, product in enumerate(COMPLETE):
            words, before = dataset.product(n)["title"].split(), ROWS[product][0].lower().split()
            differing = [(a, b) for a, b in zip(before, words, strict=True) if a != b]
            assert all(len(a.strip(",")) >= 4 and kind_of_typo(a, b) for a, b in differing)
            changed |= {word for word, _ in differing}
    assert changed == {w for n in COMPLETE for w in ROWS[n][0].lower().split() if len(w.strip(",")) >= 4}
    backwards = [(f"test{n}", *ROWS[n]) for n in reversed(COMPLETE)]  # the same ids at other places of the split
    dataset = perturbed(write_split(tmp_path / "backwards", backwards, TASKS), "titles_misspelled")
    assert [dataset.product(n)["title"] for n in range(7)] == titles[0][::-1]


def write_split(directory: Path, rows: list[tuple], tasks: TaskSet) -> Path:
    """id, title, picture, and a column a task."""
    names = [task.name for task in tasks]
    products = [
        Product(id_, image, title, dict(zip(names, labels, strict=False)), "test")
        for id_, title, image, *labels in rows
    ]
    write_rows(NewDataset(directory=directory, tasks=tasks, source="test", settings={}, needed=()), products)
    return directory


def test_multi_label_sets_must_share_no_label():
    targets = np.array(
        [[1, 0, 0, 1, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, MISSING, MISSING]], dtype=np.float32
    )
    donors = contradicting_donors(targets, TASKS, np.random.default_rng(0))
    assert donors[0] == 2 and donors[1] in (2, 3) and donors[2] in (0, 1, 3) and donors[3] in (1, 2)


def test_each_of_many_products_has_a_donor_of_another_label():
    rng = np.random.default_rng(0)
    targets = np.concatenate([np.eye(3)[rng.integers(0, 3, 101)], np.full((101, 2), MISSING)], axis=1)
    donors = contradicting_donors(targets, TASKS, rng)
    assert len(donors) == 101 and (targets[donors, :3].argmax(1) != targets[:, :3].argmax(1)).all()


@pytest.mark.parametrize("count", [2, 3, 17, 1023])
def test_a_derangement_has_no_fixed_point(count: int):
    donors = derangement(count, np.random.default_rng(count))
    assert sorted(donors) == list(range(count)) and (donors != np.arange(count)).all()


def test_the_seed_decides(products: Path):
    first, again, other = (perturbed(products, "titles_shuffled", seed) for seed in (3, 3, 4))
    assert first.donors == again.donors != other.donors


def test_what_nobody_can_take_part_in_is_refused(tmp_path: Path):
    one = write_products(tmp_path / "one", ROWS[:1])
    with pytest.raises(ValueError, match="one, split 'test': no product can take part in titles_shuffled"):
        perturbed(one, "titles_shuffled")
    pictures_only = write_products(tmp_path / "pictures", ROWS[3:4])
    with pytest.raises(ValueError, match="split 'test': no product can take part in pictures_blank"):
        perturbed(pictures_only, "pictures_blank")
    with pytest.raises(ValueError, match="perturbation 'titles_torn': expected one of titles_shuffled, "):
        perturbed(one, "titles_torn")


def test_the_suite_compares_the_same_products(products: Path, bundle_dir: Path):
    bundle = open_bundle(bundle_dir, products)
    dataset = untouched(products)
    answer = partial(answers_for, bundle, batch_size=4)
    results, told = irrelevant.suite(answer, bundle.config.tasks, dataset, answer(dataset))
    assert list(results) == list(PERTURBATIONS) and told == {}
    absent = results["titles_absent"]
    assert absent["color"]["products"] == 4 and absent["tags"]["products"] == 5  # complete, labelled and readable
    assert absent["color"]["text_share"] == 0 and results["pictures_absent"]["tags"]["text_share"] == 1
    # By the way of a single answer: titles gone, products 0, 1, 2 and 5 have a colour.
    right = [bundle.classify([("", ROWS[n][1])])[0]["color"]["label"] == ROWS[n][2] for n in (0, 1, 2, 5)]
    assert absent["color"]["accuracy"] == pytest.approx(sum(right) / 4)
    answers = [bundle.classify([ROWS[n][:2]])[0]["color"] for n in (0, 1, 2, 5)]
    right = [answer["label"] == ROWS[n][2] for answer, n in zip(answers, (0, 1, 2, 5), strict=True)]
    assert absent["color"]["untouched"]["accuracy"] == pytest.approx(sum(right) / 4)


def test_one_task_has_no_near_products_and_the_rest_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one_task = TaskSet(TASKS[:1])
    dataset = untouched(write_split(tmp_path / "one", [(f"test{n}", *ROWS[n]) for n in range(3)], one_task))
    results = irrelevant.suite(always_red, one_task, dataset, always_red(dataset)).perturbations
    assert list(results) == [name for name in PERTURBATIONS if name != "titles_of_a_near_product"]
    assert results["titles_cut"]["color"]["accuracy"] == pytest.approx(2 / 3)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"left out: {dataset.name}: no product can take part in titles_of_a_near_product"
    with pytest.raises(ValueError, match="split 'test': no product can take part in titles_shuffled"):
        pictures_only = untouched(write_products(tmp_path / "pictures", ROWS[3:4]))
        irrelevant.suite(always_red, TASKS, pictures_only, always_red(pictures_only))


def always_red(dataset: ProductDataset) -> Predictions:
    samples = [dataset[n] for n in range(len(dataset))]
    targets, present = (np.stack([getattr(sample, name) for sample in samples]) for name in ("targets", "present"))
    logits, shares = torch.eye(targets.shape[1])[[0] * len(samples)], torch.zeros(len(samples), len(dataset.tasks))
    return Predictions(logits, shares, torch.from_numpy(targets), torch.from_numpy(present), [])


def test_an_unreadable_donor_counts_on_neither_side(products: Path, bundle_dir: Path):
    bundle = open_bundle(bundle_dir, products)
    dataset = perturbed(products, "pictures_shuffled")
    receiver = dataset.products[dataset.donors.index(UNREADABLE)]
    colored = {n for n in COMPLETE if ROWS[n][2] and n not in (UNREADABLE, receiver)}
    answer = partial(answers_for, bundle, batch_size=4)
    before = answer(untouched(products)).of(dataset.products)
    values = irrelevant.compare(before, answer(dataset), bundle.config.tasks, dataset.left_out)["color"]
    assert values["products"] == len(colored) and values["left_out"] == 2


def test_command_prints_and_writes(
    products: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    assert irrelevant.main([str(bundle_dir), "--data", str(products), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    written = json.loads((output / "irrelevant.json").read_text())
    assert written["split"] == "test" and list(written["perturbations"]) == list(PERTURBATIONS)
    row = next(line for line in shown.splitlines() if line.startswith("titles_absent") and "color" in line).split()
    values = written["perturbations"]["titles_absent"]["color"]
    drop, change = (values["untouched"][name] - values[name] for name in ("accuracy", "text_share"))
    assert row[2] == "4" and float(row[3]) == pytest.approx(values["accuracy"], abs=1e-4)
    assert float(row[4]) == pytest.approx(drop, abs=1e-4) and float(row[8]) == pytest.approx(-change, abs=1e-4)


def test_user_errors_are_one_line(products: Path, bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other"
    save_bundle(other, tiny_bundle_config(), tiny_network(tasks=OTHER_TASKS))
    for arguments, message in (
        ([str(other), "--data", str(products)], "its tasks or labels are not those of the bundle"),
        ([str(tmp_path / "none"), "--data", str(products)], "config.json: no such file"),
        ([str(bundle_dir), "--data", str(tmp_path)], "dataset.json: no such file"),
        ([str(bundle_dir), "--data", str(products), "--split", "validation"], "'validation' has no products"),
    ):
        assert irrelevant.main([*arguments, "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
        assert not (tmp_path / "out").exists()


def test_targets_of_unreadable_products_are_missing(products: Path, bundle_dir: Path):
    answers = answers_for(open_bundle(bundle_dir, products), untouched(products), batch_size=4)
    assert (answers.targets_NC[UNREADABLE] == MISSING).all() and torch.isfinite(answers.logits_NC).all()
