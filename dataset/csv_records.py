"""CSV records out of physical lines: a stray quote costs the line that it stands in, not the lines after it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

STRAY = 'a quote (") opens a cell that is not closed before a comma; a quote that belongs to a text is doubled'


@dataclass(frozen=True)
class Record:
    """One record. `line`: the physical line that it begins on, from 1; `problem`: why it is no row, empty if it is one.

    The cells of one with a problem are a guess, good enough to say which row it was.
    """

    line: int
    cells: list[str]
    problem: str = ""


class Lines:
    """The physical lines of a file, which can be given back; `number` of the last one taken, from 1."""

    def __init__(self, file: Iterable[str]) -> None:
        self.file, self.number = iter(file), 0
        self.given_back: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.given_back.popleft() if self.given_back else next(self.file)
        self.number += 1
        return line

    def give_back(self, lines: list[str]) -> None:
        self.given_back.extendleft(reversed(lines))
        self.number -= len(lines)


def read_header(lines: Lines) -> list[str]:
    """The first record; empty where there is none.

    Raises:
        ValueError: it is not one.
    """
    first = next(lines, "")
    if not first.strip("\r\n"):
        return []
    cells, _ = _quoted(first, lines, len(first))
    if isinstance(cells, csv.Error):
        raise ValueError(f"line 1: the header is not a CSV row ({cells})")
    return cells


def read_records(lines: Lines, width: int) -> Iterator[Record]:
    """The records after the header, of `width` cells each; blank lines are none.

    A cell in quotes may go over lines. Where its end is not found, or the record would not fit the header, only its
    first line is given up, and reading goes on at the line after that.
    """
    for first in lines:
        if not first.strip("\r\n"):
            continue
        line = lines.number
        if '"' not in first and len(first) < csv.field_size_limit():
            plain = first.rstrip("\r\n").split(",")
            yield Record(line, plain, _wrong_number(plain, width))
            continue
        cells, more = _quoted(first, lines, width)
        if isinstance(cells, csv.Error) or (more and len(cells) != width):
            lines.give_back(more)
            yield _single(line, first, width)
        elif more and _could_be_rows([first, *more], width):
            problem = f'lines {line} to {line + len(more)} are one cell in quotes, or rows with a stray quote (")'
            yield from (Record(line + n, _guess(text), problem) for n, text in enumerate([first, *more]))
        else:
            yield Record(line, cells, _wrong_number(cells, width))


def _quoted(first: str, lines: Lines, width: int) -> tuple[list[str] | csv.Error, list[str]]:
    """The record that begins with `first`, by the book, and the further lines that were read for it."""
    more: list[str] = []

    def feed() -> Iterator[str]:
        yield first
        quotes = 0
        for line in lines:
            more.append(line)
            # A record has two quotes a cell beside doubled ones: with more of them it will not fit any more, and a
            # file of stray quotes is read in time that grows with its size, not with the square.
            quotes += line.replace('""', "").count('"')
            if quotes > 2 * width:
                return
            yield line

    try:
        return next(csv.reader(feed(), strict=True)), more
    except csv.Error as error:
        return error, more


def _single(line: int, text: str, width: int) -> Record:
    """A line for itself; text after a closed quote is taken as it stands, as spreadsheets do."""
    reader = csv.reader([text, '"'])
    try:
        cells = next(reader)
    except csv.Error as error:
        return Record(line, _guess(text), f"not a CSV row: {error}")
    if reader.line_num > 1:
        return Record(line, _guess(text), STRAY)
    return Record(line, cells, _wrong_number(cells, width))


def _wrong_number(cells: list[str], width: int) -> str:
    return "" if len(cells) == width else f"{len(cells)} cells, the header has {width}"


def _could_be_rows(texts: list[str], width: int) -> bool:
    """Whether each line has the cells of a row; prose, which has a blank after its commas, does not count."""
    return width > 1 and all(text.count(",") >= width - 1 and ", " not in text for text in texts)


def _guess(text: str) -> list[str]:
    return [cell.strip('"') for cell in text.rstrip("\r\n").split(",")]
