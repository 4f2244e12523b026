"""MM-IMDb (section 3.1.3): movies with any of 23 genres, from posters and plots.

The title is the longest plot. Movies that have one of the genres News, Adult, Talk-Show, Reality-TV are left out, as in
the paper. The raw files are the better source: --hdf5 reads what its authors made of them (see hdf5.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.format import DatasetInfo, Settings
from dataset.parts import Maker, Part, cut
from dataset.products import Product, Reject
from dataset.rows import ImageReader, UnreadProduct
from dataset.splits import refuse_leakage
from dataset.writer import NewDataset, write_dataset
from model.config import PreprocessConfig
from model.preprocess import clean_title
from model.refusal import Code, Refusal
from model.tasks import MultiLabel
from train.prepare.mm_imdb import hdf5
from train.prepare.mm_imdb.genres import GENRES, SPLIT_NAMES, genres_of
from train.prepare.official import MAX_REJECTS, fingerprint, listing, refuse_missing, report, rows_of
from train.prepare.options import add_common_arguments, check_ranges

VERSION = 1
PAPER = {"train": 15_510, "validation": 2_599, "test": 7_779}


@dataclass(frozen=True)
class RawMovies:
    """Makes products from movie ids. `folder` holds ID.json and ID.jpeg."""

    folder: Path
    images: ImageReader = field(default_factory=ImageReader)

    def products(self, part: Part) -> Iterator[Product | Reject]:
        """One product a movie (its place in the split from 1, its id), none for a movie that the paper leaves out."""
        assert part.split is not None
        for number, id in part.items:
            try:
                plot, genres = read_movie(self.folder / f"{id}.json")
            except Refusal as refusal:
                yield Reject.of(number, id, refusal)
                continue
            if genres is not None:
                product = Product(id, b"", plot, {"genres": genres}, part.split)
                yield self.images.read(UnreadProduct(number, product, self.folder / f"{id}.jpeg"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare mm_imdb`."""
    add_common_arguments(parser, MAX_REJECTS)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", type=Path, help="folder with split.json and dataset/")
    source.add_argument("--hdf5", type=Path, help="multimodal_imdb.hdf5, with metadata.npy beside it")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG images of --hdf5 (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a file is missing, damaged or of another form, too many movies are unusable, splits share a movie,
            or the output is taken.
    """
    check_ranges(arguments)
    if arguments.hdf5 is not None:
        maker, items, settings = hdf5.plan(arguments.hdf5, arguments.quality)
        print("  the HDF5 file knows 23 genres only: movies that the paper leaves out for others cannot be told")
    else:
        maker, items, settings = plan_raw(arguments.source, arguments.max_rejects)
    info = _write(arguments, maker, items, settings)
    report(info, {name: rows_of(info, name) for name in PAPER}, PAPER)


def plan_raw(source: Path, max_rejects: float) -> tuple[Maker, Mapping[str, Sequence[Any]], Settings]:
    """What to make from the raw files: the maker, split -> movies, and the settings that describe the files.

    Raises:
        ValueError: split.json or the folder does not fit.
    """
    split_file, folder = source / "split.json", source / "dataset"
    ids = read_splits(split_file)
    refuse_leakage(split_file, {SPLIT_NAMES[split]: members for split, members in ids.items()})
    files = listing(folder)
    names = [f"{id}.{kind}" for members in ids.values() for id in members for kind in ("json", "jpeg")]
    missing = [str(folder / name) for name in names if name not in files]
    refuse_missing(missing, sum(map(len, ids.values())), max_rejects)
    used = [files[name] for name in names if name in files]
    items = {split: list(enumerate(members, start=1)) for split, members in ids.items()}
    settings: Settings = {"route": "raw", "files": fingerprint([split_file, *used])}
    return RawMovies(folder), items, settings


def read_splits(path: Path) -> dict[str, list[str]]:
    """Split -> ids of `split.json`, an id that stands twice in a split once.

    Raises:
        ValueError: the file is missing, no JSON, or lacks a list of text ids.
    """
    content = read_object(path)
    found = {}
    for split, name in SPLIT_NAMES.items():
        ids = content.get(name)
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"{path}: no list {name!r}; it has {', '.join(sorted(content))}")
        wrong = [id for id in ids if not isinstance(id, str)]
        if wrong:
            raise ValueError(f"{path}: {name} has the id {wrong[0]!r}, expected text that keeps its leading zeros")
        found[split] = list(dict.fromkeys(ids))
    return found


def read_movie(path: Path) -> tuple[str, list[str] | None]:
    """The longest plot and the genres of a movie; genres None if the paper leaves it out.

    Raises:
        Refusal: the file is missing or no JSON, or the movie has no plot, no genre or an unknown one, or a plot that no
            title may be.
    """
    try:
        content = read_object(path)
    except ValueError as error:
        raise Refusal(Code.ROW_UNUSABLE, str(error)) from None
    plots, genres = content.get("plot"), content.get("genres")
    if not isinstance(genres, list):
        raise Refusal(Code.ROW_UNUSABLE, f"{path}: no list of genres")
    chosen = genres_of(str(path), genres)
    if chosen is None:
        return "", None
    texts = [plot for plot in plots if isinstance(plot, str) and plot.strip()] if isinstance(plots, list) else []
    if not texts:
        raise Refusal(Code.ROW_UNUSABLE, f"{path}: no plot")
    plot = max(texts, key=len).strip()
    clean_title(plot, PreprocessConfig().max_title_bytes)
    return plot, chosen


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def _write(
    arguments: argparse.Namespace, maker: Maker, items: Mapping[str, Sequence[Any]], settings: Settings
) -> DatasetInfo:
    new = NewDataset(
        directory=arguments.output,
        tasks=[MultiLabel(name="genres", labels=list(GENRES))],
        source=f"MM-IMDb {arguments.hdf5 or arguments.source}",
        settings={"data_set": "mm_imdb", "version": VERSION, **settings},
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
        next_stage="warmup --config train/recipes/mm_imdb.yaml",
    )
    return write_dataset(new, cut(items), maker, arguments.workers)
