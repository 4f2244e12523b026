"""The client where no server answers; with a server: test_served.py."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest

from client import classify
from client.classifier import Answer, Classifier, ClassifierError


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class EchoServer:
    """In place of tritonclient: answers with the title as its number, late ones first."""

    def __init__(self):
        self.open = self.most_open = 0
        self.lock = threading.Lock()

    def async_infer(self, model, inputs, callback, outputs, client_timeout):
        title = inputs[0]._get_content()[4:].decode()
        with self.lock:
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        threading.Timer(0.02 if int(title) % 2 else 0.04, self.finish, (callback, title)).start()

    def finish(self, callback, title):
        with self.lock:
            self.open -= 1
        callback(EchoResult(title), None)

    def close(self):
        pass


class EchoResult:
    def __init__(self, title):
        self.title = title

    def as_numpy(self, name):
        if name == "PREDICTION":
            return np.array([[json.dumps({"title": self.title}).encode()]], dtype=object)
        return np.array([[float(self.title)]], np.float32)


@pytest.fixture
def echo():
    classifier = Classifier("127.0.0.1:1")
    classifier._triton = EchoServer()
    return classifier


def test_an_answer_has_the_three_outputs(echo):
    answer = echo.classify("7")
    assert answer.prediction == {"title": "7"}
    assert answer.probabilities.tolist() == answer.text_share.tolist() == [7]


def test_classify_many_keeps_order_and_window(echo):
    answers = list(echo.classify_many(((str(n), None) for n in range(40)), in_flight=6))
    assert [answer.prediction["title"] for answer in answers] == [str(n) for n in range(40)]
    assert echo._triton.most_open == 6


def test_classify_many_takes_no_more_than_it_sends(echo):
    taken = []
    answers = echo.classify_many(((str(taken.append(n) or n), None) for n in range(40)), in_flight=4)
    next(answers)
    assert len(taken) == 5


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda c: c.classify(7), "title is int"),
        (lambda c: c.classify("x", "photo.jpg"), "image is str"),
        (lambda c: Classifier(timeout_s=0), "timeout_s is 0"),
        (lambda c: c.classify_many([], in_flight=0), "in_flight is 0"),
    ],
)
def test_wrong_arguments_are_named(echo, call, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        call(echo)


def test_no_server_says_how_to_start_one(free_port):
    url = f"127.0.0.1:{free_port}"
    with Classifier(url) as classifier, pytest.raises(ClassifierError) as caught:
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
        pytest.raises(ClassifierError) as caught,
    ):
        classifier.classify("red dress")
    assert time.monotonic() - start < 3
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert caught.value.message == f"127.0.0.1:{silent_port} did not answer within 0.5 s"


def test_wait_until_ready_ends(free_port):
    start = time.monotonic()
    with (
        Classifier(f"127.0.0.1:{free_port}") as classifier,
        pytest.raises(ClassifierError, match="no server at"),
    ):
        classifier.wait_until_ready(timeout_s=0.5)
    assert 0.5 <= time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --title, --image or both"),
        (["--image", "absent.jpg"], "absent.jpg: no such file"),
        (["--title", "x", "--timeout", "0"], "--timeout is 0.0"),
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
        "colour": {"label": "red", "score": 0.91, "accepted": True, "text_share": 0.25},
        "pattern": {"labels": [], "scores": [], "accepted": False, "text_share": 1.0},
    }
    monkeypatch.setattr(Classifier, "classify", lambda *arguments: Answer(prediction, np.empty(0), np.empty(0)))
    assert classify.main(["--title", "x"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["task", "label", "score", "accepted", "text", "share"],
        ["colour", "red", "0.910", "yes", "0.25"],
        ["pattern", "-", "-", "no", "1.00"],
    ]
    assert classify.main(["--title", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == prediction
