"""The retry policy of shared/TEST_MATRIX.md: row by row as data, over gRPC, and through the death of a real server."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted_server import LABEL_SET, Refuse, ScriptedServer
from server_faults import kill_server
from server_process import ServerProcess, free_ports
from waiting import wait_until

from client import (
    Answer,
    Classifier,
    ClassifierError,
    DeadlineExceeded,
    InvalidProduct,
    LabelSetChanged,
    Misconfigured,
    ServerBusy,
    ServerFailed,
    ServerUnavailable,
)
from client.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, Attempt, Course, Window, pause_s, rule_for

QUEUE_FULL = ("UNAVAILABLE", "Exceeds maximum queue size")
DEAD_STUB = (
    "INTERNAL",
    "Failed to process the request(s) for model 'decode_0', message: Stub process 'decode_0' is not healthy.",
)
NO_VERSION = ("NOT_FOUND", "Request for unknown model: 'cma_clip' has no available versions")


@pytest.mark.parametrize(
    ("code", "message", "name", "error"),
    [
        ("INVALID_ARGUMENT", "IMG_EMPTY: no bytes", "bad input", InvalidProduct),
        ("INVALID_ARGUMENT", "Exceeds maximum queue size", "bad input", InvalidProduct),
        (*QUEUE_FULL, "queue full", ServerBusy),
        ("UNAVAILABLE", "Request timeout expired", "queue timeout", ServerBusy),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", "no server", ServerUnavailable),
        ("UNAVAILABLE", "no server at localhost:8001; to start one: tritonserver", "no server", ServerUnavailable),
        ("UNAVAILABLE", "Socket closed", "no server", ServerUnavailable),
        ("CANCELLED", "CANCELLED", "cancelled", ServerUnavailable),
        ("CANCELLED", "Channel closed!", "closed", ServerUnavailable),
        (*NO_VERSION, "no version", ServerUnavailable),
        ("NOT_FOUND", "Request for unknown model: 'cma_clop' is not found", "no model", Misconfigured),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x-key'", "restricted", Misconfigured),
        ("UNAVAILABLE", "TLS with a:1 fails (CERTIFICATE_VERIFY_FAILED)", "tls", Misconfigured),
        (*DEAD_STUB, "dead stub", ServerFailed),
        ("INTERNAL", "incident 0123456789ab, see the server's log", "internal", ServerFailed),
        ("DEADLINE_EXCEEDED", "", "deadline", DeadlineExceeded),
        ("FAILED_PRECONDITION", "a:1 serves label set x, expected label set y", "label set", LabelSetChanged),
        ("RESOURCE_EXHAUSTED", "message too large", "other", ClassifierError),
    ],
)
def test_what_is_seen_has_its_row(code, message, name, error):
    assert (rule_for(code, message).name, rule_for(code, message).error) == (name, error)


def course(replicas: int = 1, retry_for_s: float = 60.0) -> Course:
    return Course(replicas, timeout_s=2.0, retry_for_s=retry_for_s, jitter=lambda: 1.0)


def attempts(course: Course, code: str, message: str, each_takes_s: float = 0.0) -> list[Attempt]:
    """All attempts of one product that always fails in the same way."""
    made: list[Attempt] = []
    following: Attempt | None = course.first(0.0)
    while following:
        made.append(following)
        following = course.after(following, rule_for(code, message), following.not_before + each_takes_s)
    return made


@pytest.mark.parametrize(
    ("code", "message", "count"),
    [
        ("INVALID_ARGUMENT", "IMG_EMPTY: no bytes", 1),
        ("UNAVAILABLE", "This protocol is restricted", 1),
        ("NOT_FOUND", "unknown model", 1),
        ("FAILED_PRECONDITION", "label set", 1),
        ("RESOURCE_EXHAUSTED", "message too large", 1),
        ("INTERNAL", "incident 0123456789ab", 2),
        ("DEADLINE_EXCEEDED", "", 2),
    ],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_how_often_a_product_is_tried(code, message, count, replicas):
    assert len(attempts(course(replicas), code, message)) == count


@pytest.mark.parametrize(("replicas", "count"), [(1, 1), (2, 3), (3, 3)])
def test_a_dead_stub_is_tried_on_another_replica_only(replicas, count):
    made = attempts(course(replicas), *DEAD_STUB)
    assert len(made) == count
    assert all(before.replica != after.replica for before, after in itertools.pairwise(made))


@pytest.mark.parametrize("seen", [QUEUE_FULL, ("UNAVAILABLE", "Request timeout expired"), ("UNAVAILABLE", "closed")])
def test_overload_and_a_server_that_is_away_are_tried_until_it_is_too_late(seen):
    made = attempts(course(retry_for_s=60), *seen)
    assert 60 - LONGEST_PAUSE_S < made[-1].not_before <= 60
    pauses = [after.not_before - before.not_before for before, after in itertools.pairwise(made)]
    assert pauses[:4] == pytest.approx([FIRST_PAUSE_S * 2**n for n in range(4)])
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S) and pauses == pytest.approx(sorted(pauses))


@pytest.mark.parametrize("seen", [QUEUE_FULL, ("UNAVAILABLE", "closed"), DEAD_STUB, ("DEADLINE_EXCEEDED", "")])
def test_no_retry_without_time_for_it(seen):
    assert len(attempts(course(retry_for_s=0), *seen, each_takes_s=0.001)) == 1


def test_a_pause_is_spread_by_half():
    assert pause_s(3, 0.0) == pause_s(3, 1.0) / 2 == 4 * FIRST_PAUSE_S
    assert pause_s(10_000, 1.0) == LONGEST_PAUSE_S


def test_the_second_deadline_is_longer():
    assert [attempt.timeout_s for attempt in attempts(course(), "DEADLINE_EXCEEDED", "")] == [2.0, 4.0]


@pytest.mark.parametrize(
    "seen",
    [
        ("UNAVAILABLE", "Server is stopping"),
        ("UNAVAILABLE", "closed"),
        ("CANCELLED", "CANCELLED"),
        NO_VERSION,
        DEAD_STUB,
        ("DEADLINE_EXCEEDED", ""),
    ],
)
def test_another_replica_is_asked_at_once(seen):
    ours = course(replicas=3)
    first = ours.first(0.0)
    second = ours.after(first, rule_for(*seen), 0.01)
    assert second.replica != first.replica and second.not_before == 0.01
    if rule_for(*seen).retries > 1:
        third = ours.after(second, rule_for(*seen), 0.02)
        assert {first.replica, second.replica, third.replica} == {0, 1, 2} and third.not_before == 0.02


def test_a_replica_that_is_away_is_left_alone_for_a_while_and_then_takes_its_turn_again():
    ours = course(replicas=2)
    first = ours.first(0.0)
    ours.after(first, rule_for("UNAVAILABLE", "closed"), 0.0)
    assert {ours.first(FIRST_PAUSE_S / 2).replica for _ in range(4)} == {1 - first.replica}
    assert {ours.first(FIRST_PAUSE_S).replica for _ in range(4)} == {0, 1}


def test_one_crash_under_many_calls_counts_once():
    ours = course()
    broken = [ours.first(0.0) for _ in range(32)]
    for attempt in broken:
        following = ours.after(attempt, rule_for("UNAVAILABLE", "Socket closed"), 1.0)
        assert following.not_before == 1.0 + FIRST_PAUSE_S


def test_new_products_wait_for_the_only_server_too():
    ours = course()
    ours.after(ours.first(0.0), rule_for("UNAVAILABLE", "closed"), 0.0)
    assert ours.first(0.01).not_before == FIRST_PAUSE_S
    assert course(retry_for_s=0).first(0.01).not_before == 0.01


def test_dead_stubs_are_counted():
    ours = course()
    attempts(ours, *DEAD_STUB)
    attempts(ours, *DEAD_STUB)
    attempts(ours, "INTERNAL", "incident 1")
    assert ours.dead_stubs == 2 and course().dead_stubs == 0


def test_the_window_halves_once_an_overload_and_grows_back():
    window, ours = Window(32), course()
    sent = [ours.first(0.0) for _ in range(32)]
    for attempt in sent:
        ours.after(attempt, rule_for(*QUEUE_FULL), 1.0, window)
    assert window.size == 16
    ours.after(ours.first(1.5), rule_for("UNAVAILABLE", "Request timeout expired"), 2.0, window)
    assert window.size == 8
    for _ in range(9):
        ours.after(ours.first(3.0), None, 3.0, window)
    assert window.size == 9
    for _ in range(1000):
        ours.after(ours.first(3.0), None, 3.0, window)
    assert window.size == 32
    ours.after(ours.first(4.0), rule_for("INTERNAL", ""), 4.0, window)
    assert window.size == 32


def test_the_window_never_closes():
    window, ours = Window(3), course()
    for second in range(10):
        ours.after(ours.first(second), rule_for(*QUEUE_FULL), second, window)
    assert window.size == 1


def label(outcome: Answer | ClassifierError) -> str:
    assert isinstance(outcome, Answer), outcome
    return outcome.prediction["echo"]["label"]


def numbered(count: int):
    return ((str(n), None) for n in range(count))


def test_a_product_that_is_tried_again_does_not_hold_up_the_others():
    def script(title: str, times: int) -> None:
        if title == "0" and times < 4:
            raise Refuse(*QUEUE_FULL)

    with ScriptedServer(script) as server, Classifier(server.url, retry_for_s=10) as classifier:
        assert [label(outcome) for outcome in classifier.classify_many(numbered(20), 16)] == list(map(str, range(20)))
        assert server.asked.index("15") < len(server.asked) - 1 - server.asked[::-1].index("0")


def test_overload_shrinks_the_calls_that_are_open_until_all_are_served():
    gate = threading.Semaphore(4)

    def script(title: str, times: int) -> None:
        if not gate.acquire(blocking=False):
            raise Refuse(*QUEUE_FULL)
        wait_until(lambda: len(server.asked) >= 32)
        time.sleep(0.005)
        gate.release()

    with ScriptedServer(script) as server, Classifier(server.url, retry_for_s=30) as classifier:
        outcomes = list(classifier.classify_many(numbered(300), in_flight=32))
    assert [label(outcome) for outcome in outcomes] == list(map(str, range(300)))
    refused = len(server.asked) - 300
    assert 28 <= refused < 600


def test_F10_restricted_is_not_retried():
    def script(title: str, times: int) -> None:
        raise Refuse("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-key'")

    with ScriptedServer(script) as server, Classifier(server.url, retry_for_s=10) as classifier:
        with pytest.raises(Misconfigured, match="restricted"):
            classifier.classify("x")
        assert server.asked == ["x"]


def test_F2_a_dead_stub_is_left_for_the_other_replica_and_counted():
    def dead(title: str, times: int) -> None:
        raise Refuse(*DEAD_STUB)

    with ScriptedServer(dead) as broken, ScriptedServer() as whole:
        with Classifier(f"{broken.url},{whole.url}", retry_for_s=5) as classifier:
            assert [label(outcome) for outcome in classifier.classify_many(numbered(50))] == list(map(str, range(50)))
            assert 1 <= classifier.dead_stubs == len(broken.asked) < 50
        with Classifier(broken.url, retry_for_s=5) as classifier:
            with pytest.raises(ServerFailed, match="Stub process"):
                classifier.classify("alone")
            assert classifier.dead_stubs == broken.asked.count("alone") == 1


def test_F3_a_missed_deadline_is_tried_once_with_more_time():
    with (
        ScriptedServer(lambda title, times: times or server.hang()) as server,
        Classifier(server.url, timeout_s=0.5, retry_for_s=5) as classifier,
    ):
        assert label(classifier.classify("slow")) == "slow"
        assert server.asked == ["slow"] * 2
        assert server.granted_s[0] <= 0.51 < server.granted_s[1]  # gRPC sends milliseconds, rounded up


def test_F3_a_replica_that_hangs_is_left_alone():
    with (
        ScriptedServer(lambda title, times: hanging.hang()) as hanging,
        ScriptedServer() as whole,
        Classifier(f"{hanging.url},{whole.url}", timeout_s=0.5, retry_for_s=5) as classifier,
    ):
        assert [label(outcome) for outcome in classifier.classify_many(numbered(400))] == list(map(str, range(400)))
        assert len(hanging.asked) < 100


def test_F12_an_answer_says_its_label_set_and_a_pinned_one_is_enforced():
    with ScriptedServer() as server:
        with Classifier(server.url, expect_label_set=LABEL_SET) as classifier:
            assert classifier.classify("x").label_set == LABEL_SET
        with Classifier(server.url, retry_for_s=5, expect_label_set="ba9876543210") as classifier:
            with pytest.raises(LabelSetChanged) as caught:
                classifier.classify("x")
            assert str(caught.value).startswith(
                f"FAILED_PRECONDITION: {server.url} serves label set {LABEL_SET} (version 1), "
                "expected label set ba9876543210"
            )
            assert [outcome.code for outcome in classifier.classify_many(numbered(2))] == ["FAILED_PRECONDITION"] * 2
    with (
        ScriptedServer(label_set=None) as old,
        Classifier(old.url, expect_label_set=LABEL_SET) as classifier,
        pytest.raises(LabelSetChanged, match="serves no label set"),
    ):
        classifier.classify("x")


def test_a_server_that_comes_back_on_its_port_is_found_again():
    port = free_ports(1)[0]
    with Classifier(f"127.0.0.1:{port}", retry_for_s=20) as classifier:
        outcomes = classifier.classify_many(numbered(60), in_flight=8)
        with ScriptedServer(port=port):
            assert [label(next(outcomes)) for _ in range(20)] == list(map(str, range(20)))
        again = ScriptedServer(port=port)
        timer = threading.Timer(0.5, again.__enter__)
        timer.start()
        try:
            assert [label(outcome) for outcome in outcomes] == list(map(str, range(20, 60)))
        finally:
            timer.join()
            again.__exit__()


def test_a_classifier_that_is_closed_tries_nothing_again():
    with ScriptedServer(lambda title, times: server.hang()) as server, ThreadPoolExecutor(1) as pool:
        classifier = Classifier(server.url, timeout_s=60, retry_for_s=20)
        pool.submit(lambda: wait_until(lambda: len(server.asked) == 4) and classifier.close())
        outcomes = list(classifier.classify_many(numbered(4)))
        assert len(server.asked) == 4 and not server.closing.is_set()
        assert [str(outcome) for outcome in outcomes] == ["CANCELLED: Channel closed!"] * 4


@pytest.fixture
def second_server(server, tmp_path):
    with ServerProcess(server.repository, tmp_path / "server.log") as process:
        yield process


def test_F4_F5_sigterm_and_sigkill_in_mid_stream_lose_no_product(server, second_server, products):
    """Two replicas: one is stopped with calls in flight; then alone, killed and started again on its ports."""
    numbers = itertools.cycle(range(len(products)))
    alone = {}
    with Classifier(server.url) as classifier:
        for number, answer in enumerate(classifier.classify_many(products)):
            assert isinstance(answer, Answer), answer
            alone[number] = answer.probabilities

    def check(outcomes, order) -> None:
        for number, outcome in zip(order, outcomes, strict=True):
            assert isinstance(outcome, Answer), outcome
            assert abs(outcome.probabilities - alone[number]).max() < 1e-5

    with Classifier(f"{second_server.url},{server.url}", retry_for_s=60) as classifier:
        order = list(itertools.islice(numbers, 400))
        outcomes = classifier.classify_many([products[number] for number in order], in_flight=16)
        check(itertools.islice(outcomes, 100), order[:100])
        second_server.process.send_signal(signal.SIGTERM)
        check(outcomes, order[100:])
        assert second_server.process.wait(40) == 0

    second_server.start()
    with Classifier(second_server.url, retry_for_s=60) as classifier:
        outcomes = classifier.classify_many([products[number] for number in order], in_flight=16)
        check(itertools.islice(outcomes, 100), order[:100])
        kill_server(second_server)
        restart = threading.Thread(target=second_server.start)
        restart.start()
        check(outcomes, order[100:])
        restart.join()
