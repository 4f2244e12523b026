"""A module run as a child: it stops with all that it started, as at SIGTERM, once its parent has gone.

python -m train.child PID MODULE [ARGUMENTS]

A parent that is killed with -9 can tell nobody. PID is the parent's, which may have gone before this looks.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

LOOK_EVERY_S = 1.0


def main() -> None:
    parent = int(sys.argv[1])
    threading.Thread(target=end_with, args=(parent,), name="parent", daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def end_with(parent: int) -> None:
    """Wait until another process is this one's parent, then end this process and all of its group."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    print(f"process {parent}, which started this one, has gone: stopping", file=sys.stderr, flush=True)
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    main()
