"""Ask the server for a whole catalogue; killed at any moment, the same command goes on where it was.

python -m client.predict --csv products.csv --id-column sku --title-column name --image-column photo \\
    --url host:8001,host2:8001 --output answers.parquet
python -m client.predict --data data/mine --split test --output answers.csv

Each id is once in the output or, with code and message, in OUTPUT.rejects.csv; OUTPUT.json sums up.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from client.classifier import Classifier
from client.errors import ClassifierError
from client.options import add_server_options, check_server_options, session_arguments
from client.predict.answers import Progress, beside, finished, record
from client.predict.catalogue import Catalogue, Entry, open_catalogue
from client.protocol import Outcome, Query
from dataset.format import SPLITS

PART_ROWS, PART_S = 1000, 10.0
# So many products in a row that fail by the server's fault are a fault of the server, not of the products.
FAILED_IN_A_ROW = 50


class Stopped(Exception):
    """The run ends before the catalogue does; the same command goes on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all asked for, 1 stopped on the way, 2 a wrong command line or table."""
    options = _parse(arguments)
    try:
        catalogue = open_catalogue(options)
        summary = None if options.overwrite else finished(options.output, catalogue.settings)
        if summary is not None:
            print(f"{options.output}: already there, of the same catalogue ({_told(summary)})")
            return 0
        progress = Progress(options.output, catalogue.settings, options.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with progress, StopSignal() as stop:
            _ask_all(catalogue, progress, options, stop)
            summary = progress.finish()
    except (Stopped, OSError, ValueError) as reason:
        print(f"stopped: {reason}; {progress.done} rows are done, the same command goes on", file=sys.stderr)
        return 1
    print(f"{options.output}: {_told(summary)}")
    if summary["rejected"]:
        print(f"{beside(options.output, 'rejects.csv')}: {_codes(summary)}")
    return 0


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
            os._exit(1)  # as safe as kill -9
        self.came = True


def _ask_all(catalogue: Catalogue, progress: Progress, options: argparse.Namespace, stop: StopSignal) -> None:
    """Ask for all rows that are not done; those whose outcome has come are written even where it ends badly.

    Raises:
        Stopped: the server cannot go on.
    """
    pinned = {"expect_label_set": options.label_set or progress.state["label_set"]}
    recorder = Recorder(progress)
    with (
        Classifier(**session_arguments(options) | pinned) as classifier,
        tqdm(total=catalogue.count(), initial=progress.done, unit=" products", disable=None) as bar,
    ):
        entries = takewhile(lambda _: not stop.came, catalogue.entries(skip=progress.done))
        try:
            for entry, outcome in ask(classifier, entries, options.in_flight):
                _check(outcome, progress, classifier)
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

    def products() -> Iterator[Query]:
        for entry in entries:
            under_way.append(entry)
            yield entry.product

    for outcome in classifier.classify_many(products(), in_flight):
        yield under_way.popleft(), outcome


class Recorder:
    """Outcomes, in order, to parts.

    Attributes:
        records: rows for the next part.
        suspects: those after them, all failed by the server's fault; they count once another product does better.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.records: list[dict[str, Any]] = []
        self.suspects: list[dict[str, Any]] = []
        self.written = time.monotonic()

    def add(self, entry: Entry, outcome: Outcome) -> None:
        """Take one row.

        Raises:
            Stopped: too many failed in a row; none of these is recorded.
        """
        self.suspects.append(record(entry, outcome))
        if _servers_fault(outcome):
            if len(self.suspects) >= FAILED_IN_A_ROW:
                raise Stopped(f"{len(self.suspects)} products in a row failed, the last with {outcome}")
            return
        self._settle()
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
        self.records.extend(self.suspects)
        self.suspects = []


def _check(outcome: Outcome, progress: Progress, classifier: Classifier) -> None:
    """Hold the run to the label set of its first answer.

    Raises:
        Stopped: this outcome says that all further products would fail too, or be answered by other labels.
    """
    if isinstance(outcome, ClassifierError):
        if outcome.ends_run:
            raise Stopped(str(outcome))
        return
    pinned = progress.state["label_set"]
    if pinned is None and outcome.label_set is not None:
        progress.pin(outcome.label_set)
        classifier.expect_label_set = outcome.label_set
    elif pinned != outcome.label_set:
        raise Stopped(f"the server's label set is {outcome.label_set}, that of the rows done so far {pinned}")


def _servers_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, ClassifierError) and outcome.code != "INVALID_ARGUMENT"


def _warn(catalogue: Catalogue, classifier: Classifier) -> None:
    if classifier.dead_stubs:
        said = f"{classifier.dead_stubs} answers said that a python process of a server is dead"
        print(f"ALARM: {said}: restart that server", file=sys.stderr)
    if catalogue.replaced:
        ids = ", ".join(map(repr, catalogue.replaced_ids))
        said = f"bytes that are no UTF-8 were replaced in {catalogue.replaced} titles"
        print(f"warning: {said}, such as {ids}", file=sys.stderr)


def _told(summary: dict[str, Any]) -> str:
    rejected = summary["rows"] - summary["answered"]
    return f"{summary['answered']} of {summary['rows']} rows answered, {rejected} rejected"


def _codes(summary: dict[str, Any]) -> str:
    return ", ".join(f"{code} {count}" for code, count in summary["rejected"].items())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m client.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help="comma-separated UTF-8 file with a header")
    source.add_argument("--parquet", type=Path, help="Parquet file, or a directory of them")
    source.add_argument("--data", type=Path, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test", help="of --data (%(default)s)")
    parser.add_argument("--id-column", help="without it row numbers serve as ids")
    parser.add_argument("--title-column")
    parser.add_argument("--image-column", help="paths; in Parquet also encoded bytes")
    parser.add_argument("--image-root", type=Path, help="folder of the pictures; default: the table's")
    parser.add_argument(
        "--replace-invalid-utf8", action="store_true", help="of a CSV: read such bytes as U+FFFD instead of rejecting"
    )
    parser.add_argument("--output", type=Path, required=True, help="the answers, .parquet or .csv")
    parser.add_argument("--overwrite", action="store_true", help="replace the output of another run")
    parser.add_argument("--in-flight", type=int, default=32, metavar="N", help="calls open at a time (%(default)s)")
    add_server_options(parser, timeout_s=10.0, retry_for_s=60.0)
    options = parser.parse_args(arguments)
    check_server_options(parser, options)
    if options.output.suffix not in (".parquet", ".csv"):
        parser.error(f"--output {options.output}: expected a name that ends with .parquet or .csv")
    if not options.data and not (options.title_column or options.image_column):
        parser.error("give --title-column, --image-column or both")
    if options.in_flight < 1:
        parser.error(f"--in-flight is {options.in_flight}, expected 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
