"""Titles and pictures that are of no help: what is exchanged, what stays, and what it is compared with."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from study_files import ROWS, TASKS, random_bundle, write_products
from tiny import TASKS as OTHER_TASKS
from tiny import tiny_bundle_config, tiny_config, tiny_network

from model.bundle import save_bundle
from model.clip_towers import create_clip, preprocess_config
from model.preprocess import TitleTokenizer
from model.tokenizer import build_tokenizer
from train.data import MISSING, ProductDataset
from train.predict import answers_for, open_bundle
from train.study import irrelevant
from train.study.perturbed import PERTURBATIONS, PerturbedDataset, contradicting_donors, derangement

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


@pytest.mark.parametrize("perturbation", [p for p in PERTURBATIONS if p != "titles_contradicting"])
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
    results = irrelevant.suite(answer, bundle.config.tasks, dataset, answer(dataset))
    assert list(results) == list(PERTURBATIONS)
    absent = results["titles_absent"]
    assert absent["color"]["products"] == 4 and absent["tags"]["products"] == 5  # complete, labelled and readable
    assert absent["color"]["text_share"] == 0 and results["pictures_absent"]["tags"]["text_share"] == 1
    # By the way of a single answer: titles gone, products 0, 1, 2 and 5 have a colour.
    right = [bundle.classify([("", ROWS[n][1])])[0]["color"]["label"] == ROWS[n][2] for n in (0, 1, 2, 5)]
    assert absent["color"]["accuracy"] == pytest.approx(sum(right) / 4)
    answers = [bundle.classify([ROWS[n][:2]])[0]["color"] for n in (0, 1, 2, 5)]
    right = [answer["label"] == ROWS[n][2] for answer, n in zip(answers, (0, 1, 2, 5), strict=True)]
    assert absent["color"]["untouched"]["accuracy"] == pytest.approx(sum(right) / 4)


def test_an_unreadable_donor_counts_on_neither_side(products: Path, bundle_dir: Path):
    bundle = open_bundle(bundle_dir, products)
    dataset = perturbed(products, "pictures_shuffled")
    receiver = dataset.products[dataset.donors.index(UNREADABLE)]
    colored = {n for n in COMPLETE if ROWS[n][2] and n not in (UNREADABLE, receiver)}
    answer = partial(answers_for, bundle, batch_size=4)
    values = irrelevant.compare(answer, bundle.config.tasks, dataset, answer(untouched(products)))["color"]
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
