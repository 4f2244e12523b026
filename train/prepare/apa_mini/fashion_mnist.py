"""The dress photographs of Fashion-MNIST, from a folder, a system package or the network."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from train.prepare import packages

PACKAGE = "dataset-fashion-mnist"
PACKAGED = Path("/usr/share/datasets/fashion-mnist")
DRESS = 3
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
PARTS = ("train", "t10k")
FILES = [f"{part}-{kind}-ubyte.gz" for part in PARTS for kind in ("images-idx3", "labels-idx1")]


def dresses(source: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Grey dress photographs on black of the training and of the test part, uint8 [N, 28, 28] each.

    Args:
        source: folder with the four IDX files; None looks in the usual places, then downloads.
    Raises:
        ValueError: a file is missing or damaged, or nothing could be downloaded.
    """
    folder = source or find()
    train, test = (read_dresses(folder, part) for part in PARTS)
    return train, test


def read_dresses(folder: Path, part: str) -> np.ndarray:
    """The rows of class 3 of `train` or `t10k`, uint8 [N, 28, 28]."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", IMAGES_MAGIC)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", LABELS_MAGIC)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {part} has {len(images)} images but {len(labels)} labels")
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{folder}: {part} images are {images.shape[1:]}, expected (28, 28)")
    return images[labels == DRESS]


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Read one gzip IDX file of unsigned bytes; the low byte of `magic` is its number of dimensions.

    Raises:
        ValueError: the file is missing, not gzip, of another kind, or shorter than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; --source wants the four Fashion-MNIST .gz files") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    start = 4 + 4 * (magic & 0xFF)
    if len(content) < start or int.from_bytes(content[:4], "big") != magic:
        raise ValueError(f"{path}: not an IDX file with magic number {magic}")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != math.prod(shape):
        raise ValueError(f"{path}: holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def find() -> Path:
    """The folder of the IDX files, downloaded into the cache if no usual place has them.

    Raises:
        ValueError: every way of getting them failed.
    """
    cure = "put its four .gz files into a folder and pass --source FOLDER"
    return packages.find("Fashion-MNIST", (PACKAGED, cache_directory()), FILES, (from_debian, from_torchvision), cure)


def cache_directory() -> Path:
    """Where downloads stay for the next run."""
    return packages.cache_directory("fashion-mnist")


def from_debian(work: Path) -> Path:
    """Take the files out of the Debian package, unpacked in `work`."""
    return packages.unpack([PACKAGE], work) / PACKAGED.relative_to("/")


def from_torchvision(work: Path) -> Path:
    """Let torchvision download the files."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(work), download=True)
    return work / "FashionMNIST" / "raw"
