"""Fashion-Gen (section 3.1.1): 121 subcategories from the two official HDF5 files.

The validation file is the paper's test set. Validation is a share of the train file's products; images of one product
stay together. The title is the product's name and its description: CLIP reads 77 tokens and the name says most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

from dataset.parts import Part, cut
from dataset.products import Product, Reject
from dataset.splits import SplitShares, refuse_leakage
from dataset.writer import NewDataset, write_dataset
from model.config import PreprocessConfig
from model.preprocess import clean_title
from model.refusal import Code, Refusal
from model.tasks import SingleLabel
from train.prepare.hdf5 import check_rows, column, latin, open_hdf5, read, read_all, runs
from train.prepare.official import MAX_REJECTS, VALIDATION, fingerprint, report, rows_of
from train.prepare.options import add_common_arguments, check_ranges

VERSION = 1
FILES = {name: f"fashiongen_256_256_{name}.h5" for name in ("train", "validation")}
PAPER = {"train and validation": 260_480, "test": 32_528, "subcategories": 121}
IMAGE = (256, 256, 3)
TEXTS = {
    "name_description": ("input_name", "input_description"),
    "description": ("input_description",),
    "concat_description": ("input_concat_description",),
}


@dataclass(frozen=True)
class FashionGen:
    """Makes products from row numbers.

    Attributes:
        files: split -> HDF5 file.
        texts: the datasets whose texts make the title, in order.
        quality: of the JPEG images, 1 to 100.
    """

    files: dict[str, Path]
    texts: tuple[str, ...]
    quality: int
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    @cached_property
    def _opened(self) -> dict[Path, dict[str, h5py.Dataset]]:
        """The datasets of the files, opened once in every process: a look-up takes half as long as reading a row."""
        return {path: dict(open_hdf5(path).items()) for path in set(self.files.values())}

    def products(self, part: Part) -> Iterator[Product | Reject]:
        """One product a row."""
        assert part.split is not None
        datasets = self._opened[self.files[part.split]]
        for rows in runs(part.items):
            images = read(datasets["input_image"], rows)
            texts = [read(datasets[key], rows)[:, 0] for key in self.texts]
            ids, labels = (read(datasets[key], rows)[:, 0] for key in ("input_productID", "input_subcategory"))
            for n, row in enumerate(range(rows.start, rows.stop)):
                title = " ".join(filter(None, (latin(text[n]) for text in texts)))
                product = Product(f"{ids[n]}-{row}", b"", title, {"subcategory": latin(labels[n])}, part.split)
                yield self._finish(product, images[n], row)

    def _finish(self, product: Product, pixels: np.ndarray, row: int) -> Product | Reject:
        try:
            if not product.labels["subcategory"]:
                raise Refusal(Code.ROW_UNUSABLE, "no subcategory")
            clean_title(product.title, self.preprocess.max_title_bytes)
        except Refusal as refusal:
            return Reject.of(row + 1, product.id, refusal)
        return replace(product, image=simplejpeg.encode_jpeg(pixels, self.quality, "RGB", "420"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare fashion_gen`."""
    add_common_arguments(parser, MAX_REJECTS, seed="of the validation share")
    parser.add_argument("--source", type=Path, required=True, help=f"folder with {' and '.join(FILES.values())}")
    parser.add_argument("--validation", type=float, default=0.05, help="share of the train products (%(default)s)")
    parser.add_argument("--text", choices=TEXTS, default="name_description", help="the title (%(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG images (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a file is missing, damaged or of another form, the files share a product, or the output is taken.
    """
    check_ranges(arguments, validation=VALIDATION)
    train, test = (arguments.source / name for name in FILES.values())
    texts = TEXTS[arguments.text]
    (train_ids, train_labels), (test_ids, test_labels) = (scan(path, texts) for path in (train, test))
    refuse_leakage(arguments.source, {train.name: map(str, train_ids), test.name: map(str, test_ids)})
    labels = sorted({*train_labels, *test_labels} - {""})
    new = NewDataset(
        directory=arguments.output,
        tasks=[SingleLabel(name="subcategory", labels=labels)],
        source=f"Fashion-Gen {train}, {test}",
        settings={
            **{"data_set": "fashion_gen", "version": VERSION, "files": fingerprint((train, test))},
            **{name: getattr(arguments, name) for name in ("validation", "text", "quality", "seed")},
        },
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
        next_stage="warmup --config train/recipes/fashion_gen.yaml",
    )
    maker = FashionGen({"train": train, "validation": train, "test": test}, texts, arguments.quality)
    splits = split_rows(train_ids, SplitShares(arguments.validation, 0, arguments.seed))
    info = write_dataset(new, cut(splits | {"test": range(len(test_ids))}), maker, arguments.workers)
    found = {"train and validation": rows_of(info, "train", "validation"), "test": rows_of(info, "test")}
    report(info, found | {"subcategories": len(labels)}, PAPER)


def scan(path: Path, texts: tuple[str, ...]) -> tuple[np.ndarray, set[str]]:
    """Check a file and read what decides splits and labels: product ids [N] and the subcategories.

    Raises:
        ValueError: it is missing, damaged, or a dataset is missing or of another form.
    """
    with open_hdf5(path) as file:
        column(file, "input_image", IMAGE, "u")
        ids = column(file, "input_productID", (1,), "iu")
        labels = column(file, "input_subcategory", (1,), "SO")
        for key in texts:
            column(file, key, (1,), "SO")
        check_rows(file, ("input_image", "input_productID", "input_subcategory", *texts))
        return read_all(ids), {latin(label) for label in set(read_all(labels).tolist())}


def split_rows(product_ids: np.ndarray, shares: SplitShares) -> dict[str, list[int]]:
    """Rows of train and validation; all rows of a product are in one of them."""
    found: dict[str, list[int]] = {"train": [], "validation": []}
    place = {id: shares.split_of(str(id)) for id in set(product_ids.tolist())}
    for row, id in enumerate(product_ids.tolist()):
        found[place[id]].append(row)
    return found
