"""Doing harm to a real server: its python processes found, and all of it killed without a trace left behind."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from server_process import ServerProcess

STUB = b"triton_python_backend_stub"


def stubs(server: ServerProcess) -> dict[int, list[bytes]]:
    """Process id -> command line of this server's python processes, one or more a step."""
    assert server.process is not None
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command, status = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "status").read_text()
            if command[0].endswith(STUB) and f"PPid:\t{server.process.pid}\n" in status:
                found[int(folder.name)] = command
    return found


def stubs_of(server: ServerProcess, model: str) -> list[int]:
    return [pid for pid, command in stubs(server).items() if any(f"/{model}/".encode() in word for word in command)]


def kill_server(server: ServerProcess) -> None:
    """SIGKILL to the server, and to its stubs."""
    assert server.process is not None
    left = stubs(server)
    server.process.kill()
    server.process.wait()
    end_stubs(left)


def end_stubs(left: dict[int, list[bytes]]) -> None:
    """Of a server that died, as `stubs` found them before: who was at work outlives it for ever, with its memory."""
    for pid, command in left.items():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        for word in command:
            if word.startswith(b"triton_python_backend_shm"):
                (Path("/dev/shm") / word.decode()).unlink(missing_ok=True)
