"""The queue in front of preprocessing: what it takes, what it refuses, whose turn it is; by a clock of its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model.config import PreprocessConfig
from model.refusal import Code, Refusal
from serve.engine_pace import Ahead, EnginePace
from serve.work import Work, request_work, work_of
from serve.work_queue import FIRST_PACE, MOST_URGENT, WorkQueue

SECOND = round(1 / FIRST_PACE)  # units
CONFIG = PreprocessConfig()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(0, most_wait_s=1.5, most_memory=100, clock=clock)


def done_into(order: list[str], name: str):
    return lambda waited_s: order.append(name) is None


def encoded(format: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, format)
    return buffer.getvalue()


def test_L3_what_would_wait_too_long_is_refused_whatever_it_is(queue):
    large, small = Work(SECOND, 1), Work(1, 1)
    for _ in range(2):  # two large ones are more than 64 small ones
        assert queue.full() is None
        queue.put(lambda waited_s: True, large)
    assert queue.full() == "work of 2.0 s waits, at most 1.5 s may"
    queue.work_once()
    assert queue.full() is None
    for _ in range(1000):
        queue.put(lambda waited_s: True, small)
    assert queue.full() is None


def test_an_idle_queue_takes_the_largest_there_is(queue):
    assert queue.full() is None
    queue.put(lambda waited_s: True, Work(100 * SECOND, 10**12))
    assert queue.work_once(), "what needs more memory than there is runs alone"


def test_a_slow_image_delays_itself_and_not_those_that_came_with_it(queue):
    order: list[str] = []
    queue.put(done_into(order, "slow"), Work(SECOND, 1))
    for name in ("first", "second"):
        queue.put(done_into(order, name), Work(1, 1))
    while len(order) < 3:
        queue.work_once()
    assert order == ["first", "second", "slow"]


def test_the_slow_one_is_passed_for_some_time_only(queue, clock):
    order: list[str] = []
    queue.put(done_into(order, "slow"), Work(SECOND // 10, 1))
    clock.now = 1.0
    queue.put(done_into(order, "late"), Work(1, 1))
    queue.work_once()
    assert order == ["slow"]


def test_F3_the_canary_passes_the_queue_and_what_holds_it_up(clock):
    queue, order = WorkQueue(0, 1.5, 100, held=lambda: True, clock=clock), []
    queue.put(done_into(order, "product"), Work(9 * SECOND, 1))
    assert queue.full() and queue.full(urgent=True) is None
    queue.put(done_into(order, "canary"), Work(1, 1), urgent=True)
    queue.work_once()
    assert order == ["canary"]
    for _ in range(MOST_URGENT):
        queue.put(done_into(order, "canary"), Work(1, 1), urgent=True)
    assert queue.full(urgent=True) == f"{MOST_URGENT} urgent requests wait, at most {MOST_URGENT} may"


def test_the_pace_is_that_of_the_work_done(queue, clock):
    def slowly(waited_s: float) -> bool:
        clock.now += 0.3
        return True

    for _ in range(200):
        queue.put(slowly, Work(SECOND // 10, 1))
        queue.work_once()
    assert queue.pace == pytest.approx(3 * FIRST_PACE, rel=0.05)
    before = queue.pace
    queue.put(lambda waited_s: False, Work(SECOND, 1))  # refused at once: no measure
    queue.work_once()
    assert queue.pace == before


def test_threads_do_all_that_waits_before_they_end():
    queue, done = WorkQueue(3, 60, most_memory=2), []
    for number in range(50):
        queue.put(done_into(done, str(number)), Work(1, 1))
    queue.close()
    assert len(done) == 50


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_header_tells_the_pixels(format):
    small, large = (encoded(format, size) for size in ((30, 20), (300, 200)))
    more = work_of(large, 10**9).units - work_of(small, 10**9).units - 4 * (len(large) - len(small))
    assert more in {factor * (300 * 200 - 30 * 20) for factor in (1, 3, 4)}
    assert work_of(large, 100).memory < work_of(large, 10**9).memory


def test_any_bytes_are_an_estimate():
    rng = np.random.default_rng(0)
    starts = [encoded(format, (9, 9))[:40] for format in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    for start in [b"", b"\xff\xd8", b"\xff\xd8" + b"\xff" * 1000, *starts]:
        for length in range(len(start) + 1):
            data = start[:length] + rng.bytes(length % 7)
            assert work_of(data, CONFIG.max_pixels).units > 0


def test_rows_of_a_request_share_its_budget():
    bomb = encoded("BMP", (1, 1))[:18] + (5000).to_bytes(4, "little") * 2
    assert request_work([bomb], CONFIG).units > 25_000_000
    with pytest.raises(Refusal) as caught:
        request_work([bomb] * 64, CONFIG)
    assert caught.value.code == Code.IMG_TOO_MANY_PIXELS and "send fewer in a request" in str(caught.value)
    request_work([encoded("JPEG", (640, 480))] * 64, CONFIG)


def test_no_more_is_let_go_than_the_engine_takes(tmp_path, clock):
    path = tmp_path / "pace"
    ahead = Ahead(path, clock)
    ahead.add(1000)
    assert not ahead.is_full(), "an engine that says nothing holds nothing up"
    engine = EnginePace(most=8, path=path)
    clock.now = 2.0
    assert not ahead.is_full()
    engine.begin(1)
    ahead.add(9)
    assert ahead.is_full()
    engine.begin(8)
    assert not ahead.is_full()
    ahead.add(8)
    assert ahead.is_full()
    engine.end()
    clock.now += 0.1
    assert not ahead.is_full(), "they were lost on the way: it has nothing to do"
    engine.begin(0)
    ahead.add(8)
    assert ahead.is_full()
    clock.now += 6
    assert not ahead.is_full(), "an engine that hangs must not look like a long queue"
    again = EnginePace(most=1, path=path)
    clock.now += 2
    ahead.is_full()
    again.begin(0)
    ahead.add()
    assert ahead.is_full(), "that of another server is seen"
    again.close()
    assert not path.exists()
