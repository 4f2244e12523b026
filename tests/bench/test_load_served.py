"""`python -m bench.load` against the real server: rows L1, L2, L5. More than it can take: test_load_overload.py."""

from __future__ import annotations

import json

import pytest
from scripted_server import Refuse, ScriptedServer

from bench.load import experiments, tables
from bench.load.__main__ import main
from bench.load.calls import Call
from bench.load.in_process import InProcess
from bench.load.requests import OK, Request, serialize
from bench.load.watch import Sample
from client import Classifier

pytestmark = pytest.mark.alone

STEPS = ["preprocess", "tokenize", "engine", "decode"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Enough to show that a measurement works, too short to be one."""
    monkeypatch.setattr(experiments, "WARM_UP_S", 0.2)
    monkeypatch.setattr(experiments, "CAPACITY_S", 1.5)


def result_of(output) -> dict:
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((output / "result.json").read_text())
    machine = result["machine"]
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 1 << 30 and machine["versions"]["numpy"]
    return result


def test_L1_concurrency_sweep(server, data, tmp_path, capsys):
    arguments = ["sweep", "--url", server.url, "--data", str(data), "--output", str(tmp_path)]
    assert main([*arguments, "--concurrency", "1,8,64", "--seconds", "1.5"]) == 0
    result = result_of(tmp_path)
    assert result["server"]["name"] == "triton" and result["products"] == 40
    rows = result["rows"]
    assert [row["concurrency"] for row in rows] == [1, 8, 64]
    for row in rows:
        assert row["failures"] == {} and row["ok"] == row["sent"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["throughput"] > 0
        assert list(row["steps"]) == STEPS and not any(step["failed"] for step in row["steps"].values())
        on_server = sum(step["queue_ms"] + step["compute_ms"] for step in row["steps"].values())
        mean_ms = row["concurrency"] / row["throughput"] * 1000
        assert 0.01 * mean_ms < on_server < 2 * mean_ms, "the steps are a part of a call, in the same unit"
    assert rows[0]["steps"]["engine"]["batch"] == 1 < rows[-1]["steps"]["engine"]["batch"]
    table = (tmp_path / "table.md").read_text()
    assert "| 64 | " in table and "yes  no failure but refusals of a full queue" in table
    assert table in capsys.readouterr().out


def test_L2_below_capacity_nothing_grows(server, data, tmp_path):
    arguments = ["soak", "--url", server.url, "--data", str(data), "--output", str(tmp_path), "--bad", "0"]
    arguments += ["--pid", str(server.process.pid), "--requests", "400", "--rate", "0.5x"]
    # What else the machine begins to do makes answers slower; what leaks does so every time.
    assert any(main(arguments) == 0 for _ in range(3)), (tmp_path / "table.md").read_text()
    result = result_of(tmp_path)
    assert result["rate"] > 0 and result["expected"] == {OK: 400} and result["verdict"]["p99_ms flat"]


def test_L5_exactly_the_bad_fail_and_nothing_leaks(server, data, tmp_path):
    """By hand with 100,000: make soak."""
    arguments = ["soak", "--url", server.url, "--data", str(data), "--output", str(tmp_path)]
    code = main([*arguments, "--pid", str(server.process.pid), "--requests", "2500", "--bad", "0.05"])
    assert code == 0, (tmp_path / "table.md").read_text()
    result = result_of(tmp_path)
    expected = result["expected"]
    assert sum(expected.values()) == result["sent"] == 2500 and 75 < 2500 - expected[OK] < 175
    del expected[OK]
    assert result["failures"] == expected and len(expected) == 7 and result["unexpected"] == []
    assert len(set(map(len, (result[name] for name in ("at_s", "rss", "fds", "threads", "shm"))))) == 1
    assert min(result["rss"]) > 50 << 20 and min(result["shm"]) > 0


def test_an_answer_that_is_not_the_expected_one_fails_the_soak(server, products):
    good = Request(serialize([(products[0][0].encode(), products[0][1])]), "IMG_TRUNCATED")
    result = experiments.soak(server.url, [good] * 5, server.process.pid, 2)
    assert result["unexpected"] == [["IMG_TRUNCATED", OK, 5]] and not result["verdict"]["every answer as expected"]


def test_a_leak_is_a_leak():
    samples = [Sample(float(n), (1,), 0, 0, 0, 0) for n in range(100)]
    series = {"rss": [(500 + n) << 20 for n in range(100)], "fds": [90] * 100}
    parts = [{"at_s": float(n), "p99_ms": 40.0} for n in range(9)]
    grown = experiments.growths(samples, series, parts)
    assert grown["rss"]["growth"] == pytest.approx(69 << 20, rel=0.02) and grown["rss"]["allowed"] == 32 << 20
    assert grown["fds"] == {"growth": 0, "allowed": 8, "last": 90} and grown["p99_ms"]["growth"] == 0


def test_served_and_in_process_give_one_answer_and_are_compared(server, data, products, tmp_path):
    encoded = [(title.encode(), image) for title, image in products[:3]]
    here = InProcess(server.repository)
    assert len(here.answer(encoded)) == 3
    with Classifier(server.url, timeout_s=10) as classifier:
        for product in encoded:  # one by one: in bf16 a batch of three answers a little differently
            served, (text,) = classifier.classify(*product).prediction, here.answer([product])
            answer = json.loads(text)
            for task, told in served.items():
                assert told["label"] == answer[task]["label"]
                assert told["score"] == pytest.approx(answer[task]["score"], abs=1e-5)
    arguments = ["compare", f"served={server.url}", f"here={server.repository}", "--data", str(data)]
    arguments += ["--output", str(tmp_path), "--concurrency", "1,16", "--seconds", "0.5", "--rounds", "3"]
    assert main(arguments) == 0
    for row, callers in zip(result_of(tmp_path)["rows"], (1, 16), strict=True):
        assert row["concurrency"] == callers and len(row["ratios"]) == 3
        assert min(row["ratios"]) <= row["ratio"] <= max(row["ratios"])
        assert row["served"]["throughput"] > 0 and row["here"]["p50_ms"] > 0


def test_compare_takes_turns_and_takes_medians():
    turns = []

    def side(name: str, latencies: list[float]):
        def load(concurrency: int, seconds: float) -> list[Call]:
            turns.append((name, concurrency))
            latency = latencies[min(turns.count((name, concurrency)) - 1, len(latencies) - 1)]
            return [Call(0, 0, 0, latency, OK, "") for _ in range(round(seconds / latency))]

        return load

    loads = {"a": side("a", [0.01, 0.01, 0.04, 0.01]), "b": side("b", [0.02, 0.02, 0.02, 0.02])}
    (row,) = experiments.compare(loads, [4], seconds=1, rounds=3)
    assert turns == [("a", 4), ("b", 4)] * 4
    assert row["ratios"] == [2, 0.5, 2] and row["ratio"] == 2 and row["p50_more_ms"] == -10


def test_a_side_that_fails_is_not_compared():
    loads = {
        "a": lambda concurrency, seconds: [Call(0, 0, 0, 0.1, OK, "")],
        "b": lambda concurrency, seconds: [Call(0, 0, 0, 0.1, "UNAVAILABLE", "Socket closed")],
    }
    with pytest.raises(ValueError, match="b at 2 callers: failures .*UNAVAILABLE Socket closed"):
        list(experiments.compare(loads, [2], seconds=1, rounds=1))


def test_refusals_are_no_capacity():
    def refuse(title, times):
        raise Refuse("UNAVAILABLE", "Exceeds maximum queue size")

    with ScriptedServer(refuse) as server, pytest.raises(ValueError, match="no capacity at 2 callers, try fewer"):
        experiments.capacity(server.url, [Request(serialize([(b"a", b"")]))], 2, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sweep", "--data", "absent"], 2, "absent/dataset.json: no such file"),
        (["soak", "--data", "DATA", "--url", "URL", "--pid", "4194304", "--requests", "1"], 2, "no process 4194304"),
        (["sweep", "--data", "DATA", "--url", "127.0.0.1:1"], 1, "no server at 127.0.0.1:1"),
        (["compare", "--data", "DATA", "a=URL", "b=DATA"], 2, "bundle.json: no such file"),
    ],
)
def test_faults_are_one_line(arguments, code, message, server, data, tmp_path, capsys):
    words = [word.replace("DATA", str(data)).replace("URL", server.url) for word in arguments]
    assert main([*words, "--output", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["sweep", "--data", "d", "--concurrency", "4,0"], "expected numbers from 1"),
        (["compare", "--data", "d", "a", "b=x"], "expected NAME=HOST:PORT or NAME=DIRECTORY"),
        (["compare", "--data", "d", "a=x", "a=y"], "both sides are called 'a'"),
        (["overload"], "the following arguments are required: --data"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments, problem, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and problem in capsys.readouterr().err


def test_tables_show_what_was_measured():
    step = {"queue_ms": 1.0, "compute_ms": 2.5, "batch": 3.25, "failed": 0}
    figures = {"p50_ms": 10.123, "p99_ms": None, "throughput": 1234.5, "failures": {"NO_MODALITY": 2}}
    table = tables.sweep_table({"rows": [{"concurrency": 4, **figures, "steps": {"engine": step}}]})
    assert table.splitlines()[2] == "| 4 | 10.12 | - | 1234 | 2 NO_MODALITY | 1 + 2.5 (3.2) |"
    side = {"throughput": 90.0, "p50_ms": 11.0, "p99_ms": 20.0}
    row = {"concurrency": 1, "a": side, "b": side, "ratio": 0.95, "ratios": [0.9, 0.95, 1.0], "p50_more_ms": 4.5}
    table = tables.compare_table({"rows": [row], "sides": {"a": "x", "b": "y"}})
    assert "| 1 | 90 | 11 | 90 | 11 | 0.950 (0.900 to 1.000) | 4.5 |" in table
