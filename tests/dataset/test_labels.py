"""What a cell of labels means: one text a label, whatever its type."""

from __future__ import annotations

from collections import Counter
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from cost import costs_less_than
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.label_values import folded, label_text, listed
from dataset.labels import LabelRules, TaskColumn, labels_of, make_tasks

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "cell", "expected"),
    [
        ("single_label", " red ", ["red"]),
        ("single_label", "a|b", ["a|b"]),
        ("single_label", 3, ["3"]),
        ("single_label", NAN, None),
        ("single_label", None, None),
        ("single_label", ["red"], ["red"]),
        ("single_label", [], None),
        ("single_label", "\u200b\xa0", None),
        ("single_label", b"red", ["red"]),
        ("single_label", "N/A", None),
        ("multi_label", "a;b; ;a", ["a", "b"]),
        ("multi_label", b"a;b", ["a", "b"]),
        ("multi_label", ["a", None, " b", "a"], ["a", "b"]),
        ("multi_label", "", None),
        ("multi_label", None, None),
        ("multi_label", [], []),
        ("multi_label", "[]", []),
        ("multi_label", "['a', \"b;\"]", ["a", "b;"]),
        ("multi_label", '["a", null]', ["a"]),
        ("multi_label", "['a' 'b']", ["['a' 'b']"]),
        ("multi_label", '["\\ud83d\\ude00", "caf\\u00e9"]', ["\N{GRINNING FACE}", "caf\u00e9"]),
        ("multi_label", r"['a\d',nan,1.0]", [r"a\d", "1"]),
        ("multi_label", "[1,]", ["1"]),
        ("multi_label", "[a]", ["[a]"]),
        ("multi_label", [""], None),
        ("multi_label", [None, NAN], None),
        ("multi_label", ["n/a"], None),
    ],
)
def test_label_cells(kind, cell, expected):
    assert labels_of(TaskColumn("tags", kind, ";"), cell, frozenset({"n/a"})) == expected


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (["a", "b"], "2 labels for a single-label task"),
        (b"\xff", "a label is bytes that are no UTF-8"),
        ({"a": 1}, "a label is dict"),
        (date(2026, 1, 2), r"a label is date \(2026-01-02\), expected text or a number"),
        ("\ud800", "a label is 'utf-8' codec can't encode"),
        (float("inf"), r"a label is float \(inf\)"),
        ([["a"]], "a label is list"),
    ],
)
def test_label_cells_that_mean_nothing(cell, why):
    with pytest.raises(ValueError, match=f"^ROW_UNUSABLE: tags: {why}"):
        labels_of(TaskColumn("tags", "single_label"), cell)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1.0, "1", "1.0", "1.00", Decimal("1"), Decimal("1.00"), np.float32(1), b"1"], "1"),
        ([0, 0.0, -0.0, "0.0", "-0.0", Decimal("-0")], "0"),
        ([0.1, float(np.float16(0.1)), float(np.float32(0.1)), Decimal("0.10"), np.float32(0.1)], "0.1"),
        ([-2, "-2.0", -2.0], "-2"),
        ([300.25, np.float32(300.25), Decimal("300.25")], "300.25"),
        ([1002.5, np.float16(1002.5)], "1002.5"),
        ([1000000.0625], "1000000.0625"),
        (["007"], "007"),
        (["1.10"], "1.10"),
        ([" caf\N{LATIN SMALL LETTER E WITH ACUTE}\xa0", "cafe\N{COMBINING ACUTE ACCENT}"], "café"),
        ([True, "True"], "True"),
        ([10**15, float(10**15), Decimal("1e15")], "1" + "0" * 15),
    ],
)
def test_one_class_a_number_and_a_text(values, expected):
    assert {label_text(value) for value in values} == {expected}


def test_folding_knows_case_blanks_and_what_is_invisible():
    assert {folded(text) for text in ("Navy Blue", " navy  blue", "NAVY\xa0BLUE", "navy\u200b blue")} == {"navy blue"}
    assert folded("navy") != folded("navy blue")


@pytest.mark.parametrize(
    "text", ["a, b", "['a'", "[__import__('os')]", "['a'] * 9", "[['a']]", "[1.2.3]", "[01]", f"[{'9' * 5000}]"]
)
def test_only_plain_lists_are_lists(text):
    assert listed(text) is None


def test_the_most_frequent_spelling_is_the_label():
    counts = Counter({"RED": 3, "red": 2, " Blue": 0, "blue": 1})
    assert LabelRules(merge_case=True).chosen(counts) == ["RED", "blue"]
    assert LabelRules().chosen(Counter({"b": 1, "a": 1})) == ["a", "b"]


def test_given_labels_that_mean_the_same_are_refused():
    with pytest.raises(ValueError, match=r"task size: labels '1' and '1.0' mean the same"):
        make_tasks([TaskColumn("size", "single_label")], {"size": ["1", "1.0"]}, LabelRules())


@pytest.mark.parametrize(
    "cell", ["[1" + " " * 130_000 + "x]", "['" + "\\" * 130_000, "[" + "1," * 65_000, "[" * 130_000]
)
def test_a_long_cell_that_is_nearly_a_list_is_read_in_one_pass(cell):
    assert listed(cell) is None
    assert costs_less_than(2, lambda: listed(cell))


@given(st.text() | st.binary() | st.integers() | st.floats() | st.decimals() | st.booleans() | st.dates())
@settings(max_examples=150)
def test_any_value_is_a_label_that_stays_itself_or_is_refused(value):
    try:
        label = label_text(value)
    except ValueError:
        return
    assert label_text(label) == label and label == label.strip()
    label.encode()
