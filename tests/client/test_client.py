"""The client against a scripted server, and where none answers; with a real one: test_served.py, test_retry.py."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from scripted_server import LABEL_SET, ScriptedServer
from waiting import wait_until

from client import Answer, Classifier, DeadlineExceeded, ServerUnavailable, classify


@pytest.fixture(scope="module")
def echo():
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def classifier(echo):
    with Classifier(echo.url) as classifier:
        yield classifier


def test_an_answer_has_the_four_outputs_and_the_version(classifier):
    answer = classifier.classify("7", b"12345")
    assert answer.prediction["echo"]["label"] == "7" and answer.prediction["echo"]["image_bytes"] == 5
    assert answer.probabilities.tolist() == [0.5, 0.5] and answer.text_share.tolist() == [0.25]
    assert (answer.label_set, answer.model_version) == (LABEL_SET, "1")


def test_classify_many_keeps_order_and_window():
    def late_if_even(title: str, times: int) -> None:
        wait_until(lambda: server.most_open >= 6)
        time.sleep(0.01 if int(title) % 2 else 0.02)

    with ScriptedServer(late_if_even) as server, Classifier(server.url) as classifier:
        answers = list(classifier.classify_many(((str(n), None) for n in range(40)), in_flight=6))
    assert [answer.prediction["echo"]["label"] for answer in answers] == [str(n) for n in range(40)]
    assert server.most_open == 6


def test_classify_many_takes_no_more_than_it_sends(classifier):
    taken = []
    answers = classifier.classify_many(((str(taken.append(n) or n), None) for n in range(40)), in_flight=4)
    next(answers)
    assert len(taken) == 4
    next(answers)
    assert len(taken) == 5


def test_a_reader_that_stops_cancels_what_is_open():
    with (
        ScriptedServer(lambda title, times: server.hang() if title != "0" else None) as server,
        Classifier(server.url, timeout_s=60) as classifier,
    ):
        answers = classifier.classify_many((str(n), None) for n in range(8))
        next(answers)
        assert wait_until(lambda: server.open == 7)
        answers.close()
        assert wait_until(lambda: server.given_up == 7, most_s=20)
        assert classifier.classify("0").label_set == LABEL_SET


def test_an_image_that_cannot_be_read_fails_alone(classifier, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    outcomes = list(classifier.classify_many([("1", tmp_path / "a.jpg"), ("2", tmp_path / "b.jpg"), ("3", None)]))
    assert outcomes[0].prediction["echo"]["image_bytes"] == 3 and outcomes[2].prediction["echo"]["label"] == "3"
    assert str(outcomes[1]) == f"INVALID_ARGUMENT: {tmp_path}/b.jpg: No such file or directory"


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda c: c.classify(7), "title is int"),
        (lambda c: c.classify("x", "photo.jpg"), "image is str"),
        (lambda c: Classifier(timeout_s=0), "timeout_s is 0"),
        (lambda c: Classifier(retry_for_s=-1), "retry_for_s is -1"),
        (lambda c: Classifier("a:1,,b:1"), "url is 'a:1,,b:1'"),
        (lambda c: c.classify_many([], in_flight=0), "in_flight is 0"),
    ],
)
def test_wrong_arguments_are_named(classifier, call, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        call(classifier)


def test_no_server_says_how_to_start_one(free_port):
    url = f"127.0.0.1:{free_port}"
    with Classifier(url) as classifier, pytest.raises(ServerUnavailable) as caught:
        classifier.classify("red dress")
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.message.startswith(f"no server at {url}; to start one: tritonserver ")


def test_no_server_is_an_error_per_product(free_port):
    with Classifier(f"127.0.0.1:{free_port}") as classifier:
        errors = list(classifier.classify_many([("a", None), ("b", None)]))
    assert [error.code for error in errors] == ["UNAVAILABLE"] * 2


def test_a_silent_server_meets_the_deadline(silent_port):
    start = time.monotonic()
    with (
        Classifier(f"127.0.0.1:{silent_port}", timeout_s=0.5) as classifier,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        classifier.classify("red dress")
    assert time.monotonic() - start < 10
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert caught.value.message == f"127.0.0.1:{silent_port} did not answer within 0.5 s"


def test_wait_until_ready_ends(free_port):
    start = time.monotonic()
    with (
        Classifier(f"127.0.0.1:{free_port}") as classifier,
        pytest.raises(ServerUnavailable, match="no server at"),
    ):
        classifier.wait_until_ready(timeout_s=0.5)
    assert 0.5 <= time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --title, --image or both"),
        (["--image", "absent.jpg"], "absent.jpg: no such file"),
        (["--title", "x", "--timeout", "0"], "--timeout is 0.0"),
        (["--title", "x", "--retry-for", "-1"], "--retry-for is -1.0"),
        (["--title", "x", "--url", "a:1,"], "--url is 'a:1,'"),
        (["--title", "x", "--tls-ca", "absent.pem"], "--tls-ca absent.pem: no such file"),
    ],
)
def test_a_wrong_command_line_ends_with_2(capsys, arguments, problem):
    with pytest.raises(SystemExit) as caught:
        classify.main(arguments)
    assert caught.value.code == 2 and problem in capsys.readouterr().err


def test_a_failed_call_is_one_line_and_ends_with_1(capsys, free_port):
    assert classify.main(["--title", "x", "--url", f"127.0.0.1:{free_port}"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and "no server at" in output.err


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    prediction = {
        "colour": {"labels": ["red"], "scores": [0.91], "accepted": True, "text_share": 0.25},
        "pattern": {"labels": [], "scores": [], "accepted": False, "text_share": 1.0},
    }
    monkeypatch.setattr(Classifier, "classify", lambda *arguments: Answer(prediction, np.empty(0), np.empty(0)))
    assert classify.main(["--title", "x"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["task", "label", "score", "accepted", "text", "share"],
        ["colour", "red", "0.910", "yes", "0.25"],
        ["pattern", "-", "-", "no", "1.00"],
    ]
    prediction["colour"] |= {"accepted": False, "refused": "no promise"}
    prediction["pattern"] |= {"labels": ["a", "b"], "scores": [0.9, 0.6], "accepted": True, "accepted_labels": ["a"]}
    assert classify.main(["--title", "x"]) == 0
    assert [line.split()[-4:-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["no", "(no", "promise)"],
        ["0.900,", "0.600", "a"],
    ]
    assert classify.main(["--title", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == prediction
