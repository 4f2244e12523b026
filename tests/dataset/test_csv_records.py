"""A CSV file with stray quotes: every physical line is a row or a reject with its line, and nothing is swallowed."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from dataset.csv_records import STRAY, Lines, read_header, read_records
from dataset.products import Reject
from dataset.table import CsvSource, Row

ONE_OR_MANY = 'are one cell in quotes, or rows with a stray quote (")'


def read(path: Path, text: str | bytes) -> list[tuple[int, str, str]]:
    """Number, id and title of a row; number, id and code with detail of a reject."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = []
    for row in CsvSource(path).rows(["id", "title"], "id"):
        if isinstance(row, Row):
            found.append((row.number, row.cells["id"], row.cells["title"]))
        else:
            found.append((row.row, row.id, f"{row.code}: {row.detail}"))
    return found


def stray(line: int) -> str:
    return f"ROW_UNUSABLE: line {line}: {STRAY}"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # The next quote opens a cell: it cannot close one.
        (
            '1,Red,a\n2,"5 inch,a\n3,"Green",b\n4,Blue,a\n',
            [(1, "1", "Red"), (2, "2", stray(3)), (3, "3", "Green"), (4, "4", "Blue")],
        ),
        # The next quote closes at a comma, but the record has too many cells.
        (
            '2,"5 inch,a\n3,x",7,b\n4,Blue,a\n',
            [(1, "2", stray(2)), (2, "3", "ROW_UNUSABLE: line 3: 4 cells, the header has 3"), (3, "4", "Blue")],
        ),
        # No further quote at all; the last line.
        ('1,Red,a\n2,"5 inch,a\n3,Green,b\n', [(1, "1", "Red"), (2, "2", stray(3)), (3, "3", "Green")]),
        ('1,Red,a\n2,"5 inch,a', [(1, "1", "Red"), (2, "2", stray(3))]),
        # A quote that closes at a comma: rows or one cell, nobody can tell.
        (
            '2,"5 inch,a\n3,7",b\n4,Blue,a\n',
            [(n, str(n + 1), f"ROW_UNUSABLE: line {n + 1}: lines 2 to 3 {ONE_OR_MANY}") for n in (1, 2)]
            + [(3, "4", "Blue")],
        ),
        # Within an unquoted cell a quote is a letter; after a closed one text goes on.
        ('1,7" TV,a\n2,"7""" TV,b\n3,"Red" dress,c\n', [(1, "1", '7" TV'), (2, "2", '7" TV'), (3, "3", "Red dress")]),
        # Legal: cells over lines, doubled quotes, prose with commas, an empty cell, blank lines.
        (
            '1,"two\nlines",a\n\n2,"a ""big"" one,\nand, so on, on",b\n3,"",c\n',
            [(1, "1", "two\nlines"), (2, "2", 'a "big" one,\nand, so on, on'), (3, "3", "")],
        ),
        # A cell over lines does not fit the header: its lines are rejects each.
        (
            '1,"two\nlines"\n2,Blue,b\n',
            [(1, "1", stray(2)), (2, 'lines"', "ROW_UNUSABLE: line 3: 1 cells, the header has 3"), (3, "2", "Blue")],
        ),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stray_quote_costs_its_own_line(tmp_path, lines, expected, end):
    expected = [(number, id, title.replace("\n", end)) for number, id, title in expected]
    text = ("id,title,image\n" + lines).replace("\n", end)
    assert read(tmp_path / "a.csv", text) == expected
    assert read(tmp_path / "a.csv", b"\xef\xbb\xbf" + text.encode()) == expected


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_python_writes_is_read_as_it_was(quoting):
    """Text of any letters; a comma has a blank after it, as in prose."""
    draw = random.Random(3)
    for _ in range(200):
        table = [["".join(draw.choices(LETTERS, k=draw.randrange(9))) for _ in range(4)] for _ in range(8)]
        file = io.StringIO(newline="")
        csv.writer(file, quoting=quoting).writerows([["a", "b", "c", "d"], *table])
        file.seek(0)
        lines = Lines(file)
        assert read_header(lines) == ["a", "b", "c", "d"]
        assert [(record.cells, record.problem) for record in read_records(lines, 4)] == [(row, "") for row in table]


LETTERS = ["a", "é", " ", '"', '""', ", ", "\n", "\r\n", "\r", "\t", "\0", "\u2028", "\x0c", ";", "'"]


def test_rejects_have_the_id_that_can_be_read(tmp_path):
    rows = b"2,Caf\xe9 dress,a\n\xe9,Red,a\n3,Red\n4\n5," + b"x" * 200_000 + b",a\n6,Blue,b\n"
    found = read(tmp_path / "a.csv", b"id,title,image\n" + rows)
    assert found == [
        (1, "2", "TXT_INVALID_UTF8: line 2: title is not UTF-8"),
        (2, "\\udce9", "TXT_INVALID_UTF8: line 3: id is not UTF-8"),
        (3, "3", "ROW_UNUSABLE: line 4: 2 cells, the header has 3"),
        (4, "4", "ROW_UNUSABLE: line 5: 1 cells, the header has 3"),
        (5, "5", "ROW_UNUSABLE: line 6: not a CSV row: field larger than field limit (131072)"),
        (6, "6", "Blue"),
    ]


def test_one_column_may_have_cells_over_lines(tmp_path):
    (tmp_path / "a.csv").write_text('title\n"two\nlines"\nRed\n')
    assert list(CsvSource(tmp_path / "a.csv").rows(["title"])) == [
        Row(1, {"title": "two\nlines"}),
        Row(2, {"title": "Red"}),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'id,"title,image\n1,Red,a\n', "line 1: the header is not a CSV row"),
        ("id,title\n1,Red\n".encode("utf-16"), "line 1: not UTF-8; expected a table of plain text in UTF-8"),
        (b"\x1f\x8b\x08\x00\x00\n", "line 1: not UTF-8"),
        (b"id,\xe9\n1,Red\n", "line 1: not UTF-8"),
    ],
)
def test_a_header_that_is_none_is_one_line(tmp_path, content, problem):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match="a.csv: line 1: ") as caught:
        list(CsvSource(tmp_path / "a.csv").headers())
    assert problem in str(caught.value)


def test_every_line_is_accounted_for_wherever_quotes_stray():
    """Rows of one line with quotes at random: rows and rejects name each line once, whatever stands in it."""
    draw = random.Random(7)
    for _ in range(300):
        texts = ["id,title,image\n"]
        texts += [f"{n},{draw.choice(CELLS)}red{draw.choice(CELLS)},{draw.choice(CELLS)}a\n" for n in range(12)]
        lines = Lines(iter(texts))
        width = len(read_header(lines))
        records = list(read_records(lines, width))
        for record in records:
            assert record.problem or sum("\n" in cell for cell in record.cells[:-1]) == 0, (texts, record)
        assert [record.line for record in records] == list(range(2, 14)), texts


CELLS = ["", "", "", '"', '""', '"x', ',"', '",']


def test_stray_quotes_everywhere_do_not_cost_the_square():
    """Each line could go on to the end of the file; the lines that are read for nothing are counted."""
    taken = 0

    def file(rows: int):
        nonlocal taken
        for n in range(rows):
            taken += 1
            yield f'{n},a","b\n'

    class Counted(Lines):
        def __next__(self) -> str:
            nonlocal looked_at
            looked_at += 1
            return super().__next__()

    looked_at = 0
    records = list(read_records(Counted(file(3000)), 3))
    assert len(records) == 3000 and taken == 3000 and looked_at < 5 * 3000


def test_a_reject_of_a_table_is_a_reject(tmp_path):
    (tmp_path / "a.csv").write_text("id,title,image\n1,x\n")
    assert list(CsvSource(tmp_path / "a.csv").rows([], None)) == [
        Reject(1, "", "ROW_UNUSABLE", "line 2: 2 cells, the header has 3")
    ]
