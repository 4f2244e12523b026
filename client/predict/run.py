"""One batch run: rows to a server, outcomes to parts, until the catalogue ends, the server fails, or a signal comes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any

from tqdm import tqdm

from client.classifier import Classifier
from client.errors import ClassifierError
from client.options import session_arguments
from client.predict.answers import Progress, Summary, record
from client.predict.catalogue import Catalogue, Entry
from client.predict.doubts import FAILED_IN_A_ROW, Doubts, Suspect, servers_fault
from client.protocol import Answer, Outcome, Query
from cma_clip.command import EXIT_STOPPED, Stopped
from dataset.resume import work_on

PART_ROWS, PART_S = 1000, 10.0


def ask_for(catalogue: Catalogue, options: argparse.Namespace) -> Summary:
    """Ask for all rows that are not done, and write the output.

    Raises:
        Stopped: a signal came, or the server cannot go on; what is done stays for the next run.
        ValueError: another run is at it, or it was begun with other settings.
    """
    with work_on(options.output, catalogue.settings, clear=options.overwrite) as work, StopSignal() as stop:
        progress = Progress(options.output, work, catalogue.settings)
        try:
            _ask_all(catalogue, progress, options, stop)
        except Stopped as reason:
            raise Stopped(f"{reason}; {progress.done} rows are done") from None
        return progress.finish()


class StopSignal:
    """Ctrl-C or SIGTERM: nothing further is asked, what is open is waited for; at the second one the process ends.

    No exception: it would strike in the middle of gRPC or of a thread pool and could leave the process hanging.
    """

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> StopSignal:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self.came:
            os._exit(EXIT_STOPPED)  # as safe as kill -9
        self.came = True


def _ask_all(catalogue: Catalogue, progress: Progress, options: argparse.Namespace, stop: StopSignal) -> None:
    """Ask for all rows that are not done; those whose outcome has come are written even where it ends badly.

    Raises:
        Stopped: the server cannot go on.
    """
    pinned = {"expect_label_set": options.label_set or progress.label_set}
    with (
        Classifier(**session_arguments(options) | pinned) as classifier,
        tqdm(total=catalogue.source.count(), initial=progress.done, unit=" products", disable=None) as bar,
        catalogue.entries(progress.rows_done()) as rows,
    ):
        check = partial(_check, progress, classifier)
        recorder = Recorder(progress, Doubts(classifier, options.retry_for, check, lambda: stop.came))
        entries = takewhile(lambda _: not stop.came, rows)
        try:
            for entry, outcome in ask(classifier, entries, options.in_flight):
                check(outcome)
                recorder.add(entry, outcome)
                bar.update()
            if stop.came:
                raise Stopped("by a signal")
            recorder.end()
        finally:
            recorder.flush()
            _warn(catalogue, classifier)


def ask(classifier: Classifier, entries: Iterable[Entry], in_flight: int) -> Iterator[tuple[Entry, Outcome]]:
    """Each row with its outcome, in order."""
    under_way: deque[Entry] = deque()

    def queries() -> Iterator[Query]:
        for entry in entries:
            under_way.append(entry)
            yield entry.query

    for outcome in classifier.classify_many(queries(), in_flight):
        yield under_way.popleft(), outcome


class Recorder:
    """Outcomes, in order, to parts.

    Attributes:
        records: rows for the next part.
        suspects: those after them, all failed by the server's fault; they count once it is clear who was at fault.
    """

    def __init__(self, progress: Progress, doubts: Doubts) -> None:
        self.progress, self.doubts = progress, doubts
        self.records: list[dict[str, Any]] = []
        self.suspects: list[Suspect] = []
        self.written = time.monotonic()

    def add(self, entry: Entry, outcome: Outcome) -> None:
        """Take one row.

        Raises:
            Stopped: the server is at fault; no row that it failed in is recorded.
        """
        if servers_fault(outcome):
            self.suspects.append((entry, outcome))
            if len(self.suspects) < FAILED_IN_A_ROW:
                return
            self._settle()
        else:
            if isinstance(outcome, Answer):
                self.doubts.note_answered(entry)
            self._settle()
            self.records.append(record(entry, outcome))
        if len(self.records) >= PART_ROWS or time.monotonic() > self.written + PART_S:
            self.flush()

    def end(self) -> None:
        """After the last row."""
        self._settle()
        self.flush()

    def flush(self) -> None:
        """Write a part."""
        records, self.records = self.records, []
        if records:
            self.progress.add(records)
        self.written = time.monotonic()

    def _settle(self) -> None:
        settled, self.suspects = self.doubts.settle(self.suspects), []
        self.records.extend(record(entry, outcome) for entry, outcome in settled)


def _check(progress: Progress, classifier: Classifier, outcome: Outcome) -> None:
    """Hold the run to the label set of its first answer.

    Raises:
        Stopped: this outcome says that all further products would fail too, or be answered by other labels.
    """
    if isinstance(outcome, ClassifierError):
        if outcome.ends_run:
            raise Stopped(str(outcome))
        return
    pinned = progress.label_set
    if pinned is None:
        progress.label_set = classifier.expect_label_set = outcome.label_set
    elif pinned != outcome.label_set:
        raise Stopped(f"the server's label set is {outcome.label_set}, that of the rows done so far {pinned}")


def _warn(catalogue: Catalogue, classifier: Classifier) -> None:
    if classifier.dead_stubs:
        said = f"{classifier.dead_stubs} answers said that a python process of a server is dead"
        print(f"ALARM: {said}: restart that server", file=sys.stderr)
    if catalogue.replaced:
        ids = ", ".join(map(repr, catalogue.replaced_ids))
        said = f"bytes that are no UTF-8 were replaced in {catalogue.replaced} titles"
        print(f"warning: {said}, such as {ids}", file=sys.stderr)
