"""More load than a server can take, and callers who do not wait. Rows L3, L4 and L6 of the test matrix."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from server_process import ServerProcess
from tritonclient.grpc import model_config_pb2

from bench.load.calls import Call, closed_loop
from bench.load.experiments import overload, recovery
from bench.load.requests import OK, good_requests
from bench.load.steps import counters
from bench.load.summary import latency_ms, summarize
from client import Classifier

pytestmark = pytest.mark.alone

ROWS = 16  # so that few requests are a load, and the generator leaves the server its cores


def with_limits(source: Path, target: Path, **limits: int) -> Path:
    """A copy of a model repository in which preprocess has these limits."""
    shutil.copytree(source, target)
    path = target / "preprocess/config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    for name, limit in limits.items():
        assert name in config.parameters
        config.parameters[name].string_value = str(limit)
    path.write_text(text_format.MessageToString(config))
    return target


@pytest.fixture(scope="module")
def encoded(products):
    return [(title.encode(), image) for title, image in products]


@pytest.fixture(scope="module")
def narrow(server, tmp_path_factory) -> Iterator[ServerProcess]:
    """Eight requests may wait."""
    folder = tmp_path_factory.mktemp("narrow")
    repository = with_limits(server.repository, folder / "deploy", max_queue_size=8)
    with ServerProcess(repository, folder / "server.log") as process:
        yield process


def test_L3_above_capacity(narrow, encoded, monkeypatch):
    monkeypatch.setattr("bench.load.experiments.CAPACITY_S", 3.0)
    requests = good_requests(encoded, ROWS)
    limits = {"accepted_limit_ms": 5000, "refused_limit_ms": 1000, "least_share": 0.3}
    # Six times: what was measured as capacity may be half of it, where something else ran at the time.
    result = overload(narrow.url, requests, 4, factor=6, seconds=3, timeout_s=30, **limits)
    *held, _ = result["verdict"].values()  # how fast it is normal again hangs on what else the machine does
    assert all(held), result["verdict"] | {"during": result["during"]}
    assert list(result["rejected"]) == ["UNAVAILABLE Exceeds maximum queue size"]
    (refused,) = result["rejected"].values()
    during = result["during"]
    assert refused["count"] + during["ok"] == during["sent"] == round(6 * result["capacity"] * 3)
    assert refused["p50_ms"] < during["p50_ms"]
    assert result["before"]["failures"] == result["after"]["failures"] == {}
    with Classifier(narrow.url, timeout_s=5) as classifier:
        assert classifier.classify(*encoded[0]).prediction


def test_L4_a_wait_longer_than_the_limit(server, encoded, tmp_path):
    limits = {"max_queue_size": 1000, "max_wait_ms": 60_000, "timeout_ms": 100}
    repository = with_limits(server.repository, tmp_path / "deploy", **limits)
    with ServerProcess(repository, tmp_path / "server.log") as patient:
        calls = closed_loop(patient.url, good_requests(encoded, ROWS), 48, count=144, timeout_s=30)
    figures = summarize(calls, seconds=max(call.done_s for call in calls))
    assert list(figures["failures"]) == ["UNAVAILABLE Request timeout expired"]
    assert figures["ok"] > 0 and figures["ok"] + sum(figures["failures"].values()) == 144


def test_L6_callers_that_give_up_harm_nobody(server, encoded):
    """200 at once, each with a deadline of 50 ms, while four others go on asking."""
    requests = good_requests(encoded)
    with triton.InferenceServerClient(server.url) as client, ThreadPoolExecutor(1) as pool:
        alone = closed_loop(server.url, requests, 4, seconds=1)
        before = counters(client)
        others = pool.submit(closed_loop, server.url, requests, 4, seconds=2)
        time.sleep(0.5)
        hasty = closed_loop(server.url, requests, 200, count=200, timeout_s=0.05)
        beside = others.result()
        after = closed_loop(server.url, requests, 4, seconds=1)
        worked = counters(client)["engine"]["rows"] - before["engine"]["rows"]
    # A queue that is full already, on a slow machine, refuses the rest at once.
    others_said = {call.message for call in hasty if call.code not in (OK, "DEADLINE_EXCEEDED")}
    assert all("Exceeds maximum queue size" in message for message in others_said), others_said
    assert {call.code for call in [*alone, *beside, *after]} == {OK}
    given_up = sum(call.code != OK for call in hasty)
    answered = len(beside) + len(after) + len(hasty) - given_up
    assert given_up > 100 and worked - answered < given_up / 2, "cancelled calls are not worked on"
    p50_ms = [latency_ms([call.latency_s for call in calls])["p50_ms"] for calls in (after, alone)]
    assert p50_ms[0] < 5 * p50_ms[1]


def after_overload(*latencies_ms: float) -> list[Call]:
    """One answer every half second, and the one that closes the last window."""
    return [Call(0, n / 2, n / 2, n / 2 + ms / 1000, OK, "") for n, ms in enumerate([*latencies_ms, 1])]


def test_recovery_is_the_end_of_the_last_slow_half_second():
    assert recovery(after_overload(5, 5, 5), normal_ms=10, overhang_s=0.2) == 0.2
    assert recovery(after_overload(50, 5, 50, 5, 5), normal_ms=10, overhang_s=0.2) == 1.7
    assert recovery(after_overload(5, 5, 50), normal_ms=10, overhang_s=0) is None
    assert recovery(after_overload(5, 5, 5), normal_ms=10, overhang_s=7) is None
    failed = [*after_overload(5, 5, 5), Call(0, 0.6, 0.6, 0.7, "UNAVAILABLE", "")]
    assert recovery(sorted(failed, key=lambda call: call.due_s), normal_ms=10, overhang_s=0) == 1.0
