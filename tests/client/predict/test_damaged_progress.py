"""Damaged progress of client.predict: one line with the file, and its rows alone are asked for again."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted_server import Refuse, ScriptedServer

from client.predict import __main__ as predict
from client.predict import run
from client.predict.parts import read_parts, write_part

ROWS, PART, STOP_AT = 60, 10, 50


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """The work of a run that ended after five parts of ten rows; every tenth row is a reject."""
    monkeypatch.setattr(run, "PART_ROWS", PART)
    rows = "".join(f"id-{n},title {n},{'gone.jpg' if n % 10 == 4 else ''}\n" for n in range(ROWS))
    (tmp_path / "table.csv").write_text(f"id,title,image\n{rows}")
    assert run_it(tmp_path, stop=True)[0] == 75
    work = tmp_path / "answers.parquet.partial"
    assert len(list(work.glob("parts/*"))) == STOP_AT // PART
    return work


def run_it(folder: Path, stop: bool = False, *more: str) -> tuple[int, list[str]]:
    """Exit code, and the titles that were asked for."""

    def script(title: str, times: int) -> None:
        if stop and int(title.split()[1]) >= STOP_AT:
            raise Refuse("UNAVAILABLE", "Server is stopping")

    columns = ["--id-column", "id", "--title-column", "title", "--image-column", "image"]
    with ScriptedServer(script) as server:
        command = ["--csv", str(folder / "table.csv"), *columns, "--output", str(folder / "answers.parquet")]
        code = predict.main([*command, "--url", server.url, "--retry-for", "0", "--in-flight", "4", *more])
        return code, server.asked


def assert_whole(folder: Path) -> None:
    """Every row once, as an answer or a reject, in order."""
    output = folder / "answers.parquet"
    answers = pq.read_table(output).to_pylist()
    with Path(f"{output}.rejects.csv").open(newline="") as file:
        rejects = [row["id"] for row in csv.DictReader(file)]
    assert rejects == [f"id-{n}" for n in range(ROWS) if n % 10 == 4]
    assert [row["id"] for row in answers] == [f"id-{n}" for n in range(ROWS) if n % 10 != 4]
    assert all(row["echo_answer"] == row["id"].replace("id-", "title ") for row in answers)
    assert json.loads(Path(f"{output}.json").read_text())["rows"] == ROWS
    assert not Path(f"{output}.partial").exists()


def part(work: Path, number: int) -> Path:
    return sorted(work.glob("parts/*.parquet"))[number]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 4), path)


def another_schema(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


@pytest.mark.parametrize("damage", [cut, flip, shorten, another_schema, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_damaged_part_alone_is_asked_again(stopped, caplog, damage: Callable[[Path], None], number):
    damaged = part(stopped, number)
    damage(damaged)
    code, asked = run_it(stopped.parent)
    again = {*range(number * PART, number * PART + PART), *range(STOP_AT, ROWS)}
    assert code == 0 and Counter(asked) == Counter(f"title {n}" for n in again if n % 10 != 4)
    assert [record.message for record in caplog.records if "damaged" in record.message] == [
        f"{damaged}: damaged, or of another run; its rows are asked for again"
    ]
    assert_whole(stopped.parent)


def test_a_missing_part_is_asked_again(stopped):
    part(stopped, 1).unlink()
    code, asked = run_it(stopped.parent)
    assert code == 0 and len(asked) == 2 * (PART - 1)
    assert_whole(stopped.parent)


def test_exchanged_copied_and_foreign_parts_count_for_nothing(stopped, caplog):
    first, second, third = (part(stopped, n) for n in range(3))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    (stopped / "parts/000000000020.parquet").write_bytes(third.read_bytes())
    write_part(stopped / "parts", [{"row": n, "id": "x", "code": "X", "message": ""} for n in (31, 32)], {"other": 1})
    code, asked = run_it(stopped.parent)
    assert code == 0 and len(asked) == 3 * (PART - 1)
    assert len([record for record in caplog.records if "its rows are asked for again" in record.message]) == 4
    assert_whole(stopped.parent)


def test_parts_of_the_same_rows_count_once(tmp_path, caplog):
    def records(*rows: int) -> list[dict[str, object]]:
        return [{"row": n, "id": f"{n}", "code": "X", "message": ""} for n in rows]

    for rows in ([1, 2, 3], [2, 3, 4], [4, 5]):
        write_part(tmp_path, records(*rows), {"a": 1})
    assert [found.rows for found in read_parts(tmp_path, {"a": 1})] == [range(1, 4), range(4, 6)]
    assert "holds rows of the part before it" in caplog.text
    assert list(read_parts(tmp_path, {"a": 2})) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\x00\x01", b'{"csv": ', None])
def test_damaged_settings_lose_nothing(stopped, caplog, content):
    file = stopped / "settings.json"
    file.unlink() if content is None else file.write_bytes(content)
    code, asked = run_it(stopped.parent)
    assert code == 0 and len(asked) == PART - 1
    assert f"{file}: missing or damaged" in caplog.text
    assert_whole(stopped.parent)


def test_damaged_settings_do_not_let_parts_of_another_table_in(stopped):
    (stopped / "settings.json").unlink()
    table = stopped.parent / "table.csv"
    table.write_text(table.read_text().replace("title", "title"))  # written to again: another state
    code, asked = run_it(stopped.parent)
    assert code == 0 and len(asked) == ROWS - ROWS // 10
    assert_whole(stopped.parent)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}}', "\0", '{"settings": 1, "rows": "many"}'])
def test_a_damaged_summary_is_one_line(stopped, capsys, content):
    assert run_it(stopped.parent)[0] == 0
    file = stopped.parent / "answers.parquet.json"
    file.write_text(content)
    capsys.readouterr()
    assert run_it(stopped.parent) == (2, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}: ") and "--overwrite replaces it" in line
    assert run_it(stopped.parent, False, "--overwrite")[0] == 0
    assert_whole(stopped.parent)


def test_a_run_that_stops_leaves_no_thread_behind(stopped):
    """A reader of images that the garbage collector ends would be ended in any thread, at any moment."""
    assert run_it(stopped.parent, stop=True)[0] == 75
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reads images")]
    assert run_it(stopped.parent)[0] == 0
