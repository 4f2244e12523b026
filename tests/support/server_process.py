"""A real Triton server for tests: started on free ports, stopped for sure."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from client import Classifier, ClassifierError

ROOT = Path(__file__).parents[2]
TAIL_LINES = 30


def tritonserver() -> Path:
    """The command; CMA_CLIP_TRITONSERVER names another one."""
    return Path(os.environ.get("CMA_CLIP_TRITONSERVER", ROOT / ".venv-serve/bin/tritonserver"))


class ServerProcess:
    """tritonserver over one model repository; a context manager.

    Args:
        repository: a complete model repository (deploy/ after an export).
        log_path: where the server's output goes.
        arguments: further ones for tritonserver.
    """

    def __init__(self, repository: Path, log_path: Path, *arguments: str) -> None:
        self.repository, self.log_path = repository, log_path
        http, grpc, metrics = free_ports(3)
        self.url, self.http_url = f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
        self.command = [
            str(tritonserver()),
            "--model-repository",
            str(repository),
            "--model-config-name=cpu",
            *ports,
        ]
        self.command += arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 120.0) -> ServerProcess:
        """Start and wait until the model answers.

        Raises:
            RuntimeError: the server ended, or is not ready in time; the message ends with its log's tail.
        """
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"tritonserver ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                with Classifier(self.url) as classifier:
                    classifier.wait_until_ready(0.5)
                return self
            except ClassifierError:
                pass
        self.stop()
        raise RuntimeError(f"tritonserver is not ready after {timeout_s:g} s:\n{self.log_tail()}")

    def stop(self, timeout_s: float = 40.0) -> int | None:
        """SIGTERM, and SIGKILL where that does not help; returns the exit status."""
        if self.process is None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def in_float32(repository: Path) -> Path:
    """Have OpenVINO compute in float32 on any CPU, for tests of values; by default it takes the fastest precision."""
    config = repository / "engine/configs/cpu.pbtxt"
    text = config.read_text()
    assert '"auto"' in text
    config.write_text(text.replace('"auto"', '"f32"'))
    return repository


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago, all different."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
