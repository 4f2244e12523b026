"""The bundled server as `python -m serve.launch` starts it, for tests."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from server_process import TAIL_LINES, free_ports, tritonserver
from tiny import ROOT

INFER = "/v2/models/cma_clip/infer"


class Launched:
    """A context manager: ready over HTTP inside, stopped after.

    Args:
        own: arguments of the launcher, besides profile and repository.
        prefix: a command that runs the rest of its line, as another user say.
        further: arguments of tritonserver, besides its ports.
    """

    def __init__(
        self,
        repository: Path,
        log: Path,
        profile: str,
        *own: str,
        prefix: Sequence[str] = (),
        further: Sequence[str] = (),
    ) -> None:
        self.log = log
        self.http, self.grpc, self.metrics = free_ports(3)
        ports = [f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}"]
        python = str(tritonserver().with_name("python"))
        launch = [python, "-m", "serve.launch", "--profile", profile, "--repository", str(repository)]
        self.command = [*prefix, *launch, "--config-name", "cpu", *own, "--", *ports, *further]

    def __enter__(self) -> Launched:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.ask("GET", "/v2/health/ready")[0] == 200:
                    return self
            except OSError:
                time.sleep(0.1)
        self.process.kill()
        tail = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        raise RuntimeError(f"not ready, exit status {self.process.wait()}:\n" + "\n".join(tail))

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def resident_mib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024


def listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


def nested(depth: int) -> bytes:
    data = b"[" * depth + b"]" * depth
    return b'{"inputs":[{"name":"TITLE","datatype":"BYTES","shape":[1,1],"data":' + data + b"}]}"
