"""The asyncio classifier: same answers, window, retries and errors as the blocking one."""

from __future__ import annotations

import asyncio
import time

import pytest
from scripted_server import LABEL_SET, Refuse, ScriptedServer
from server_process import free_ports
from waiting import wait_until

from client import (
    Answer,
    AsyncClassifier,
    Classifier,
    ClassifierError,
    DeadlineExceeded,
    InvalidProduct,
    LabelSetChanged,
)


async def collect(url: str, products, in_flight: int = 32, **settings):
    async with AsyncClassifier(url, **settings) as classifier:
        return [outcome async for outcome in classifier.classify_many(products, in_flight)]


def label(outcome) -> str:
    assert isinstance(outcome, Answer), outcome
    return outcome.prediction["echo"]["label"]


def test_one_product_as_the_blocking_classifier_answers_it():
    async def ask(url: str) -> Answer:
        async with AsyncClassifier(url) as classifier:
            return await classifier.classify("red dress", b"123")

    with ScriptedServer() as server, Classifier(server.url) as blocking:
        ours, theirs = asyncio.run(ask(server.url)), blocking.classify("red dress", b"123")
    assert ours.prediction == theirs.prediction and ours.label_set == theirs.label_set == LABEL_SET
    assert ours.probabilities.tolist() == theirs.probabilities.tolist()


def test_order_and_window():
    def late_if_even(title: str, times: int) -> None:
        wait_until(lambda: server.most_open >= 6)
        time.sleep(0.01 if int(title) % 2 else 0.02)

    with ScriptedServer(late_if_even) as server:
        outcomes = asyncio.run(collect(server.url, ((str(n), None) for n in range(40)), in_flight=6))
        assert [label(outcome) for outcome in outcomes] == [str(n) for n in range(40)]
        assert server.most_open == 6


def test_failed_attempts_are_repeated_and_refusals_are_not(tmp_path):
    def script(title: str, times: int) -> None:
        if title == "busy" and times < 2:
            raise Refuse("UNAVAILABLE", "Exceeds maximum queue size")
        if title == "bad":
            raise Refuse("INVALID_ARGUMENT", "in ensemble 'cma_clip', IMG_TRUNCATED: cut off")

    products = [("a", None), ("busy", None), ("bad", None), ("file", tmp_path / "absent.jpg"), ("z", None)]
    with ScriptedServer(script) as server:
        outcomes = asyncio.run(collect(server.url, products, retry_for_s=5))
        assert [label(outcomes[n]) for n in (0, 1, 4)] == ["a", "busy", "z"]
        assert [outcomes[n].refusal for n in (2, 3)] == ["IMG_TRUNCATED", None]
        assert all(isinstance(outcomes[n], InvalidProduct) for n in (2, 3))
        assert str(outcomes[2]) == "INVALID_ARGUMENT: IMG_TRUNCATED: cut off"
        assert str(outcomes[3]).startswith(f"INVALID_ARGUMENT: {tmp_path}/absent.jpg")
        assert server.asked.count("busy") == 3 and server.asked.count("bad") == 1


def test_a_refused_connection_goes_to_the_other_replica():
    down = f"127.0.0.1:{free_ports(1)[0]}"
    with ScriptedServer() as server:
        start = time.monotonic()
        outcomes = asyncio.run(
            collect(f"{down},{server.url}", ((str(n), None) for n in range(20)), timeout_s=20, retry_for_s=20)
        )
        assert [label(outcome) for outcome in outcomes] == [str(n) for n in range(20)]
        assert time.monotonic() - start < 10


def test_a_deadline_and_a_pinned_label_set_are_errors():
    async def refused(url: str, **settings) -> ClassifierError:
        async with AsyncClassifier(url, **settings) as classifier:
            with pytest.raises(ClassifierError) as caught:
                await classifier.classify("x")
        return caught.value

    with ScriptedServer(lambda title, times: times or server.hang()) as server:
        error = asyncio.run(refused(server.url, timeout_s=0.1))
        assert isinstance(error, DeadlineExceeded)
        assert str(error) == f"DEADLINE_EXCEEDED: {server.url} did not answer within 0.1 s"
        error = asyncio.run(refused(server.url, expect_label_set="ba9876543210"))
        assert isinstance(error, LabelSetChanged)
        assert error.code == "FAILED_PRECONDITION" and LABEL_SET in error.message and "ba9876543210" in error.message


def test_products_that_nobody_waits_for_are_cancelled():
    async def first_of_many(url: str) -> bool:
        async with AsyncClassifier(url, timeout_s=60) as classifier:
            outcomes = classifier.classify_many((str(n), None) for n in range(8))
            await anext(outcomes)
            await asyncio.to_thread(wait_until, lambda: server.open == 7)
            await outcomes.aclose()
            return await asyncio.to_thread(wait_until, lambda: server.given_up == 7, 20)

    with ScriptedServer(lambda title, times: server.hang() if title != "0" else None) as server:
        assert asyncio.run(first_of_many(server.url))
