"""Whether the shards are those that dataset.json describes."""

from __future__ import annotations

from pathlib import Path

from cma_clip.files import file_sha256
from dataset.format import DatasetInfo, Shard

CURE = "put back a copy, or prepare the data again"


def check_sizes(directory: Path, info: DatasetInfo) -> None:
    """At every start: it asks for no content.

    Raises:
        ValueError: a shard is gone, or has another size.
    """
    for shard in _shards(info):
        path = directory / shard.file
        if not path.is_file():
            raise ValueError(f"{path}: not a readable Parquet file: dataset.json names it and it is not there; {CURE}")
        size = path.stat().st_size
        if shard.bytes not in (None, size):
            raise ValueError(f"{path}: {size} bytes, dataset.json says {shard.bytes}; {CURE}")


def changed_shard(directory: Path, info: DatasetInfo, read_all: bool, part: int, parts: int) -> ValueError | None:
    """The first shard whose sha256 is no longer that of dataset.json.

    Args:
        read_all: else only those younger than dataset.json are read, which a copy may be too.
        part, parts: of the shards to look at, so that the ranks of a machine share the work.
    """
    written = (directory / "dataset.json").stat().st_mtime_ns
    for shard in _shards(info)[part::parts]:
        path = directory / shard.file
        if (read_all or path.stat().st_mtime_ns > written) and file_sha256(path) != shard.sha256:
            return ValueError(f"{path}: changed, its sha256 is not that of dataset.json; {CURE}")
    return None


def not_described(directory: Path, info: DatasetInfo) -> list[Path]:
    """Parquet files beside the shards that dataset.json does not name: nobody reads them."""
    known = {directory / shard.file for shard in _shards(info)}
    return sorted(path for path in directory.glob("split=*/[!.]*.parquet") if path not in known)


def _shards(info: DatasetInfo) -> list[Shard]:
    return [shard for split in info.splits.values() for shard in split.shards]
