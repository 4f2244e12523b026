"""Tables in text."""

from __future__ import annotations

import pytest

from cma_clip.tables import aligned, markdown


def test_cells_stand_below_each_other_and_no_line_ends_in_blanks():
    rows = [["task", "λ"], ["a", "0.25"], ["pattern", ""]]
    assert aligned(rows) == "task     λ\na        0.25\npattern"


def test_rows_of_unequal_length_are_a_mistake():
    with pytest.raises(ValueError):
        aligned([["a", "b"], ["c"]])


def test_markdown():
    assert markdown(["a", "b"], [[1, 2.5], ["x", "-"]]) == "| a | b |\n| --- | --- |\n| 1 | 2.5 |\n| x | - |\n"
