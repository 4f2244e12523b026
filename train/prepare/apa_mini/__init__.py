"""APA mini: the paper's private data set of dresses (section 3.1.4) rebuilt from public photographs.

Real dress photographs (Fashion-MNIST) are dyed in 17 colours and printed with 12 patterns. Titles
name the colour in 67 % and the pattern in 25 % of the products; 10 % of the training labels are
wrong. Splits share neither photographs nor brands.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from dataset.format import Settings
from dataset.parallel import process_map
from dataset.products import Product
from dataset.splits import SPLITS
from dataset.writer import NewDataset, already_there, write_rows
from model.tasks import SingleLabel
from train.prepare.apa_mini.fashion_mnist import dresses
from train.prepare.apa_mini.images import COLORS, jpeg, product_image
from train.prepare.apa_mini.patterns import PATTERNS
from train.prepare.apa_mini.titles import product_title
from train.prepare.options import MOST, add_common_arguments, check_ranges

VERSION = 1
PLAIN_SHARE = 1 / 3
WRONG_LABELS = 0.1
VALIDATION_DRESSES = 0.3
CHUNK = 64
TASKS = [
    SingleLabel(name="color", labels=list(COLORS)),
    SingleLabel(name="pattern", labels=list(PATTERNS)),
]


@dataclass(frozen=True)
class Collection:
    """What decides every product.

    Attributes:
        dresses: split -> grey photographs, uint8 [N, 28, 28].
        image_size: side of the images, pixels.
        captions: every title names colour and pattern.
    """

    dresses: dict[str, np.ndarray]
    image_size: int
    seed: int
    captions: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare apa_mini`."""
    parser.add_argument("--source", type=Path, help="folder with the four Fashion-MNIST .gz files")
    parser.add_argument("--size", type=int, default=10_000, help="training products (%(default)s)")
    parser.add_argument("--validation", type=int, default=1000, help="validation products (%(default)s)")
    parser.add_argument("--test", type=int, default=2000, help="test products (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="side in pixels (%(default)s)")
    parser.add_argument(
        "--captions", action="store_true", help="titles name colour and pattern always, as CLIP's captions would"
    )
    add_common_arguments(parser, seed="of all that is drawn by chance")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a number is out of range, the photographs are not to be had, the output is taken.
    """
    sizes = dict(zip(SPLITS, (arguments.size, arguments.validation, arguments.test), strict=True))
    check_ranges(arguments, size=(1, MOST), validation=(0, MOST), test=(0, MOST), image_size=(16, 1024))
    photographs = split_dresses(*dresses(arguments.source))
    new = NewDataset(
        directory=arguments.output,
        tasks=TASKS,
        source="APA mini: dyed and printed dress photographs of Fashion-MNIST, made titles",
        settings=_settings(arguments, sizes, photographs),
        overwrite=arguments.overwrite,
        next_stage=f"{'contrastive' if arguments.captions else 'warmup'} --config train/recipes/robust.yaml",
    )
    if already_there(new):
        return
    collection = Collection(photographs, arguments.image_size, arguments.seed, arguments.captions)
    with products(collection, sizes, arguments.workers) as made:
        write_rows(new, made, sum(sizes.values()))


def split_dresses(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Give every split photographs of its own: the test part serves validation and test.

    Raises:
        ValueError: too few photographs.
    """
    border = round(VALIDATION_DRESSES * len(test))
    found = {"train": train, "validation": test[:border], "test": test[border:]}
    empty = [name for name, photographs in found.items() if len(photographs) == 0]
    if empty:
        raise ValueError(f"no dress photograph for {empty}: the source holds {len(train)} and {len(test)}")
    return found


@contextmanager
def products(collection: Collection, sizes: dict[str, int], workers: int = 1) -> Iterator[Iterator[Product]]:
    """Within it, all products, split by split; the same ones whatever `workers` is."""
    chunks = [
        (split, range(start, min(start + CHUNK, size)))
        for split, size in sizes.items()
        for start in range(0, size, CHUNK)
    ]
    with process_map(_chunk_of_products, collection, chunks, workers) as made:
        yield chain.from_iterable(made)


def make_product(collection: Collection, split: str, index: int) -> Product:
    """Product number `index` of a split; depends on nothing but these arguments."""
    rng = _generator(collection.seed, split, index, "image")
    color, pattern = true_labels(collection.seed, split, index)
    dress = collection.dresses[split][rng.integers(len(collection.dresses[split]))]
    image = jpeg(product_image(dress, color, pattern, collection.image_size, rng))
    title = product_title(
        split, color, pattern, _generator(collection.seed, split, index, "title"), collection.captions
    )
    labels = {"color": color, "pattern": pattern}
    if split == "train":
        labels = _with_noise(labels, _generator(collection.seed, split, index, "noise"))
    return Product(f"{split}-{index:07d}", image, title, {**labels}, split)


def true_labels(seed: int, split: str, index: int) -> tuple[str, str]:
    """Colour and pattern that image and title show."""
    rng = _generator(seed, split, index, "labels")
    color = rng.choice(list(COLORS))
    plain, *printed = PATTERNS
    pattern = plain if rng.random() < PLAIN_SHARE else rng.choice(printed)
    return str(color), str(pattern)


def _with_noise(labels: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """A crawled catalogue's labels: each is another one of its task by chance."""
    wrong = {task.name: [label for label in task.labels if label != labels[task.name]] for task in TASKS}
    return {
        name: str(rng.choice(wrong[name])) if rng.random() < WRONG_LABELS else label for name, label in labels.items()
    }


def _generator(seed: int, split: str, index: int, purpose: str) -> np.random.Generator:
    purposes = ("labels", "image", "title", "noise")
    return np.random.default_rng((seed, SPLITS.index(split), index, purposes.index(purpose)))


def _chunk_of_products(collection: Collection, chunk: tuple[str, range]) -> list[Product]:
    split, numbers = chunk
    return [make_product(collection, split, number) for number in numbers]


def _settings(arguments: argparse.Namespace, sizes: dict[str, int], photographs: dict[str, np.ndarray]) -> Settings:
    """All that the products depend on, so that the same settings mean the same data set."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in photographs.values())).hexdigest()
    made_by: Settings = {"data_set": "apa_mini", "version": VERSION, "photographs": digest[:16]}
    made_by |= {**sizes, "image_size": arguments.image_size, "seed": arguments.seed}
    return made_by | ({"captions": True} if arguments.captions else {})
