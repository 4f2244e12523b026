"""Decisions: none is lost, none is made twice, and what was undone is still known."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from console_files import ANN, BEN

from client.console.decisions import LEASE_S, Decisions, Outdated

SAID = {"color": {"labels": ["blue"], "scores": [0.9], "accepted": True, "refused": "", "text_share": 0.5}}


@pytest.fixture
def decisions(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "d.sqlite", "0123456789ab")


def test_a_decision_keeps_who_and_when_and_what_the_model_had_said(decisions):
    decisions.decide("a", {"color": ["red"], "tags": None}, SAID, ANN, sampled=True)
    kept = decisions.of_product("a")
    assert kept is not None and kept._replace(at="") == (
        1,
        "a",
        {"color": ["red"], "tags": None},
        SAID,
        True,
        "Ann",
        "",
    )
    assert kept.at.endswith("+00:00") and kept.at[:2] == "20"


def test_another_decision_replaces_one_that_was_seen_and_no_other(decisions):
    decisions.decide("a", {"color": ["red"]}, {}, ANN)
    with pytest.raises(Outdated, match="Ann has decided"):
        decisions.decide("a", {"color": ["blue"]}, {}, BEN)
    assert decisions.of_product("a").labels == {"color": ["red"]}
    decisions.decide("a", {"color": ["green"]}, {}, BEN, replaces=1)
    assert decisions.of_product("a")[:3] == (2, "a", {"color": ["green"]})
    assert decisions.all("SELECT number, undone IS NULL FROM decision ORDER BY number") == [(1, 0), (2, 1)]


def test_undo_goes_back_one_by_one_and_only_over_what_is_ones_own(decisions):
    decisions.decide("a", {"color": ["red"]}, {}, ANN)
    decisions.skip("b", ANN)
    decisions.decide("c", {"color": ["red"]}, {}, BEN)
    assert [decisions.undo(ANN) for _ in range(3)] == ["b", "a", None]
    assert decisions.of_product("a") is None and decisions.of_product("c") is not None


def test_what_is_taken_back_is_before_nobody_elses_eyes(decisions):
    decisions.decide("a", {}, {}, ANN)
    decisions.undo(ANN)
    ((session, until),) = decisions.all("SELECT session, until - strftime('%s') FROM lease WHERE product = 'a'")
    assert session == ANN.session and 0 < until <= LEASE_S + 1


def test_a_decision_that_fails_leaves_nothing(decisions):
    decisions.decide("a", {"color": ["red"]}, {}, ANN)
    with pytest.raises(TypeError):
        decisions.decide("a", {"color": [object()]}, {}, ANN, replaces=1)  # cannot be written down
    assert decisions.of_product("a").number == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("id,color\n"), lambda path: path.mkdir()])
def test_another_file_is_refused_and_left_alone(tmp_path, make):
    path = tmp_path / "table.csv"
    make(path)
    with pytest.raises(ValueError, match="no file of decisions.*--decisions"):
        Decisions(path, "0123456789ab")
    assert path.is_dir() or path.read_text() == "id,color\n"


def test_decisions_about_other_labels_are_refused(decisions, tmp_path):
    decisions.close()
    with pytest.raises(ValueError, match="label set 0123456789ab, the data set has ffffffffffff"):
        Decisions(tmp_path / "d.sqlite", "ffffffffffff")


def test_whoever_reads_only_writes_nothing(decisions, tmp_path):
    decisions.decide("a", {"color": ["red"]}, {}, ANN)
    reader = Decisions(tmp_path / "d.sqlite", "0123456789ab", read_only=True)
    assert reader.of_product("a").labels == {"color": ["red"]}
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.decide("b", {}, {}, ANN)
    with pytest.raises(ValueError, match="no decisions to read"):
        Decisions(tmp_path / "none.sqlite", "0123456789ab", read_only=True)
    assert not (tmp_path / "none.sqlite").exists()


WRITER = """
import sys
from pathlib import Path
from client.console.decisions import Decisions, Reviewer
decisions = Decisions(Path(sys.argv[1]), "0123456789ab")
for number in range(100_000):
    decisions.decide(f"{sys.argv[2]}{number}", {"color": ["red"]}, {}, Reviewer(sys.argv[2], sys.argv[2]))
    print(number, flush=True)
"""


def test_two_consoles_write_into_one_file_and_kill_9_loses_nothing_that_was_said_to_be_kept(tmp_path):
    path = tmp_path / "d.sqlite"
    Decisions(path, "0123456789ab").close()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    said = [[int(writer.stdout.readline()) for _ in range(20)][-1] for writer in writers]
    for place, writer in enumerate(writers):
        writer.send_signal(signal.SIGKILL)
        said[place] = int((writer.stdout.read().split() or [said[place]])[-1])
        writer.wait()
        writer.stdout.close()
    kept = Decisions(path, "0123456789ab")
    assert kept.one("PRAGMA integrity_check") == ("ok",)
    for name, last in zip("ab", said, strict=True):
        assert last >= 19 and all(kept.of_product(f"{name}{number}") for number in range(last + 1))
