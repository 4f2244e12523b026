"""The load generators and what is made of their calls; against a real server: test_load_served.py."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scripted_server import Refuse, ScriptedServer
from tritonclient.grpc import service_pb2
from waiting import wait_until

from bench.load.calls import Call, closed_loop, open_loop
from bench.load.requests import (
    OK,
    Request,
    bad_requests,
    from_data_set,
    good_requests,
    mixture,
    serialize,
)
from bench.load.steps import spent
from bench.load.summary import growth, is_queue_limit, latency_ms, reason, summarize, unexpected, windows
from bench.load.watch import Watch, look, tree
from cma_clip.command import Failure
from model.config import PreprocessConfig
from model.preprocess import pixels_and_presence


def titled(*titles: str) -> list[Request]:
    return [Request(serialize([(title.encode(), b"")])) for title in titles]


def answered(due: float, done: float, code: str = OK, message: str = "", request: int = 0, sent: float | None = None):
    return Call(request, due, due if sent is None else sent, done, code, message)


def test_closed_loop_keeps_its_callers_busy_and_no_more():
    with ScriptedServer(lambda title, times: time.sleep(0.02)) as server:
        calls = closed_loop(server.url, titled("a", "b", "c"), 5, count=30)
    assert server.most_open == 5
    assert sorted(server.asked) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    assert {call.code for call in calls} == {OK} and all(call.due_s == call.sent_s for call in calls)
    assert all(0.02 <= call.latency_s < 5 for call in calls)


@pytest.mark.alone
def test_closed_loop_starts_nothing_after_its_time():
    with ScriptedServer(lambda title, times: time.sleep(0.05)) as server:
        calls = closed_loop(server.url, titled("a"), 2, seconds=0.4)
    assert 2 <= len(calls) <= 16 and max(call.sent_s for call in calls) < 0.4


@pytest.mark.alone
def test_open_loop_sends_on_time_whatever_the_server_does():
    """It stands still until 20 calls wait: those that fell due then are charged the wait from when they were due."""
    with ScriptedServer(lambda title, times: wait_until(lambda: server.most_open >= 20)) as server:
        calls = open_loop(server.url, titled("a"), rate=50, seconds=1)
    assert [round(call.due_s * 50, 6) for call in sorted(calls, key=lambda call: call.due_s)] == list(range(50))
    stalled = [call for call in calls if call.due_s < 0.39]
    assert len(stalled) == 20 and server.most_open >= 20
    assert all(call.latency_s >= 19 / 50 - call.due_s for call in stalled)
    assert min(call.latency_s for call in calls) < 0.19, "calls after the standstill are not charged for it"


def test_latency_counts_from_the_time_that_was_due():
    late = answered(due=1.0, sent=1.3, done=1.5)
    assert late.latency_s == pytest.approx(0.5)
    figures = summarize([late], seconds=2)
    assert (figures["p50_ms"], figures["late_p99_ms"]) == (500, 300)


@pytest.mark.alone
def test_a_call_that_fails_is_recorded():
    def script(title, times):
        if title == "bad":
            raise Refuse("INVALID_ARGUMENT", "in ensemble 'cma_clip', IMG_TRUNCATED: the JPEG data is incomplete")
        if title == "slow":
            server.hang()

    with ScriptedServer(script) as server:
        calls = closed_loop(server.url, titled("good", "bad", "slow"), 1, count=3, timeout_s=0.5)
    assert [(call.request, call.code) for call in calls] == [(0, OK), (1, "INVALID_ARGUMENT"), (2, "DEADLINE_EXCEEDED")]
    assert [reason(call) for call in calls[1:]] == ["IMG_TRUNCATED", "DEADLINE_EXCEEDED"]


def test_no_server_is_one_line(monkeypatch):
    monkeypatch.setattr("bench.load.calls.CONNECT_S", 0.2)
    with pytest.raises(Failure, match=r"^no server at 127.0.0.1:1$"):
        closed_loop("127.0.0.1:1", titled("a"), 1, count=1)
    with pytest.raises(ValueError, match="give seconds or count"):
        closed_loop("127.0.0.1:1", titled("a"), 1)


def test_a_request_is_what_tritonclient_would_send():
    request = service_pb2.ModelInferRequest.FromString(serialize([("röt".encode(), b"\x00"), (b"", b"12")]))
    assert request.model_name == "cma_clip"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("TITLE", "BYTES", [2, 1]),
        ("IMAGE", "BYTES", [2, 1]),
    ]
    assert list(request.raw_input_contents) == [
        b"\x04\x00\x00\x00r\xc3\xb6t\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x00\x02\x00\x00\x0012",
    ]


def test_requests_of_several_rows_take_the_products_that_follow():
    requests = good_requests([(b"a", b""), (b"b", b""), (b"c", b"")], rows=5)
    titles = service_pb2.ModelInferRequest.FromString(requests[1].payload).raw_input_contents[0]
    assert [titles[at] for at in range(4, len(titles), 5)] == list(b"bcabc")
    assert len(requests) == 3


@pytest.fixture
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def test_every_bad_request_is_refused_with_its_code_by_the_definition(jpeg):
    """model.preprocess says the codes; the server's answers are held against them in the soak."""
    codes = []
    for request in bad_requests((b"red dress", jpeg)):
        raw = service_pb2.ModelInferRequest.FromString(request.payload).raw_input_contents
        with pytest.raises(ValueError, match=f"^{request.expected}: "):
            pixels_and_presence(raw[0][4:], raw[1][4:], PreprocessConfig())
        codes.append(request.expected)
    assert len(set(codes)) == 7 and codes.count("IMG_TRUNCATED") == 2


def test_a_mixture_has_its_share_and_is_the_same_again(jpeg):
    good, bad = good_requests([(b"a", jpeg)]), bad_requests((b"a", jpeg))
    mixed = mixture(good, bad, 0.05, 4000)
    share = sum(request.expected != OK for request in mixed) / 4000
    assert 0.035 < share < 0.065 and {r.expected for r in mixed} == {OK} | {r.expected for r in bad}
    assert mixed == mixture(good, bad, 0.05, 4000) != mixture(good, bad, 0.05, 4000, seed=1)


def test_products_of_a_data_set_are_its_test_split(data, products):
    assert from_data_set(data) == [(title.encode(), image) for title, image in products]


def test_percentiles_and_throughput():
    calls = [answered(0, (n + 1) / 100) for n in range(100)] + [answered(0, 0.001, "UNAVAILABLE", "x")]
    figures = summarize(calls, seconds=0.5)
    assert figures["p50_ms"] == pytest.approx(505) and figures["p99_ms"] == pytest.approx(990.1)
    assert (figures["sent"], figures["ok"], figures["throughput"]) == (101, 100, 100)
    assert figures["failures"] == {"UNAVAILABLE x": 1}
    assert latency_ms([]) == {"p50_ms": None, "p99_ms": None}


@pytest.mark.parametrize(
    ("code", "message", "expected", "full"),
    [
        ("UNAVAILABLE", "in ensemble 'cma_clip', [request id: 3] Exceeds maximum queue size",
         "UNAVAILABLE Exceeds maximum queue size", True),
        ("UNAVAILABLE", "Request timeout expired", "UNAVAILABLE Request timeout expired", True),
        ("UNAVAILABLE", "Socket closed", "UNAVAILABLE Socket closed", False),
        ("INTERNAL", "incident 0123456789ab, see the server's log", "INTERNAL incident …, see the server's log", False),
        ("INVALID_ARGUMENT", "in ensemble 'cma_clip', NO_MODALITY: a product needs", "NO_MODALITY", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded at 12:03", "DEADLINE_EXCEEDED", False),
    ],
)  # fmt: skip
def test_failures_alike_have_one_reason(code, message, expected, full):
    assert reason(answered(0, 1, code, message)) == expected and is_queue_limit(expected) == full


def test_exactly_the_bad_must_fail_and_with_their_code():
    requests = [Request(b""), Request(b"", "IMG_TRUNCATED"), Request(b"", "NO_MODALITY")]
    right = [answered(0, 1), answered(0, 1, "INVALID_ARGUMENT", "IMG_TRUNCATED: x", request=1)]
    assert not unexpected(right, requests)
    wrong = [
        answered(0, 1, "INVALID_ARGUMENT", "IMG_TRUNCATED: x", request=0),
        answered(0, 1, OK, request=1),
        answered(0, 1, "INTERNAL", "NO_MODALITY: x", request=2),
    ]
    assert unexpected([*right, *wrong], requests) == {
        (OK, "IMG_TRUNCATED"): 1,
        ("IMG_TRUNCATED", OK): 1,
        ("NO_MODALITY", "INTERNAL NO_MODALITY: x"): 1,
    }


def test_growth_sees_a_slow_leak_through_noise_and_not_the_warm_up():
    rng, times = np.random.default_rng(0), np.arange(600.0)
    noise = rng.normal(0, 5, 600) + 300 * (rng.random(600) < 0.02)
    warming = 500 * np.minimum(times / 120, 1)
    assert abs(growth(times, 1000 + warming + noise)) < 2
    assert growth(times, 1000 + warming + noise + 0.1 * times) == pytest.approx(0.1 * 0.7 * 599, rel=0.1)
    assert growth([0.0], [5.0]) == 0


def test_windows_count_by_due_time():
    calls = [answered(0.1, 0.2), answered(0.9, 3.0), answered(1.5, 1.6, "UNAVAILABLE"), answered(2.1, 2.2)]
    rows = windows(calls, 1.0)
    assert [(row["at_s"], row["sent"], row["failed"]) for row in rows] == [(0, 2, 0), (1, 1, 1)]
    assert rows[0]["p50_ms"] == pytest.approx(1100) and rows[1]["p99_ms"] is None


def counted(calls: int, queue: int, compute: int, rows: int, batches: int, failed: int = 0) -> dict[str, int]:
    return {
        "calls": calls,
        "failed": failed,
        "queue_ns": queue,
        "compute_ns": compute,
        "rows": rows,
        "batches": batches,
    }


def test_time_per_step_is_the_difference_of_two_readings():
    before = {"engine": counted(10, 1_000_000, 5_000_000, 10, 10), "decode": {}}
    after = {"engine": counted(14, 9_000_000, 45_000_000, 42, 14, 2), "decode": counted(2, 0, 3_000_000, 2, 1)}
    assert spent(before, after) == {
        "engine": {"queue_ms": 2.0, "compute_ms": 10.0, "batch": 8.0, "failed": 2},
        "decode": {"queue_ms": 0.0, "compute_ms": 1.5, "batch": 2.0, "failed": 0},
    }
    with pytest.raises(ValueError, match="decode: its counters ran backwards"):
        spent(after, after | {"decode": counted(1, 0, 0, 1, 1)})


CHILD = """
import mmap, os, subprocess, sys, threading
block = bytearray(os.urandom(1) * (50 << 20))
files = [open(os.devnull) for _ in range(20)]
region = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1 << 20)
threading.Thread(target=threading.Event().wait, daemon=True).start()
below = subprocess.Popen([sys.executable, "-c", "print('ready', flush=True); input()"])
below.wait()
"""


def test_the_watch_counts_a_process_tree():
    path = f"/dev/shm/cma_clip_test_{os.getpid()}"
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    try:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0):
            command = [sys.executable, "-c", CHILD, path]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert process.stdout.readline() == "ready\n"
            with Watch(process.pid, interval_s=0.05) as watch:
                wait_until(lambda: len(watch.samples) >= 3)
                process.communicate("\n")
                wait_until(lambda: watch.fault)
    finally:
        os.unlink(path)
    sample = watch.samples[0]
    assert len(sample.processes) == 2 and process.pid in sample.processes
    assert sample.rss > 50 << 20 and sample.fds >= 23 and sample.threads == 3 and sample.shm == 1 << 20
    assert len(watch.samples) >= 3 and watch.fault == f"there is no process {process.pid}"


def test_a_process_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="there is no process 4194304"):
        look(4194304)
    assert os.getpid() in {process.pid for process in tree(os.getppid())}
