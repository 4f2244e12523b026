"""A small data set that a console shows, the answers to it, and an audit of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data_set_files import picture

from client.console.access import Access
from client.console.app import make_app
from client.console.catalog import Catalog
from client.console.decisions import Decisions, Reviewer
from client.console.queue import Queue
from client.console.state import Console
from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import MultiLabel, SingleLabel

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
COLOR = SingleLabel(name="color", labels=["blue", "green", "red"])
TAGS = MultiLabel(name="tags", labels=["new", "sale"])
SIZES = {"train": 24, "validation": 6, "test": 6}
ANN, BEN = Reviewer("Ann", "session of Ann"), Reviewer("Ben", "session of Ben")
UNSURE, WITHOUT_LABEL, WITHOUT_IMAGE, EVIL_PLACE, DOUBTED = {2, 8, 14}, 5, 7, 3, 11  # places in train


def product(split: str, n: int) -> Product:
    color = COLOR.labels[n % 3]
    labels = {"color": color, "tags": [["new"], ["new", "sale"], []][n % 3]}
    id, title, image = f"{split}-{n}", f"{color} dress {n}", picture(n)
    if split == "train":
        labels["color"] = None if n == WITHOUT_LABEL else color
        image = b"" if n == WITHOUT_IMAGE else image
        id, title = (f"../../x{EVIL}", EVIL) if n == EVIL_PLACE else (id, title)
    return Product(id, image, title, labels, split)


def write_data(directory: Path) -> Path:
    rows = (product(split, n) for split, size in SIZES.items() for n in range(size))
    write_rows(NewDataset(directory, [COLOR, TAGS], source="drawn", settings={}), rows)
    return directory


def write_answers(path: Path) -> Path:
    """As `cma-clip predict` writes them: right, but for those that are not sure enough."""
    rows = []
    for split, size in SIZES.items():
        for n in range(size):
            unsure = split == "train" and n in UNSURE
            rows.append(
                {
                    "id": product(split, n).id,
                    "color_answer": COLOR.labels[(n + unsure) % 3],
                    "color_score": 0.4 + n / 100 if unsure else 0.99,
                    "color_accepted": not unsure,
                    "color_refused": "score" if unsure else "",
                    "color_text_share": 0.25,
                    "tags_answer": [["new"], ["new", "sale"], []][n % 3],
                    "tags_score": [[0.9], [0.9, 0.8], []][n % 3],
                    "tags_accepted": n % 3 < 2,
                    "tags_refused": "" if n % 3 < 2 else "score",
                    "tags_accepted_labels": [["new"], ["new"], []][n % 3],
                    "tags_text_share": 0.75,
                    "label_set": "0123456789ab",
                    "model_version": "1",
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_audit(folder: Path) -> Path:
    folder.mkdir()
    head = ("split", "id", "title", "given", "likely", "belief")
    rows = {
        "color": [("train", f"train-{DOUBTED}", "title", COLOR.labels[DOUBTED % 3], "blue", "0.010000")],
        "tags": [],
    }
    for task, of_task in rows.items():
        with (folder / f"doubts-{task}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *of_task])
    return folder


def write_review(folder: Path) -> Path:
    """`data`, `answers.parquet` and `audit` in it."""
    write_data(folder / "data")
    write_answers(folder / "answers.parquet")
    write_audit(folder / "audit")
    return folder


def open_console(
    data: Path,
    decisions: Path,
    answers: Path | None = None,
    audit: Path | None = None,
    read_only: bool = False,
    classifier: object = None,
) -> Console:
    kept = Decisions(decisions, DatasetInfo.read(data).tasks.label_set_hash, read_only)
    catalog = Catalog(data, kept, None, answers, audit)
    return Console(catalog, kept, Queue(catalog, kept), classifier)


def app_of(console: Console, token: str | None = None, read_only: bool = False):
    hosts = frozenset({"testserver"}) if token is None else None
    secret = console.decisions.about("secret")
    return make_app(console, Access(secret, token, hosts, read_only, "somebody"))


@contextmanager
def console_process(*arguments: object) -> Iterator[tuple[str, subprocess.Popen]]:
    """A console as a user starts it: its address, and its process."""
    command = [sys.executable, "-m", "client.console", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("open "):
                break
        assert said and said[-1].startswith("open "), "".join(said)
        yield said[-1].split()[1], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
