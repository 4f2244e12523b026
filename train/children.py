"""Commands of ours as child processes that end in order: a stop reaches the ranks, which save."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from cma_clip.command import EXIT_BAD_INPUT, EXIT_NO_MEMORY, Failure, NoMemory, Stopped

LOOK_EVERY_S = 0.5
FAILURES = {EXIT_BAD_INPUT: ValueError, EXIT_NO_MEMORY: NoMemory}


class Children:
    """Runs commands, several at once from several threads, until `stop`."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()

    def work(
        self,
        what: str,
        words: list[str],
        log: Path,
        output: Path | None = None,
        env: Mapping[str, str] | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """`python -m WORDS`.

        Args:
            what: it is, for people.
            log: gets what the command writes, at the end of what is there.
            output: gets its standard output instead, and nothing else.
            env: over the environment.
            look: called every LOOK_EVERY_S while it runs.
        Raises:
            Stopped: by `stop`.
            ValueError: its input is wrong; with its last line.
            NoMemory: a device has not the memory; with its last line.
            Failure: it failed otherwise; with its last line.
        """
        code = None if self.stopping.is_set() else self._wait(words, log, output, env or {}, look)
        if code != 0 and self.stopping.is_set():
            raise Stopped("what is done is kept")
        if code:
            lines = log.read_text(errors="replace").splitlines()
            said = next((line for line in reversed(lines) if line.startswith("error: ")), f"exit code {code}")
            raise FAILURES.get(code, Failure)(f"{what}: {said.removeprefix('error: ')} (all of it: {log})")

    def stop(self, *_: object) -> None:
        """End all children and start no more; fit to be a signal's handler."""
        self.stopping.set()
        for child in list(self.running):
            os.killpg(child.pid, signal.SIGTERM)

    def _wait(
        self, words: list[str], log: Path, output: Path | None, env: Mapping[str, str], look: Callable[[], None]
    ) -> int:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [sys.executable, "-m", "train.child", str(os.getpid()), *words]
        with (
            log.open("ab") as file,
            output.open("wb") if output else nullcontext(file) as out,
            subprocess.Popen(
                command, env=os.environ | {"PATH": path, **env}, stdout=out, stderr=file, start_new_session=True
            ) as child,
        ):
            self.running.add(child)
            if self.stopping.is_set():  # it came while the child was started
                self.stop()
            while True:
                try:
                    child.wait(LOOK_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    look()
            self.running.discard(child)
        return child.returncode


def free_port() -> int:
    """For ranks to meet at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
