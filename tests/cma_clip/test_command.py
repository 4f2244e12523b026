"""One line and an exit code for every way in which a command may end."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from cma_clip.command import Failure, NoMemory, Stopped, command


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ValueError("--size 0:\n expected 1 or more"), 2, "error: --size 0: expected 1 or more"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), 2, "error: [Errno 2] No such file: 'a.csv'"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a"),
            1,
            "error: [Errno 28] No space left on device: 'a'; make room there and run the same command again",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "a"),
            2,
            "error: [Errno 30] Read-only file system: 'a'; take another place for what is written",
        ),
        (OSError(errno.EIO, "Input/output error"), 1, "error: [Errno 5] Input/output error"),
        (Failure("no server at h:1"), 1, "error: no server at h:1"),
        (NoMemory("no memory for 8 products"), 71, "error: no memory for 8 products"),
        (Stopped(), 75, "stopped; the same command goes on from there"),
        (Stopped("by a signal"), 75, "stopped: by a signal; the same command goes on from there"),
        (KeyboardInterrupt(), 75, "stopped; the same command goes on from there"),
        (ValueError("Caught E in worker 0.\nTraceback\nValueError: x"), 2, "error: ValueError: x"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def main(arguments: object = None) -> None:
        raise raised

    assert main() == code
    assert capsys.readouterr().err == f"{line}\n"


def test_what_a_command_returns_is_its_code() -> None:
    assert command(lambda arguments: None)() == 0
    assert command(lambda arguments: 1)([]) == 1


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(AssertionError):
        command(lambda arguments: _fail())()


def _fail() -> int:
    raise AssertionError


def test_a_module_that_python_runs_calls_itself_by_how_it_was_started() -> None:
    started = subprocess.run([sys.executable, "-m", "client.canary", "--help"], capture_output=True, text=True)
    assert started.stdout.startswith("usage: python -m client.canary ")
