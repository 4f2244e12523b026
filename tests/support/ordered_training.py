"""train/main.py that notes, in the order-rankN.jsonl of the folder $ORDER, each micro-batch that a rank takes: the
updates that were done by then, and the products.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from train import loop
from train.data import Batch
from train.main import main

FILE = Path(os.environ["ORDER"], f"order-rank{os.environ['RANK']}.jsonl")
update = loop.StageLoop._update


def noted_update(self: loop.StageLoop, batches: Iterator[Batch]) -> tuple[bool, bool]:
    return update(self, _noted(batches, self._updates_done()))


def _noted(batches: Iterator[Batch], updates: int) -> Iterator[Batch]:
    for batch in batches:
        with FILE.open("a") as file:
            file.write(json.dumps([updates, batch.ids]) + "\n")
        yield batch


loop.StageLoop._update = noted_update

if __name__ == "__main__":
    sys.exit(main())
