"""Parts of preparing a catalogue: rows, remembered ids, the ordered map."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

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
    with ordered_map(ThreadPoolExecutor(2), lambda n: n * n, items, pending=5) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert len(taken) <= 8
        assert list(results) == [n * n for n in range(3, 100)]


def test_ordered_map_ends_its_threads_in_its_with_and_never_by_the_garbage_collector():
    """Which may end a generator in one of those very threads: it would wait for itself."""
    pool = ThreadPoolExecutor(2)
    with pytest.raises(KeyboardInterrupt), ordered_map(pool, abs, range(100), pending=5) as results:
        left = [next(results)]
        del results
        gc.collect()
        assert left == [0] and pool.submit(abs, -1).result() == 1
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
