"""The errors that a caller can catch: what each says of itself, and that it survives another process."""

from __future__ import annotations

import pickle

import pytest
from scripted_server import Refuse, ScriptedServer

import client
from client import Classifier, ClassifierError, InvalidProduct, ServerBusy
from client.retry import RULES
from cma_clip.command import Failure


def refuse(code: str, message: str):
    def script(title: str, times: int) -> None:
        raise Refuse(code, message)

    return script


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ("in ensemble 'cma_clip', IMG_TRUNCATED: 12 of 90 bytes", "IMG_TRUNCATED"),
        ("TXT_INVALID_UTF8: byte 3", "TXT_INVALID_UTF8"),
        ("unexpected shape for input 'TITLE': [2]", None),
    ],
)
def test_a_refused_product_says_its_code(message, refusal):
    with ScriptedServer(refuse("INVALID_ARGUMENT", message)) as server, Classifier(server.url) as classifier:
        with pytest.raises(InvalidProduct) as caught:
            classifier.classify("x")
        (outcome,) = classifier.classify_many([("x", None)])
    assert caught.value.refusal == refusal and outcome.refusal == refusal
    assert caught.value.code == "INVALID_ARGUMENT" and not caught.value.ends_run


def test_a_busy_server_has_its_type_and_status():
    with (
        ScriptedServer(refuse("UNAVAILABLE", "Exceeds maximum queue size")) as server,
        Classifier(server.url) as classifier,
        pytest.raises(ServerBusy) as caught,
    ):
        classifier.classify("x")
    assert str(caught.value) == "UNAVAILABLE: Exceeds maximum queue size" and caught.value.ends_run


def test_every_error_of_the_policy_is_public_and_a_failure():
    kinds = {rule.error for rule in RULES}
    assert len(kinds) == 7
    for kind in kinds:
        assert getattr(client, kind.__name__) is kind and issubclass(kind, ClassifierError)
    assert issubclass(ClassifierError, Failure)


def test_an_error_comes_through_pickle_whole():
    error = pickle.loads(pickle.dumps(InvalidProduct("INVALID_ARGUMENT", "IMG_EMPTY: no bytes", "IMG_EMPTY")))
    assert (error.code, error.message, error.refusal) == ("INVALID_ARGUMENT", "IMG_EMPTY: no bytes", "IMG_EMPTY")
    assert str(error) == "INVALID_ARGUMENT: IMG_EMPTY: no bytes"
