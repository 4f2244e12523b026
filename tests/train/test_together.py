"""What ranks have to see alike before a stage begins."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cma_clip.command import EXIT_BAD_INPUT, command
from train.ranks import AllRefuse, Ranks
from train.together import View, alone_in, compare


class First(Ranks):
    """The first of two ranks; `others` is what the second says, in turn."""

    others: list[Any]

    def tell(self, mine: Any) -> list[Any]:
        return [mine, self.others.pop(0)]

    def barrier(self) -> None:
        pass


def first(*others: Any) -> First:
    ranks = First(0, 2, torch.device("cpu"))
    ranks.others = list(others)
    return ranks


MINE = View("one", None, {"stage": "warmup", "state": {"epoch": 1}})


def test_ranks_that_see_the_same_run_go_on(tmp_path: Path):
    compare(first(MINE._replace(host="two"), "name", True), MINE, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (View("two", "data: no such file", {}), "rank 1 on two: data: no such file"),
        (
            View("two", None, MINE.run | {"state": {"epoch": 0}}),
            r"rank 1 sees another run in .* \(state: {'epoch': 1} on one, {'epoch': 0} on two\)",
        ),
    ],
)
def test_a_rank_that_sees_another_run_is_named_with_what_differs(tmp_path: Path, other: View, message: str):
    with pytest.raises(AllRefuse, match=message):
        compare(first(other), MINE, tmp_path)


def test_an_output_that_is_read_only_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Root may write into any folder, but for one that is mounted so."""

    def refuse(path: str, *_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    @command
    def main(arguments: object = None) -> None:
        with alone_in(tmp_path):
            pass

    monkeypatch.setattr("os.open", refuse)
    assert main() == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Read-only file system: '{tmp_path}/.lock'; take another place" in line


def test_a_rank_that_does_not_find_what_the_first_wrote_is_named(tmp_path: Path):
    with pytest.raises(AllRefuse, match="of rank 0 on one is not that of rank 1 on two"):
        compare(first(MINE._replace(host="two"), "name", False), MINE, tmp_path)
