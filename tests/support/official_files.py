"""Fashion-Gen, UPMC Food-101 and MM-IMDb in small: the official file formats, keys, types and oddities."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
from data_set_files import picture
from PIL import Image

FASHION_GEN_TEXTS = [
    f"input_{name}"
    for name in (
        *("brand", "category", "composition", "concat_description", "department", "description"),
        *("gender", "name", "pose", "season", "subcategory"),
    )
]


def pixels_of(image: bytes) -> np.ndarray:
    """Decoded by Pillow, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def smooth(seed: int, height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps nearly as it is, uint8 [height, width, 3]."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def fashion_gen_rows(products: list[int], subcategories: list[bytes]) -> dict[str, np.ndarray]:
    """The datasets of one file: one row a number in `products`, its subcategory by product."""
    count = len(products)
    rows: dict[str, np.ndarray] = {
        key: np.array([[f"{key} {product}".encode("latin-1")] for product in products], dtype="S600")
        for key in FASHION_GEN_TEXTS
    }
    rows["input_subcategory"] = np.array([[subcategories[p % len(subcategories)]] for p in products], dtype="S100")
    rows["input_name"] = np.array([["Robe d\xe9t\xe9 %d".encode("latin-1") % p] for p in products], dtype="S100")
    rows["input_msrpUSD"] = np.full((count, 1), 99.5, np.float32)
    rows["input_productID"] = np.array(products, np.int32)[:, None]
    rows["index"] = np.arange(count, dtype=np.int32)[:, None]
    rows["index_2"] = np.arange(count, dtype=np.int32)
    rows["input_image"] = np.stack([smooth(1000 * p + n, 256, 256) for n, p in enumerate(products)])
    return rows


def write_hdf5(path: Path, rows: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in rows.items():
            file.create_dataset(key, data=values)
    return path


def write_food101(root: Path, rows: dict[str, list[tuple[str, str, str]]]) -> dict[str, bytes]:
    """Write both halves, a picture for every row (name, title, dish); returns name -> bytes of the picture."""
    pictures = {}
    (root / "texts").mkdir(parents=True)
    for half, members in rows.items():
        for name, _, dish in members:
            folder = root / "images" / half / dish
            folder.mkdir(parents=True, exist_ok=True)
            pictures[name] = picture(len(pictures))
            (folder / name).write_bytes(pictures[name])
        with (root / "texts" / f"{half}_titles.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\r\n").writerows(members)
    return pictures


def write_mm_imdb(root: Path, splits: dict[str, list[str]], movies: dict[str, dict]) -> dict[str, bytes]:
    """Write split.json and dataset/; returns id -> bytes of the poster."""
    (root / "dataset").mkdir(parents=True)
    (root / "split.json").write_text(json.dumps(splits))
    posters = {}
    for id, movie in movies.items():
        posters[id] = picture(int(id))
        (root / "dataset" / f"{id}.jpeg").write_bytes(posters[id])
        (root / "dataset" / f"{id}.json").write_text(json.dumps(movie))
    return posters


def fuel_splits(bounds: dict[str, tuple[int, int]], sources: list[str]) -> np.ndarray:
    """What Fuel's H5PYDataset.create_split_array makes: one entry a split and source."""
    kind = np.dtype(
        [
            ("split", "S5"),
            ("source", "S12"),
            ("start", np.int64),
            ("stop", np.int64),
            ("indices", h5py.ref_dtype),
            ("available", np.bool_),
            ("comment", "S1"),
        ]
    )
    entries = [
        (split.encode(), source.encode(), start, stop, h5py.Reference(), True, b".")
        for split, (start, stop) in bounds.items()
        for source in sources
    ]
    return np.array(entries, kind)


def write_mm_imdb_hdf5(
    path: Path,
    ids: list[str],
    genres: list[list[str]],
    names: tuple[str, ...],
    posters: np.ndarray,
    plots: list[str],
    bounds: dict[str, tuple[int, int]],
) -> None:
    """multimodal_imdb.hdf5 and metadata.npy as the authors' make_dataset.py writes them.

    `posters` uint8 [N, 256, 160, 3], red first; the file holds them blue first with the mean subtracted, cut to int32.
    """
    vocabulary = ["_UNK_", *sorted({word for plot in plots for word in plot.split()})]
    number = {word: place for place, word in enumerate(vocabulary)}
    mean = np.array([103.939, 116.779, 123.68])
    with h5py.File(path, "w") as file:
        images = posters[..., ::-1].astype(np.float64) - mean
        file.create_dataset("images", data=np.trunc(images).astype(np.int32).transpose(0, 3, 1, 2))
        table = [[int(name in chosen) for name in names] for chosen in genres]
        file.create_dataset("genres", data=np.array(table, np.int32)).attrs["target_names"] = json.dumps(list(names))
        file.create_dataset("imdb_ids", data=np.array(ids, dtype="S7"))
        words = file.create_dataset("sequences", (len(ids),), dtype=h5py.vlen_dtype(np.int32))
        for row, plot in enumerate(plots):
            words[row] = np.array([number[word] for word in plot.split()], np.int32)
        file.attrs["split"] = fuel_splits(bounds, ["genres", "images", "imdb_ids", "sequences"])
    metadata = {"ix_to_word": dict(enumerate(vocabulary)), "word_to_ix": number, "vocab_size": len(vocabulary)}
    np.save(path.with_name("metadata.npy"), metadata | {"lookup": np.zeros((3, 2), np.float32)}, allow_pickle=True)
