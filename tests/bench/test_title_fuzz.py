"""The fuzz of titles in `make soak`, a few hundred of them, and that it says and keeps what goes wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import title_fuzz


def test_T7_any_title_gives_ids_or_a_code_and_costs_little(tmp_path, capsys):
    assert title_fuzz.main(["--titles", "400", "--output", str(tmp_path / "kept")]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert set(counts) == {"read", "absent", "TXT_INVALID_UTF8", "TXT_TOO_LONG"} and sum(counts.values()) >= 400
    assert counts["read"] > 200 and not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda title: 1 / 0, "no code: ZeroDivisionError"),
        (lambda title: np.array([49406, 5], np.int32), "wrong ids"),
        (lambda title: np.array([49406, 5, 49407]), "wrong ids: int64"),
        (lambda title: np.array([49406, *[5] * 76, 49407], np.int32), "wrong ids"),
        (lambda title: np.array([49406, 49407, 49407], np.int32), "wrong ids"),
        (lambda title: np.array([49406, 5, 49407], np.int32), "wrong presence: False with 1 words"),
    ],
)
def test_a_title_that_goes_wrong_is_made_short_said_and_kept(tmp_path, capsys, monkeypatch, answer, says):
    monkeypatch.setattr(title_fuzz.TitleTokenizer, "encode", lambda self, title: answer(title))
    assert title_fuzz.main(["--titles", "20", "--seed", "7", "--output", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err
    assert (tmp_path / "7.bin").read_bytes() == b""


def test_a_title_that_takes_long_is_told(monkeypatch):
    monkeypatch.setattr(title_fuzz, "MOST_SECONDS", 0.0)
    assert title_fuzz.verdict("red dress") == "too long: read"
