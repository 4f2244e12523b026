"""Parts of preparing a catalogue: rows, remembered ids, the ordered map."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dataset.parallel import ordered_map
from dataset.seen_ids import SeenIds
from dataset.table import CsvSource, Row


def test_quoted_line_breaks_and_blank_lines_do_not_shift_row_numbers(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,t\r\n1,"two\r\nlines"\r\n\r\n2,x\r\n')
    source = CsvSource(tmp_path / "a.csv")
    assert list(source.headers()) == [(tmp_path / "a.csv", ["id", "t"])]
    assert list(source.rows(["t"])) == [Row(1, {"t": "two\r\nlines"}), Row(2, {"t": "x"})]


def test_seen_ids_remember_across_their_levels():
    seen = SeenIds(recent=8)
    ids = [str(n) for n in range(1000)]
    assert all(seen.add(id) for id in ids)
    assert not any(seen.add(id) for id in ids)
    assert seen.add("new")
    assert sum(map(len, seen.levels)) + len(seen.recent) == 1001 and len(seen.levels) < 10


def test_ordered_map_stays_close_to_its_reader():
    taken = []
    items = (taken.append(n) or n for n in range(100))
    results = ordered_map(ThreadPoolExecutor(2), lambda n: n * n, items, pending=5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 8
    assert list(results) == [n * n for n in range(3, 100)]
