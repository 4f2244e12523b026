"""Where every command turns errors into one line and an exit code.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, though the input is right: a server that is away, a full disk, a verdict that does not hold |
| 2 | wrong input: an option, a file, a row; the line says what, where and what to do |
| 71 | the device has not the memory; the line says which setting takes less (sysexits.h: EX_OSERR) |
| 75 | stopped before its end; the same command goes on from there (sysexits.h: EX_TEMPFAIL) |
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Sequence

from cma_clip.files import NO_ROOM

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NO_MEMORY, EXIT_STOPPED = 1, 2, 71, 75
# Of all that the operating system may say, what a wrong path on the command line leads to.
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

Main = Callable[[Sequence[str] | None], int | None]


class Failure(Exception):
    """What could not be done though the input is right; the message is one line for people."""


class NoMemory(Failure):
    """A device has not the memory for what it was given; the message says which setting takes less."""


class Stopped(Exception):
    """Work that ended early, by a signal or a limit; what is done is kept and the same command goes on."""


def command(main: Main) -> Callable[..., int]:
    """A command's `main(arguments)` that returns an exit code and never shows a traceback of the user's own making."""

    @functools.wraps(main)
    def guarded(arguments: Sequence[str] | None = None) -> int:
        if main.__module__ == "__main__":
            _name_the_program()
        try:
            return main(arguments) or 0
        except (Stopped, KeyboardInterrupt) as stop:
            _say(f"stopped{': ' if str(stop) else ''}{stop}; the same command goes on from there")
            return EXIT_STOPPED
        except (ValueError, *WRONG_PATH) as error:
            _say(f"error: {one_line(error)}")
            return EXIT_BAD_INPUT
        except NoMemory as error:
            _say(f"error: {one_line(error)}")
            return EXIT_NO_MEMORY
        except (Failure, OSError) as error:
            _say(f"error: {one_line(error)}")
            return EXIT_BAD_INPUT if _is_read_only(error) else EXIT_FAILED

    return guarded


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own words, and those of another that stand behind `--`."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def _name_the_program() -> None:
    """What argparse shows as the program: of a module that python runs, how to start it again."""
    module = sys.modules["__main__"].__spec__
    if module is not None:
        sys.argv[0] = f"python -m {module.name.removesuffix('.__main__')}"


def one_line(error: BaseException) -> str:
    """The message on one line; of an error that torch hands on from a loader process with its traceback, the last."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        text += "; make room there and run the same command again"
    elif _is_read_only(error):
        text += "; take another place for what is written"
    return text.splitlines()[-1] if text.startswith("Caught ") else " ".join(text.split())


def _is_read_only(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EROFS


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
