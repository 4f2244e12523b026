"""The order of a review, who gets which product, and what a sample says."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from console_files import (
    ANN,
    BEN,
    DOUBTED,
    SIZES,
    UNSURE,
    WITHOUT_LABEL,
    open_console,
    product,
    write_review,
)

from client.console.answers import check_answers, said_of
from client.console.catalog import Catalog
from client.console.decisions import LEASE_S, Decisions
from client.console.order import read_doubts
from cma_clip.intervals import share_of
from dataset.format import DatasetInfo
from dataset.review_order import look, rarity_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_review(tmp_path_factory.mktemp("queue"))


@pytest.fixture
def console(folder, tmp_path):
    return open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet", folder / "audit")


def everything(console, reviewer, sampled=False):
    """All that one reviewer is given, deciding each as its labels stand."""
    given = []
    while one := console.queue.next(reviewer, sampled):
        given.append(one)
        console.decisions.decide(one.id, one.given, one.said or {}, reviewer, sampled)
    return given


def test_the_queue_has_what_needs_a_look_in_the_order_of_its_worth(console, folder):
    tasks, counts = console.catalog.tasks, console.catalog.counts
    doubts = read_doubts(folder / "audit", tasks)
    expected = {}
    for place in range(sum(SIZES.values())):
        one = console.catalog.product(place)
        beliefs = {task: doubt.belief for task, doubt in doubts.get((one.split, one.id), {}).items()}
        expected[one.id] = look(one.given, said_of(one.said), beliefs, rarity_of(tasks, counts))
        assert (one.task, one.reason) == expected[one.id][1:]
    queue = [one.id for one in everything(console, ANN)]
    assert set(queue) == {id for id, found in expected.items() if found.reason}
    worths = [expected[id].worth for id in queue]
    assert worths == sorted(worths, reverse=True)
    assert queue[0] == f"train-{DOUBTED}" and {f"train-{n}" for n in UNSURE} <= set(queue)
    assert console.queue.counts() == (len(queue), len(queue), len(queue))


def test_an_audits_doubt_is_shown_with_what_is_likelier(console):
    doubted = console.catalog.product(DOUBTED)
    assert (doubted.reason, doubted.task, doubted.likely) == ("label", "color", {"color": "blue"})


def test_two_reviewers_never_get_the_same_product(console):
    given = [console.queue.next(reviewer, False).id for reviewer in (ANN, BEN) * 3]
    assert given[0::2] == [given[0]] * 3 and given[1::2] == [given[1]] * 3 and given[0] != given[1]


def test_a_product_that_nobody_decides_comes_back_when_its_time_is_over(console, monkeypatch):
    first = console.queue.next(ANN, False).id
    assert console.queue.next(BEN, False).id != first
    later = LEASE_S + 1
    monkeypatch.setattr("client.console.queue.time", SimpleNamespace(time=lambda: time.time() + later))
    assert console.queue.next(BEN, False).id == first


def test_what_is_taken_back_comes_first_again_here_and_in_another_console(console, folder, tmp_path):
    other = open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet", folder / "audit")
    first = console.queue.next(ANN, False)
    console.decisions.decide(first.id, {}, {}, ANN)
    second = console.queue.next(ANN, False)
    assert other.queue.next(BEN, False).id not in (first.id, second.id)
    console.decisions.decide(second.id, {}, {}, ANN)
    for expected in (second.id, first.id):
        assert console.decisions.undo(ANN) == expected
        assert console.queue.next(ANN, False).id == expected
    console.decisions.skip(first.id, ANN)
    assert other.queue.next(BEN, False).id == first.id


def test_what_one_skips_the_other_gets(console):
    first = console.queue.next(ANN, False).id
    console.decisions.skip(first, ANN)
    assert console.queue.next(ANN, False).id != first
    assert console.queue.next(BEN, False).id == first


def test_the_list_walks_through_all_products_page_by_page(console):
    found, after = [], -1
    while rows := console.queue.page(after, 7):
        found += [row[3] for row in rows]
        after = rows[-1][0]
    ids = [product(split, n).id for split, size in SIZES.items() for n in range(size)]
    assert sorted(found) == sorted(ids) and len(found) == len(ids)
    first = found[0]
    console.decisions.decide(first, {}, {}, ANN)
    assert [row[3] for row in console.queue.page(-1, 99, state="decided")] == [first]
    assert first not in [row[3] for row in console.queue.page(-1, 99, state="open")]
    named = {row[3] for row in console.queue.page(-1, 99, task="color", reason="label")}
    assert named == {f"train-{n}" for n in UNSURE | {DOUBTED}}
    assert not console.queue.page(-1, 99, task="color", reason="no answer")
    assert ("color", "label", 4, 1) in console.queue.reasons()


def test_the_sample_is_of_accepted_answers_and_counts_how_many_are_right(console):
    sample = console.queue.next(ANN, True)
    drawn = console.decisions.one("SELECT count(*) FROM product WHERE drawn IS NOT NULL")
    assert drawn == (sum(SIZES.values()) - len(UNSURE),)
    wrong = {"color": ["red" if sample.given["color"] != ["red"] else "blue"], "tags": None}
    console.decisions.decide(sample.id, wrong, sample.said, ANN, sampled=True)
    second = console.queue.next(ANN, True)
    console.decisions.decide(
        second.id, second.said and {"color": second.said["color"]["labels"]}, second.said, ANN, True
    )
    color, tags = console.queue.estimates()
    judged = [one for one in (sample, second) if one.said["color"]["accepted"]]
    right = sum(one is second for one in judged)
    assert (color.right, color.judged, color.untold) == (right, len(judged), 0)
    assert color.share == share_of(right, len(judged))
    assert (tags.right, tags.judged) == (0, 0) and tags.share is None
    assert tags.untold == sample.said["tags"]["accepted"]


def test_an_accepted_label_that_is_wrong_makes_the_answer_wrong_and_one_that_is_not_accepted_does_not(console):
    place = next(n for n in range(99) if n % 3 == 1)  # answered new and sale, of which new is accepted
    one = console.catalog.product(place)
    for labels, right in ((["new"], 1), (["sale"], 0)):
        before = console.decisions.of_product(one.id)
        number = before.number if before else 0
        console.decisions.decide(one.id, {"tags": labels}, one.said, ANN, sampled=True, replaces=number)
        assert console.queue.estimates()[1][1:3] == (right, 1)


def test_a_mismatch_that_a_model_tells_brings_a_product_into_the_queue(folder, tmp_path):
    table = pq.read_table(folder / "answers.parquet")
    told = [n == 1 for n in range(len(table))]
    columns = {
        "mismatch_answer": ["mismatch" if one else "match" for one in told],
        "mismatch_score": [0.95 if one else 0.1 for one in told],
        "mismatch_accepted": told,
        "mismatch_refused": [""] * len(told),
        "mismatch_text_share": [0.5] * len(told),
    }
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    pq.write_table(table, tmp_path / "answers.parquet")
    console = open_console(folder / "data", tmp_path / "d.sqlite", tmp_path / "answers.parquet")
    first = console.queue.next(ANN, False)
    assert (first.id, first.task, first.reason) == ("train-1", "mismatch", "mismatch")


def test_a_table_of_before_says_no_reason_and_is_read_as_one_of_low_scores(folder, tmp_path):
    table = pq.read_table(folder / "answers.parquet")
    old = [name for name in table.column_names if name.endswith(("_refused", "_accepted_labels"))]
    pq.write_table(table.drop_columns(old), tmp_path / "old.parquet")
    consoles = [
        open_console(folder / "data", tmp_path / f"{path.stem}.sqlite", path)
        for path in (folder / "answers.parquet", tmp_path / "old.parquet")
    ]
    now, then = ([one.id for one in everything(console, ANN)] for console in consoles)
    assert now == then and len(then) > len(UNSURE)


def test_answers_that_do_not_fit_are_refused(folder, tmp_path):
    tasks = DatasetInfo.read(folder / "data").tasks
    with pytest.raises(ValueError, match="no Parquet file.*cma-clip predict"):
        check_answers(tmp_path / "none.parquet", tasks)
    table = pq.read_table(folder / "answers.parquet")
    pq.write_table(table.drop_columns(["tags_accepted"]), tmp_path / "less.parquet")
    with pytest.raises(ValueError, match="no column tags_accepted"):
        check_answers(tmp_path / "less.parquet", tasks)
    others = table.set_column(0, "id", pa.array([f"other {n}" for n in range(len(table))]))
    pq.write_table(others, tmp_path / "others.parquet")
    with pytest.raises(ValueError, match="none of its ids is a product of"):
        open_console(folder / "data", tmp_path / "c.sqlite", tmp_path / "others.parquet")
    odd = table.set_column(1, "color_answer", pa.array(["pink"] * len(table)))
    pq.write_table(odd, tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="color of 'train-0' is 'pink', no label of it"):
        open_console(folder / "data", tmp_path / "d.sqlite", tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match=r"--audit .*: no doubts-color\.csv"):
        read_doubts(tmp_path, tasks)
    decisions = Decisions(tmp_path / "e.sqlite", tasks.label_set_hash)
    with pytest.raises(ValueError, match="--split extra"):
        Catalog(folder / "data", decisions, "extra")


def test_without_answers_only_what_has_no_label_needs_a_look(folder, tmp_path):
    console = open_console(folder / "data", tmp_path / "d.sqlite")
    assert [one.id for one in everything(console, ANN)] == [f"train-{WITHOUT_LABEL}"]
    assert console.queue.next(ANN, True) is None and console.catalog.answered == 0
