"""The bundled server with the demo profile: loopback, full shared memory, malformed HTTP.

Rows of shared/TEST_MATRIX.md by name.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from launched_server import INFER, Launched, listens, nested

from client import Classifier, ClassifierError

SMALL_SHARED_MEMORY = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def demo(server, tmp_path_factory) -> Iterator[Launched]:
    """With 16 MiB of shared memory where this machine lets a test give a process its own."""
    possible = subprocess.run([*SMALL_SHARED_MEMORY, "true"], capture_output=True).returncode == 0
    prefix = SMALL_SHARED_MEMORY if possible else []
    log = tmp_path_factory.mktemp("demo") / "log"
    with Launched(server.repository, log, "demo", prefix=prefix) as launched:
        yield launched


@pytest.fixture
def small_shared_memory(demo) -> Path:
    if demo.command[: len(SMALL_SHARED_MEMORY)] != SMALL_SHARED_MEMORY:
        pytest.skip("this machine does not let a test mount a shared memory of its own")
    return Path(f"/proc/{demo.process.pid}/root/dev/shm")


def test_demo_listens_on_loopback_only(demo):
    """127.0.0.2 is this machine too, but not the address that it listens on."""
    deadline = time.monotonic() + 60  # the metrics' port is opened last, after the server is ready
    while not listens("127.0.0.1", demo.metrics) and time.monotonic() < deadline:
        time.sleep(0.1)
    for port in (demo.http, demo.grpc, demo.metrics):
        assert listens("127.0.0.1", port) and not listens("127.0.0.2", port)


def test_F6_a_request_that_finds_shared_memory_full_fails_alone(demo, small_shared_memory, products):
    with Classifier(f"127.0.0.1:{demo.grpc}", timeout_s=20) as classifier:
        before = classifier.classify(*products[0])
        with pytest.raises(ClassifierError) as caught:
            classifier.classify("red dress", b"\xff\xd8" + bytes(18_000_000))
        assert caught.value.code == "INTERNAL"
        assert "shared memory" in caught.value.message and "No space left on device" in caught.value.message
        (small_shared_memory / "full").write_bytes(bytes(free_bytes(small_shared_memory)))
        assert free_bytes(small_shared_memory) == 0
        after = classifier.classify(*products[0])
        (small_shared_memory / "full").unlink()
        with pytest.raises(ClassifierError, match="^INVALID_ARGUMENT: IMG_"):
            classifier.classify("red dress", b"\xff\xd8" + bytes(4_000_000))
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-5)


def test_F6_the_launcher_warns(demo, small_shared_memory):
    assert "launch: warning: /dev/shm has 16 MiB free, less than 1 GiB" in demo.log.read_text()


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [',
        b"hello",
        b"null",
        b"\xff\xfe{",
        b'{"inputs": 7}',
        b'{"inputs": [7]}',
        b'{"inputs": [{"name": "TITLE", "datatype": "BYTES", "shape": [-1, 1], "data": ["a"]}]}',
        nested(1_000),
        nested(10_000),
    ],
    ids=["cut", "text", "null", "not_utf8", "inputs_7", "input_7", "negative_shape", "nested_1000", "nested_10000"],
)
def test_P5_malformed_json_is_an_error_and_no_crash(demo, body):
    """2.51 answers 500 to much of it, newer ones 400. It dies of 50,000 brackets: what production refuses unread."""
    status, answer = demo.ask("POST", INFER, body)
    assert status in (400, 500) and set(json.loads(answer)) == {"error"}
    assert demo.ask("GET", "/v2/health/live")[0] == 200


def test_P5_a_zipped_body_is_an_error_and_no_crash(demo):
    """2.51 unzips all of it: the memory of 20 MB is what this costs, and nothing limits it but loopback."""
    status, answer = demo.ask("POST", INFER, gzip.compress(b" " * 20_000_000), **{"Content-Encoding": "gzip"})
    assert status in (400, 413, 500) and set(json.loads(answer)) == {"error"}
    assert demo.ask("GET", "/v2/health/live")[0] == 200
