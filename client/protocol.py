"""A product as a gRPC request, the server's reply as an Answer or as an error: all of the client but the calls."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from client.errors import ClassifierError, InvalidProduct
from client.retry import rule_for

# C classes of all tasks together, K tasks

MODEL = "cma_clip"
OUTPUTS = ("PREDICTION", "PROBABILITIES", "TEXT_SHARE", "LABEL_SET")
START_SERVER = "tritonserver --model-repository deploy/ --model-config-name=cpu"
# The server refuses far smaller images; this keeps a wrong path (a video, a device) out of memory.
LARGEST_FILE_BYTES = 64 << 20
LENGTH_BYTES = 4
# deploy/preprocess lets the request with this id pass its queue.
URGENT_ID = "canary"
KEEPALIVE_MS = 5000
# gRPC doubles its pause after each failed connection, up to 2 minutes: too long to wait for a restart.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A name may stand for several replicas: calls take turns over all its addresses, and a connection that ends (the
    # server ends each after a while, serve/profiles.py) has them looked up again.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # While calls are open, a peer that says nothing for 8 s is gone; serve/profiles.py has the servers allow the pings.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),  # 60 s by default, and newer versions of gRPC go by it
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]

Title = str | bytes
Image = bytes | Path | None


@dataclass(frozen=True)
class Answer:
    """What the server says of one product.

    Attributes:
        prediction: task name -> label(s), score(s), accepted, text share.
        probabilities: float32 [C], all tasks in the bundle's order.
        text_share: λ per task, float32 [K]; 1 is title only, 0 image only.
        label_set: 12 hex digits that change with the tasks or their labels (model.tasks.TaskSet);
            None from a server that does not send it.
        model_version: the version of the ensemble that answered.
    """

    prediction: dict[str, dict[str, Any]]
    probabilities: np.ndarray
    text_share: np.ndarray
    label_set: str | None = None
    model_version: str = ""


Outcome = Answer | ClassifierError
# What to ask for a product. An error stands for one that is known to be bad; it comes back and is not sent.
Query = tuple[Title, Image] | ClassifierError


def request_for(title: Title, image: Image) -> messages.ModelInferRequest:
    """The request; it names no outputs, so all of them come back.

    Raises:
        TypeError: title or image has another type.
        OSError: the image's path cannot be read.
    """
    request = messages.ModelInferRequest()
    request.CopyFrom(_EMPTY_REQUEST)
    request.raw_input_contents.extend([_raw(_title_bytes(title)), _raw(image_bytes(image))])
    return request


def urgent(request: messages.ModelInferRequest) -> messages.ModelInferRequest:
    """The same before all others: for the canary, which must not wait with those it watches over."""
    request.id = URGENT_ID
    return request


def image_bytes(image: Image) -> bytes:
    """The encoded image, empty for None.

    Raises:
        TypeError: it is neither bytes, Path nor None.
        OSError: the path cannot be read.
    """
    if image is None or isinstance(image, bytes):
        return image or b""
    if not isinstance(image, Path):
        raise TypeError(f"image is {type(image).__name__}, expected bytes, a Path or None")
    with image.open("rb") as file:
        return file.read(LARGEST_FILE_BYTES)


def answer_of(response: messages.ModelInferResponse) -> Answer:
    raw = {tensor.name: content for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)}
    return Answer(
        prediction=json.loads(raw["PREDICTION"][LENGTH_BYTES:]),
        probabilities=np.frombuffer(raw["PROBABILITIES"], np.float32),
        text_share=np.frombuffer(raw["TEXT_SHARE"], np.float32),
        label_set=raw["LABEL_SET"][LENGTH_BYTES:].decode() if "LABEL_SET" in raw else None,
        model_version=response.model_version,
    )


def explain(status: grpc.StatusCode, details: str | None, url: str, timeout_s: float) -> ClassifierError:
    """gRPC's status as a code and one line that says what to do."""
    message = re.sub(r"^in ensemble '[^']*', ", "", " ".join((details or "").split()))
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{url} did not answer within {timeout_s:g} s"
    elif status is grpc.StatusCode.UNAVAILABLE and "connect" in message:
        message = _no_connection(message, url)
    return _error(status.name, message)


def _error(code: str, message: str) -> ClassifierError:
    """As the row of RULES for it says; the server begins what it says of a bad product with `CODE: `."""
    kind = rule_for(code, message).error
    if kind is InvalidProduct:
        refusal = re.match(r"([A-Z][A-Z0-9_]+): ", message)
        return InvalidProduct(code, message, refusal and refusal[1])
    return kind(code, message)


def _no_connection(message: str, url: str) -> str:
    tls = re.search(r"OPENSSL_internal:(\w+)", message)
    if tls:
        return f"TLS with {url} fails ({tls[1]}): does it speak TLS, and is --tls-ca the authority of its certificate?"
    if "Socket closed" in message:
        return f"{url} ends each connection; if it speaks TLS: --tls-ca, and for mutual TLS --tls-cert and --tls-key"
    return f"no server at {url}; to start one: {START_SERVER}"


def request_or_error(query: Query) -> messages.ModelInferRequest | ClassifierError:
    """As `request_for`; an image's path that cannot be read is that product's own failure."""
    if isinstance(query, ClassifierError):
        return query
    try:
        return request_for(*query)
    except OSError as error:
        return InvalidProduct("INVALID_ARGUMENT", f"{error.filename}: {error.strerror}")


def _title_bytes(title: Title) -> bytes:
    if not isinstance(title, str | bytes):
        raise TypeError(f"title is {type(title).__name__}, expected str or bytes")
    return title.encode(errors="surrogatepass") if isinstance(title, str) else title


def _raw(value: bytes) -> bytes:
    """A BYTES tensor of one element."""
    return len(value).to_bytes(LENGTH_BYTES, "little") + value


def _empty_request() -> messages.ModelInferRequest:
    inputs = [
        messages.ModelInferRequest.InferInputTensor(name=name, datatype="BYTES", shape=[1, 1])
        for name in ("TITLE", "IMAGE")
    ]
    return messages.ModelInferRequest(model_name=MODEL, inputs=inputs)


_EMPTY_REQUEST = _empty_request()
