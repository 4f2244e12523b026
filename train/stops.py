"""A stop that a signal asks for: when the ranks ask each other, and that all leave at the same place."""

from __future__ import annotations

import signal
import time

from train.ranks import Ranks

LOOK_EVERY_S = 5.0


class StopAgreed(Exception):
    """Some rank was asked to stop; all ranks raise it at the same place."""


class Stop:
    """Takes SIGTERM and SIGINT of this rank from now on."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.requested = ranks, False
        self.calls, self.next_look, self.looked_at = 0, 1, time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def look(self) -> None:
        """Between two pieces of work; all ranks call it alike. It asks the others every 5 s, by the slowest rank.

        Raises:
            StopAgreed: a rank was asked to stop.
        """
        self.calls += 1
        if self.calls >= self.next_look:
            self.ask()

    def ask(self) -> None:
        """As `look`, but at once."""
        elapsed = time.monotonic() - self.looked_at
        is_asked, longest = self.ranks.largest(self.requested, elapsed)
        if is_asked:
            raise StopAgreed
        # Pieces may become slower, so it grows slowly; a piece longer than 5 s is looked after each time.
        growth = min(4.0, LOOK_EVERY_S / max(longest, 1e-3))
        self.calls, self.next_look = 0, max(1, int(max(self.calls, 1) * growth))
        self.looked_at = time.monotonic()

    def _request(self, *_: object) -> None:
        self.requested = True
