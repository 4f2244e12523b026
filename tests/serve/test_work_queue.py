"""The queue in front of preprocessing: what it takes, what it refuses, whose turn it is; by a clock of its own."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from model.config import PreprocessConfig
from model.image_header import inspect
from model.refusal import Code, Refusal
from serve.engine_pace import Ahead, Pace
from serve.work import SECOND as WORST_SECOND
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
    return WorkQueue(0, most=1000, most_wait_s=1.5, most_memory=100, clock=clock)


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
    for _ in range(999):
        assert queue.full() is None
        queue.put(lambda waited_s: True, small)
    assert queue.full() == "1000 requests wait, at most 1000 may"


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
    queue, order = WorkQueue(0, 1000, 1.5, 100, held=lambda: True, clock=clock), []
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
    queue, done = WorkQueue(3, 1000, 60, most_memory=2), []
    for number in range(50):
        queue.put(done_into(done, str(number)), Work(1, 1))
    queue.close()
    assert len(done) == 50


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_an_image_of_half_its_limit_costs_half_a_second_and_its_bytes(format):
    data = encoded(format, (300, 200))
    header = inspect(data, CONFIG)
    config = PreprocessConfig(image_limits={header.kind: {"pixels": 120_000, "scan_pixels": 400_000}})
    work, nothing = work_of(data, header, config), work_of(b"", None, config)
    assert work.units - nothing.units - 4 * len(data) == WORST_SECOND // 2
    assert work.memory == header.memory + len(data)


def test_what_each_further_scan_costs_is_known():
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, "JPEG", progressive=True)
    header = inspect(buffer.getvalue(), CONFIG)
    limits = {"PROGRESSIVE_JPEG": {"pixels": 10 * header.pixels, "scan_pixels": 2 * header.scan_pixels}}
    work = work_of(b"", header, PreprocessConfig(image_limits=limits))
    assert work.units - work_of(b"", None, CONFIG).units == WORST_SECOND // 2


def test_rows_of_a_request_share_its_budget():
    bomb = encoded("BMP", (4000, 4000))
    header = inspect(bomb, PreprocessConfig(max_image_bytes=10**8))
    images = [bomb[:1000]] * 64  # the rest of the bytes would be too many by themselves
    with pytest.raises(Refusal) as caught:
        request_work(images, [header] * 64, CONFIG)
    assert caught.value.code == Code.IMG_TOO_COSTLY and "send fewer in a request" in str(caught.value)
    assert request_work([bomb], [header], CONFIG).memory == len(bomb) + header.memory
    small = encoded("JPEG", (640, 480))
    request_work([small] * 64, [inspect(small, CONFIG)] * 64, CONFIG)


def test_what_costs_little_is_done_at_once_unless_it_is_held_up_or_others_come_first(clock):
    holds = [False]
    queue = WorkQueue(0, 1000, 1.5, 100, held=lambda: holds[0], clock=clock)
    small, large = Work(1, 1), Work(SECOND, 1)
    assert queue.is_its_turn(small)
    queue.put(lambda waited_s: True, large)
    assert queue.is_its_turn(small), "it passes what costs far more"
    queue.put(lambda waited_s: True, small)
    assert not queue.is_its_turn(small)
    queue.work_once()
    assert queue.is_its_turn(small)
    holds[0] = True
    assert not queue.is_its_turn(small)


def test_what_holds_work_up_is_part_of_the_pace_whatever_the_work_costs(clock):
    """Sixteen at a time go on, at once, and then nothing for a while: as an engine takes its batches."""
    let_go = [0]

    def held() -> bool:
        if not let_go[0]:
            clock.now += 0.08
            let_go[0] = 16
            return True
        return False

    def quickly(waited_s: float) -> bool:
        let_go[0] -= 1
        clock.now += 0.0001
        return True

    queue = WorkQueue(0, 10_000, 60, 100, held=held, clock=clock)
    for _ in range(2000):
        queue.put(quickly, Work(100_000, 1))
    for _ in range(640):
        queue.work_once()
    before, waiting = clock.now, queue.wait_s()
    for _ in range(640):
        queue.work_once()
    assert waiting == pytest.approx(2 * (clock.now - before), rel=0.3), "half of what waited is done"


def test_no_more_is_let_go_than_the_engine_takes(tmp_path, clock):
    paths = [tmp_path / "engine", tmp_path / "decode"]
    ahead = Ahead(paths, clock)
    ahead.add(1000)
    assert not ahead.is_full(), "where nobody says how far it is, nothing is held up"
    engine = Pace(most=8, lost_after_s=0.05, path=paths[0])
    clock.now = 2.0
    assert not ahead.is_full()
    with engine.working(1):
        ahead.add(9)
        assert ahead.is_full()
    with engine.working(8):
        assert not ahead.is_full()
        ahead.add(8)
        assert ahead.is_full()
    clock.now += 0.04
    assert ahead.is_full()
    clock.now += 0.06
    assert not ahead.is_full(), "they were lost on the way: it has nothing to do"
    with engine.working(0):
        ahead.add(8)
        assert ahead.is_full()
        clock.now += 6
        assert not ahead.is_full(), "an engine that hangs must not look like a long queue"
    again = Pace(most=1, lost_after_s=0.05, path=paths[0])
    clock.now += 2
    ahead.is_full()
    with again.working(0):
        ahead.add()
        assert ahead.is_full(), "that of another server is seen"
    engine.close()
    assert paths[0].exists(), "a step that is loaded anew begins before the old one ends"
    again.close()
    assert not paths[0].exists()


def test_requests_that_others_send_to_the_engine_hide_none_of_ours(tmp_path, clock):
    engine, ahead = Pace(most=8, lost_after_s=0.05, path=tmp_path / "engine"), Ahead([tmp_path / "engine"], clock)
    ahead.is_full()
    with engine.working(100):
        assert not ahead.is_full()
        ahead.add(8)
        assert ahead.is_full()


def test_decode_speaks_for_an_engine_that_says_nothing(tmp_path, clock):
    paths = [tmp_path / "engine", tmp_path / "decode"]
    decode, ahead = Pace(most=2, lost_after_s=0.5, path=paths[1]), Ahead(paths, clock)
    ahead.is_full()
    with decode.working(0):
        ahead.add(2)
        assert ahead.is_full()
    Pace(most=4, lost_after_s=0.5, path=paths[0])
    clock.now += 2
    assert not ahead.is_full()
    ahead.add(3)
    assert not ahead.is_full(), "now the engine is believed, and 3 are on their way to it"


def test_what_waits_is_known_from_the_pace_of_the_engine_before_anything_has_waited(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("serve.engine_pace.time.monotonic", clock)
    engine, ahead = Pace(most=32, lost_after_s=0.2, path=tmp_path / "engine"), Ahead([tmp_path / "engine"], clock)
    queue = WorkQueue(0, 1000, 1.5, 100, held=ahead.is_full, later_s=ahead.wait_s, clock=clock)

    def batch(count: int, seconds: float) -> None:
        ahead.add(count)
        with engine.working(count):
            clock.now += seconds
        ahead.is_full()

    ahead.is_full()
    for count, seconds in [(1, 0.06)] * 20 + [(16, 0.48)] * 4 + [(1, 0.06)] * 20:
        batch(count, seconds)
    ahead.add(20)
    assert ahead.wait_s(0) == pytest.approx(20 * 0.03, rel=0.15), "the pace of full batches, not of single requests"
    for _ in range(20):
        assert queue.full() is None
        queue.put(lambda waited_s: True, Work(1, 1))
    for _ in range(15):
        queue.put(lambda waited_s: True, Work(1, 1))
    assert queue.full(), "35 that wait and 20 on their way, 0.03 s each"
