"""train/main.py that is sent SIGTERM as it looks for a stop the so-manieth time: STOPPED_LOOK, from 1."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count

from train import stops
from train.main import main

PLACE = int(os.environ["STOPPED_LOOK"])
looks = count(1)
look = stops.Stop.look


def watched_look(self: stops.Stop) -> None:
    if next(looks) == PLACE:
        os.kill(os.getpid(), signal.SIGTERM)
    look(self)


stops.LOOK_EVERY_S = 0.0  # at every place where it might
stops.Stop.look = watched_look

if __name__ == "__main__":
    sys.exit(main())
