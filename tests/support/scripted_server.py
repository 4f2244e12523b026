"""A gRPC server in this process that answers as a test wants: real status codes, real deadlines, no Triton."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

LABEL_SET = "0123456789ab"
FLOATS = ("PROBABILITIES", "TEXT_SHARE")
Script = Callable[[str, int], object]


class Refuse(Exception):
    """What a script raises: the status and the message that the caller gets."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = grpc.StatusCode[code], message


class ScriptedServer(services.GRPCInferenceServiceServicer):
    """Answers each product with its title; a context manager.

    Args:
        script: called with the title and how often it was asked for before; may raise Refuse or take its time.
        port: 0 takes a free one.
        credentials: with them it speaks TLS only.
        host: the address that it listens on.
        options: of gRPC's server.

    Attributes:
        asked: the titles in the order of their arrival; open, most_open: calls under way.
        granted_s: how long each caller said it would wait, in the same order.
        given_up: calls that ended before they were answered.
        label_set, version, modality, probabilities, ready: what it says from now on.
    """

    def __init__(
        self,
        script: Script = lambda title, times: None,
        port: int = 0,
        label_set: str | None = LABEL_SET,
        credentials: grpc.ServerCredentials | None = None,
        host: str = "127.0.0.1",
        options: Sequence[tuple[str, int]] = (),
    ):
        self.script, self.label_set, self.version = script, label_set, "1"
        self.modality, self.probabilities, self.ready = "title_and_image", (0.5, 0.5), True
        self.asked: list[str] = []
        self.granted_s: list[float] = []
        self.open = self.most_open = self.given_up = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0), *options])
        services.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        address = f"{host}:{port}"
        add, more = (self.server.add_secure_port, [credentials]) if credentials else (self.server.add_insecure_port, [])
        self.port = add(address, *more)
        self.url = f"{host}:{self.port}"

    def __enter__(self) -> ScriptedServer:
        self.server.start()
        return self

    def hang(self) -> None:
        """For scripts: as long as this server lives (at most a minute), so that no clock decides a test."""
        self.closing.wait(60)

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.stop(grace=None).wait()

    def ModelReady(self, request, context):
        return messages.ModelReadyResponse(ready=self.ready)

    def ModelInfer(self, request, context):
        title = request.raw_input_contents[0][4:].decode()
        working = {title}
        with self.lock:
            times = self.asked.count(title)
            self.asked.append(title)
            self.granted_s.append(context.time_remaining())
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        context.add_callback(lambda: self._ended(title in working))
        try:
            self.script(title, times)
            working.clear()
            return self.answer(title, image_bytes=len(request.raw_input_contents[1]) - 4)
        except Refuse as refusal:
            working.clear()
            context.abort(refusal.code, refusal.message)
        finally:
            with self.lock:
                self.open -= 1

    def _ended(self, unanswered: bool) -> None:
        with self.lock:
            self.given_up += unanswered

    def answer(self, title: str, image_bytes: int) -> messages.ModelInferResponse:
        told = {"label": title, "score": 0.5, "labels": [title], "scores": [0.5], "accepted": True, "text_share": 0.25}
        told["modality"] = self.modality
        raw = {
            "PREDICTION": text(json.dumps({"echo": told | {"image_bytes": image_bytes}}).encode()),
            "PROBABILITIES": struct.pack("<2f", *self.probabilities),
            "TEXT_SHARE": struct.pack("<f", 0.25),
        }
        if self.label_set is not None:
            raw["LABEL_SET"] = text(self.label_set.encode())
        response = messages.ModelInferResponse(model_name="cma_clip", model_version=self.version)
        for name, content in raw.items():
            kind = {"datatype": "FP32", "shape": [1, len(content) // 4]} if name in FLOATS else {"datatype": "BYTES"}
            response.outputs.add(**{"name": name, "shape": [1, 1]} | kind)
            response.raw_output_contents.append(content)
        return response


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value
