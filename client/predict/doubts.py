"""Whose fault it is when products fail: the server's, or that of one product which kept the server from all others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from client.classifier import Classifier
from client.errors import ClassifierError, DeadlineExceeded, InvalidProduct
from client.predict.catalogue import Entry
from client.protocol import Answer, Outcome
from cma_clip.command import Stopped

# So many products in a row that fail by the server's fault are no chance: it is asked about one that it knows.
FAILED_IN_A_ROW = 50
PAUSE_S = 0.2

Suspect = tuple[Entry, Outcome]


def servers_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, ClassifierError) and not isinstance(outcome, InvalidProduct)


class Doubts:
    """Asks again, one product at a time, where it is not sure that a product itself is at fault.

    Args:
        patience_s: for how long a server that does not answer is waited for.
        check: is given each outcome; raises Stopped where the run must end.
        came: whether a signal came.
    Attributes:
        known: the smallest product that the server answered in this run.
    """

    def __init__(
        self, classifier: Classifier, patience_s: float, check: Callable[[Outcome], None], came: Callable[[], bool]
    ) -> None:
        self.classifier, self.patience_s, self.check, self.came = classifier, patience_s, check, came
        self.known: Entry | None = None

    def note_answered(self, entry: Entry) -> None:
        if self.known is None or _size(entry) < _size(self.known):
            self.known = entry

    def settle(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """What becomes of products that failed one after the other: who missed a deadline is asked again, alone.

        Raises:
            Stopped: the server is at fault, or a signal came.
        """
        settled: list[Suspect] = []
        well = len(suspects) < FAILED_IN_A_ROW and not _missed(suspects)
        for entry, outcome in suspects:
            well = well or self._is_well(entry, suspects)
            if isinstance(outcome, DeadlineExceeded):
                outcome = self._ask(entry)
                well = not servers_fault(outcome)
            settled.append((entry, outcome))
        return settled

    def _is_well(self, entry: Entry, suspects: Sequence[Suspect]) -> bool:
        """Whether the server answers about another product; work that nobody waits for any more may keep it busy.

        Raises:
            Stopped: it does not, though it did before or about so many others.
        """
        others = [self.known] if self.known else [other for other, _ in suspects if other is not entry]
        end = time.monotonic() + self.patience_s
        for other in _again_and_again(others, end):
            if self.came():
                raise Stopped("by a signal")
            if not servers_fault(self._ask(other)):
                return True
        if self.known or len(suspects) >= FAILED_IN_A_ROW:
            raise Stopped(f"{len(suspects)} products in a row failed, the last with {suspects[-1][1]}")
        return False

    def _ask(self, entry: Entry) -> Outcome:
        assert not isinstance(entry.query, ClassifierError)  # such a row is not asked for
        try:
            outcome: Outcome = self.classifier.classify(*entry.query)
        except ClassifierError as error:
            outcome = error
        self.check(outcome)
        if isinstance(outcome, Answer):
            self.note_answered(entry)
        return outcome


def _missed(suspects: Iterable[Suspect]) -> bool:
    return any(isinstance(outcome, DeadlineExceeded) for _, outcome in suspects)


def _again_and_again(entries: Sequence[Entry], end: float) -> Iterable[Entry]:
    """Each in turn, at least one, until the time is over."""
    while entries:
        for entry in entries:
            yield entry
            if time.monotonic() > end:
                return
        time.sleep(PAUSE_S)


def _size(entry: Entry) -> int:
    """Bytes and letters that are sent for it."""
    if isinstance(entry.query, ClassifierError):
        return 0
    title, image = entry.query
    return len(title) + (len(image) if isinstance(image, bytes) else 0)
