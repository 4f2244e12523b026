"""MM-IMDb from multimodal_imdb.hdf5, which the authors made for the library Fuel (github johnarevalo/gmu-mmimdb).

Posters are 160 x 256 pixels, blue first, with the mean of ImageNet subtracted: this is undone. Plots are numbers of
words, normalised (lower case, digits are N, marks stand alone); metadata.npy beside the file says which words.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import simplejpeg

from dataset.format import Settings
from dataset.parts import Maker, Part
from dataset.products import Product, Reject
from dataset.splits import refuse_leakage
from model.config import PreprocessConfig
from model.preprocess import clean_title
from model.refusal import Code, Refusal
from train.prepare.hdf5 import check_rows, column, open_hdf5, read, read_all, runs
from train.prepare.mm_imdb.genres import GENRES, SPLIT_NAMES, genres_of
from train.prepare.official import fingerprint

POSTER = (3, 256, 160)
MEAN_BGR = np.array([103.939, 116.779, 123.68])
UNKNOWN_WORD = "_UNK_"
# What numpy's own pickles of arrays, numbers and dictionaries are made of; nothing else may be called.
HARMLESS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


@dataclass(frozen=True)
class Hdf5Movies:
    """Makes products from row numbers of the file. `labels` are the genres of its columns."""

    path: Path
    labels: tuple[str, ...]
    quality: int
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    @cached_property
    def _file(self) -> h5py.File:
        """Opened once in every process."""
        return open_hdf5(self.path)

    @cached_property
    def _words(self) -> dict[int, str]:
        return read_words(metadata_of(self.path))

    def products(self, part: Part) -> Iterator[Product | Reject]:
        """One product a row."""
        assert part.split is not None
        for rows in runs(part.items):
            read_rows = [read(self._file[key], rows) for key in ("imdb_ids", "images", "sequences", "genres")]
            for row, id, poster, words, genres in zip(range(rows.start, rows.stop), *read_rows, strict=True):
                yield self._product(part.split, row + 1, id.decode(), poster, words, genres)

    def _product(
        self, split: str, number: int, id: str, poster: np.ndarray, words: np.ndarray, genres: np.ndarray
    ) -> Product | Reject:
        try:
            title = self._title(words)
            clean_title(title, self.preprocess.max_title_bytes)
            if not np.isin(genres, (0, 1)).all():
                raise Refusal(Code.ROW_UNUSABLE, f"genres {genres.tolist()}, expected 0 or 1")
            chosen = genres_of("genres", [self.labels[place] for place in np.flatnonzero(genres)])
        except Refusal as refusal:
            return Reject.of(number, id, refusal)
        image = simplejpeg.encode_jpeg(restore(poster), self.quality, "RGB", "420")
        return Product(id, image, title, {"genres": chosen}, split)

    def _title(self, words: np.ndarray) -> str:
        unknown = [word for word in words.tolist() if word not in self._words]
        if unknown:
            problem = f"word number {unknown[0]} is not among the {len(self._words)} of metadata.npy"
            raise Refusal(Code.ROW_UNUSABLE, problem)
        title = " ".join(self._words[word] for word in words.tolist() if self._words[word] != UNKNOWN_WORD)
        if not title:
            raise Refusal(Code.ROW_UNUSABLE, "no plot")
        return title


def plan(path: Path, quality: int) -> tuple[Maker, Mapping[str, Sequence[Any]], Settings]:
    """What to make from the file: the maker, split -> rows, and the settings that describe it.

    Raises:
        ValueError: a file is missing, damaged or of another form, or splits share a movie.
    """
    read_words(metadata_of(path))
    with open_hdf5(path) as file:
        labels = read_labels(file)
        column(file, "images", POSTER, "iuf")
        column(file, "sequences", (), "O")
        ids = column(file, "imdb_ids", (), "S")
        rows = check_rows(file, ("images", "genres", "sequences", "imdb_ids"))
        splits = read_splits(file, rows)
        names = [id.decode() for id in read_all(ids).tolist()]
    refuse_leakage(path, {SPLIT_NAMES[split]: [names[row] for row in members] for split, members in splits.items()})
    settings: Settings = {"route": "hdf5", "files": fingerprint([path, metadata_of(path)]), "quality": quality}
    return Hdf5Movies(path, labels, quality), splits, settings


def read_labels(file: h5py.File) -> tuple[str, ...]:
    """The genres of the columns of `genres`.

    Raises:
        ValueError: they are not the 23.
    """
    genres = column(file, "genres", (len(GENRES),), "iu")
    try:
        names = tuple(json.loads(genres.attrs["target_names"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file.filename}: genres has no attribute target_names, a JSON list of its columns") from None
    wrong = [name for name in names if name not in GENRES]
    if wrong:
        raise ValueError(f"{file.filename}: genre {wrong[0]!r} is not among the {len(GENRES)} of MM-IMDb")
    if sorted(names) != sorted(GENRES):
        raise ValueError(f"{file.filename}: target_names holds {len(names)} names, expected each of {len(GENRES)} once")
    return names


def read_splits(file: h5py.File, rows: int) -> dict[str, list[int]]:
    """Split -> rows, from Fuel's attribute `split`: bounds, or a reference to row numbers.

    Raises:
        ValueError: the attribute or a split is missing, or it points outside the file.
    """
    if "split" not in file.attrs:
        raise ValueError(f"{file.filename}: no attribute split; expected Fuel's table of the splits")
    entries = {(entry["split"].decode(), entry["source"].decode()): entry for entry in file.attrs["split"]}
    found = {}
    for split, name in SPLIT_NAMES.items():
        entry = entries.get((name, "images"))
        if entry is None or not entry["available"]:
            raise ValueError(f"{file.filename}: the attribute split has no images for {name!r}")
        reference = entry["indices"]
        chosen = file[reference][...].tolist() if reference else range(int(entry["start"]), int(entry["stop"]))
        found[split] = sorted(set(chosen))
        if not found[split] or found[split][0] < 0 or found[split][-1] >= rows:
            raise ValueError(f"{file.filename}: split {name!r} does not lie within the {rows} rows")
    return found


def metadata_of(path: Path) -> Path:
    """The file with the words of an HDF5 file."""
    return path.with_name("metadata.npy")


def read_words(path: Path) -> dict[int, str]:
    """Number -> word, from the pickled dictionary in metadata.npy; no code in it is run.

    Raises:
        ValueError: it is missing or holds something else.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            words = _HarmlessUnpickler(file).load().item()["ix_to_word"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; the plots of the HDF5 file cannot be read without it") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not the metadata.npy of MM-IMDb ({error})") from None
    return {int(number): str(word) for number, word in words.items()}


class _HarmlessUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return super().find_class(module, name)


def restore(poster: np.ndarray) -> np.ndarray:
    """Mean-subtracted [3, H, W], blue first, to pixels uint8 [H, W, 3], red first.

    Whole numbers were cut towards zero after the subtraction, so the mean is added and rounded away from that.
    """
    mean = MEAN_BGR[:, None, None]
    if poster.dtype.kind == "f":
        pixels = np.rint(poster + mean)
    else:
        pixels = poster + np.where(poster < 0, np.floor(mean), np.ceil(mean))
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8)[::-1].transpose(1, 2, 0))
