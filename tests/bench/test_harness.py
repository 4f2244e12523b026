"""The harness of all benchmarks: turns, percentiles, and a report that is kept whatever ends the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import harness
from bench.harness import Report, in_turn, number, percentiles, seconds_of
from cma_clip.command import Failure, command
from cma_clip.tables import markdown


def test_rivals_take_turns():
    seen: list[str] = []
    rivals = {name: lambda name=name: seen.append(name) or len(seen) for name in "abc"}
    assert in_turn(rivals, 2) == {"a": [1, 4], "b": [2, 5], "c": [3, 6]} and seen == list("abcabc")


def test_seconds_are_those_of_the_clock():
    ticks = iter([2.0, 5.5])
    assert seconds_of(lambda: None, clock=lambda: next(ticks)) == 3.5


def test_percentiles():
    values = [float(i) for i in range(11)]
    assert percentiles(values) == {"p20": 2.0, "median": 5.0, "p80": 8.0}
    assert percentiles([7.0], {"p50_ms": 50, "p99_ms": 99}) == {"p50_ms": 7.0, "p99_ms": 7.0}
    assert percentiles([], {"p99": 99}) == {"p99": None}


def test_numbers_have_four_digits():
    assert number(2.34567) == "2.346" and number(None) == "-"
    assert [number(value) for value in (1234.56, 999.96, 0.00012345)] == ["1235", "1000", "0.0001234"]


def test_the_machine_names_what_the_figures_depend_on(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "bench.load", "sweep", "a b"])
    found = harness.machine()
    assert found["command"] == "python -m bench.load sweep 'a b'"
    assert found["cores"] >= 1 and found["memory_bytes"] > 1 << 30 and found["cpu"]
    assert {"python", "torch", "numpy", "cykooz-resizer"} <= set(found["versions"])


def table(result: dict) -> str:
    return markdown(["value"], [[row["value"]] for row in result["rows"]])


def draw(result: dict, figure) -> None:
    figure.subplots().plot([row["value"] for row in result["rows"]])


def report(folder: Path) -> Report:
    return Report("squares", folder / "out", table, draw, dtype="bf16")


def test_a_report_is_json_table_and_plot(tmp_path: Path, capsys):
    with report(tmp_path) as squares:
        squares.add({"value": 1}, {"value": 4})
        assert json.loads((tmp_path / "out/result.json").read_text())["rows"] == [{"value": 1}, {"value": 4}]
        squares.add({"value": 9})
        squares.save(verdict={"they rise": True, "they fall": False})
    assert squares.exit_code == 1
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert [row["value"] for row in result["rows"]] == [1, 4, 9] and result["dtype"] == "bf16"
    text = (tmp_path / "out/table.md").read_text()
    assert "| 1 |\n| 4 |\n| 9 |\n\nyes  they rise\nNO   they fall\n" in text and text in capsys.readouterr().out
    assert text.startswith(f"`{result['machine']['command']}`\n") and f"commit {result['machine']['commit']}" in text
    assert (tmp_path / "out/plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("fault", "code"), [(KeyboardInterrupt(), 1), (ValueError("its cause"), 2), (Failure("x"), 1)])
def test_what_was_measured_before_a_stop_is_kept(tmp_path: Path, capsys, fault, code):
    @command
    def main(arguments: object) -> int:
        with report(tmp_path) as squares:
            squares.add({"value": 1})
            raise fault

    assert main() == code
    assert "| 1 |" in (tmp_path / "out/table.md").read_text() and (tmp_path / "out/plot.png").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(fault) in error if str(fault) else f"stopped; what was measured until then is in {tmp_path}" in error


def test_nothing_is_left_where_nothing_was_measured(tmp_path: Path):
    with pytest.raises(ValueError, match="cause"), report(tmp_path):
        raise ValueError("cause")
    assert list(tmp_path.iterdir()) == []
