"""Catalogues to prepare, and what preparing left on the disk."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from cma_clip.files import file_sha256
from dataset.format import DatasetInfo

HEADER = ["sku", "photo", "name", "color", "tags"]


def rows_of(directory: Path, split: str) -> list[dict]:
    info = DatasetInfo.read(directory)
    return [
        row for shard in info.splits[split].shards for row in pq.ParquetFile(directory / shard.file).read().to_pylist()
    ]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def reseal(directory: Path) -> None:
    """dataset.json describes the shards as they are now, as if they had been made so."""
    info = DatasetInfo.model_validate_json((directory / "dataset.json").read_bytes())
    for split in info.splits.values():
        for shard in split.shards:
            path = directory / shard.file
            shard.bytes, shard.sha256 = path.stat().st_size, file_sha256(path)
            shard.rows = pq.read_metadata(path).num_rows
        split.rows = sum(shard.rows for shard in split.shards)
    info.hash = info.hash_of_shards()
    (directory / "dataset.json").write_text(info.model_dump_json(indent=2) + "\n")


def picture(seed: int = 0, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_csv(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def good_rows(folder: Path, count: int) -> list[list[str]]:
    (folder / "photos").mkdir(exist_ok=True)
    rows = []
    for n in range(count):
        (folder / "photos" / f"{n}.jpg").write_bytes(picture(n))
        rows.append([f"sku{n}", f"photos/{n}.jpg", f"Dress, no. {n}", ("red", "blue")[n % 2], ("new|sale", "")[n % 2]])
    return rows


def catalog_arguments(table: Path, output: Path, *more: str) -> list[str]:
    kind = "--csv" if table.suffix == ".csv" else "--parquet"
    columns = ["--id-column", "sku", "--image-column", "photo", "--title-column", "name"]
    tasks = ["--task", "color:single_label", "--task", "tags:multi_label"]
    return ["catalog", kind, str(table), *columns, *tasks, "--output", str(output), "--workers", "1", *more]


def all_rows(directory: Path) -> dict[str, dict]:
    return {row["id"]: row for split in DatasetInfo.read(directory).splits for row in rows_of(directory, split)}


def rejects(directory: Path) -> dict[tuple[int, str], str]:
    with (directory / "rejects.csv").open(newline="") as file:
        return {(int(row["row"]), row["id"]): f"{row['code']}: {row['message']}" for row in csv.DictReader(file)}


def error_of(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]
