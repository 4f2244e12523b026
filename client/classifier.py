"""Ask a running server for the labels of a product, over gRPC."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

# C classes of all tasks together, K tasks

MODEL = "cma_clip"
OUTPUTS = ("PREDICTION", "PROBABILITIES", "TEXT_SHARE")
START_SERVER = "tritonserver --model-repository deploy/ --model-config-name=cpu"
# gRPC doubles its pause after each failed connection, up to 2 minutes: too long to wait for a restart.
CHANNEL = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.max_send_message_length", -1)]
CHANNEL += [("grpc.max_receive_message_length", -1)]

Product = tuple[str | bytes, bytes | Path | None]  # title, image


@dataclass(frozen=True)
class Answer:
    """What the server says of one product.

    Attributes:
        prediction: task name -> label(s), score(s), accepted, text share (model.decode.predictions).
        probabilities: float32 [C], all tasks in the bundle's order.
        text_share: λ per task, float32 [K]; 1 is title only, 0 image only.
    """

    prediction: dict[str, dict[str, Any]]
    probabilities: np.ndarray
    text_share: np.ndarray


class ClassifierError(Exception):
    """A product could not be classified.

    Attributes:
        code: gRPC's status name, such as INVALID_ARGUMENT, UNAVAILABLE or DEADLINE_EXCEEDED.
        message: one plain line; for INVALID_ARGUMENT the server's, which starts with a code such as
            IMG_TRUNCATED.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Classifier:
    """A connection to one server; use it as a context manager.

    Args:
        url: host:port of the server's gRPC endpoint.
        timeout_s: deadline of each call, seconds.
    """

    def __init__(self, url: str = "localhost:8001", timeout_s: float = 10.0) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}, expected more than 0 seconds")
        self.url, self.timeout_s = url, timeout_s
        self._triton = triton.InferenceServerClient(url, channel_args=CHANNEL)
        self._outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._triton.close()

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server answers for the model.

        Raises:
            ClassifierError: it does not within `timeout_s` seconds; the message says why.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self._triton.is_model_ready(MODEL, client_timeout=min(self.timeout_s, timeout_s)):
                    return
                error = ClassifierError("UNAVAILABLE", f"{self.url} answers, but {MODEL} is not ready")
            except InferenceServerException as failure:
                error = self._explain(failure)
            if time.monotonic() > deadline:
                raise error
            time.sleep(0.1)

    def classify(self, title: str | bytes = "", image: bytes | Path | None = None) -> Answer:
        """Classify one product; either title or image may be absent.

        Args:
            image: an encoded picture (JPEG, PNG, ...) or the path of one.
        Raises:
            ClassifierError: the server refused, failed, or did not answer in time.
            OSError: the image's path cannot be read.
        """
        answer = self._submit(title, image).result()
        if isinstance(answer, ClassifierError):
            raise answer
        return answer

    def classify_many(self, products: Iterable[Product], in_flight: int = 32) -> Iterator[Answer | ClassifierError]:
        """Classify products with at most `in_flight` calls open, so that the server can batch them.

        Yields:
            one Answer or ClassifierError per product, in order; a bad product does not stop the rest.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}, expected 1 or more")
        return self._in_order(products, in_flight)

    def _in_order(self, products: Iterable[Product], in_flight: int) -> Iterator[Answer | ClassifierError]:
        window: deque[Future[Answer | ClassifierError]] = deque()
        for title, image in products:
            if len(window) == in_flight:
                yield window.popleft().result()
            window.append(self._submit_readable(title, image))
        while window:
            yield window.popleft().result()

    def _submit_readable(self, title: str | bytes, image: bytes | Path | None) -> Future[Answer | ClassifierError]:
        """As `_submit`; a picture that cannot be read is this product's own failure."""
        try:
            return self._submit(title, image)
        except OSError as error:
            failed: Future[Answer | ClassifierError] = Future()
            failed.set_result(ClassifierError("INVALID_ARGUMENT", f"{error.filename}: {error.strerror}"))
            return failed

    def _submit(self, title: str | bytes, image: bytes | Path | None) -> Future[Answer | ClassifierError]:
        future: Future[Answer | ClassifierError] = Future()

        def finish(result: triton.InferResult | None, error: InferenceServerException | None) -> None:
            try:
                future.set_result(self._explain(error) if error else _answer(result))
            except Exception as fault:  # raised here it would end gRPC's thread and the caller would wait for ever
                future.set_exception(fault)

        inputs = [_bytes_tensor("TITLE", _title_bytes(title)), _bytes_tensor("IMAGE", _image_bytes(image))]
        self._triton.async_infer(MODEL, inputs, finish, outputs=self._outputs, client_timeout=self.timeout_s)
        return future

    def _explain(self, error: InferenceServerException) -> ClassifierError:
        """Triton's exception as a code and one line that says what to do."""
        code = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
        message = re.sub(r"^in ensemble '[^']*', ", "", " ".join((error.message() or "").split()))
        if code == "DEADLINE_EXCEEDED":
            message = f"{self.url} did not answer within {self.timeout_s:g} s"
        elif code == "UNAVAILABLE" and "connect" in message:
            message = f"no server at {self.url}; to start one: {START_SERVER}"
        return ClassifierError(code, message)


def _title_bytes(title: str | bytes) -> bytes:
    if not isinstance(title, str | bytes):
        raise TypeError(f"title is {type(title).__name__}, expected str or bytes")
    return title.encode(errors="surrogatepass") if isinstance(title, str) else title


def _image_bytes(image: bytes | Path | None) -> bytes:
    if image is None or isinstance(image, bytes):
        return image or b""
    if not isinstance(image, Path):
        raise TypeError(f"image is {type(image).__name__}, expected bytes, a Path or None")
    return image.read_bytes()


def _bytes_tensor(name: str, value: bytes) -> triton.InferInput:
    tensor = triton.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value]], dtype=object))
    return tensor


def _answer(result: triton.InferResult) -> Answer:
    prediction, probabilities, text_share = (result.as_numpy(name)[0] for name in OUTPUTS)
    return Answer(json.loads(prediction[0]), probabilities, text_share)
