"""What is sent: requests serialised once, each with the answer it must get."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from tritonclient.grpc import service_pb2

from client.protocol import MODEL
from dataset.format import DatasetInfo

OK = "OK"
MOST_PRODUCTS = 256

TitleAndImage = tuple[bytes, bytes]  # encoded; either may be empty


class Request(NamedTuple):
    """One call as the bytes that go over the wire; `expected` is OK or the code of the refusal."""

    payload: bytes
    expected: str = OK


def from_data_set(directory: Path) -> list[TitleAndImage]:
    """The first products of a data set's test split (or of the split it has).

    Raises:
        ValueError: no data set, or no product in it.
    """
    info = DatasetInfo.read(directory)
    split = info.splits.get("test") or next(iter(info.splits.values()), None)
    shards = split.shards[:1] if split else []
    tables = [pq.read_table(directory / shard.file, columns=["title", "image"]) for shard in shards]
    rows = (row for table in tables for row in table.slice(0, MOST_PRODUCTS).to_pylist())
    products = [((row["title"] or "").encode(), row["image"] or b"") for row in rows]
    found = [(title, image) for title, image in products if title.strip() or image]
    if not found:
        raise ValueError(f"{directory}: no products in it")
    return found


def good_requests(products: Sequence[TitleAndImage], rows: int = 1) -> list[Request]:
    """A request of `rows` products for each product; those after it fill it up."""
    around = [*products, *products] * rows
    return [Request(serialize(around[first : first + rows])) for first in range(len(products))]


def photographs(count: int, size: tuple[int, int] = (4000, 3000)) -> list[TitleAndImage]:
    """Products with JPEGs of 12 megapixels and about 3 MB: smooth surfaces with a sensor's noise."""
    products = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + rng.normal(0, 6, (size[1], size[0], 1)).astype(np.int16)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        products.append((b"a product", buffer.getvalue()))
    return products


def bad_requests(product: TitleAndImage) -> list[Request]:
    """One request of every kind that the server must refuse, with the code it must say."""
    title, image = product
    jpeg, bomb = _image("JPEG", (64, 64)), _image("PNG", (9000, 9000), "1")
    kinds: list[tuple[bytes, bytes, str]] = [
        (title, jpeg[: len(jpeg) // 2], "IMG_TRUNCATED"),
        (title, jpeg[:-2], "IMG_TRUNCATED"),
        (title, b"<html>not found</html>", "IMG_UNDECODABLE"),
        (title, _image("TIFF", (8, 8)), "IMG_FORMAT_NOT_ALLOWED"),
        (title, bomb, "IMG_TOO_MANY_PIXELS"),
        (b"\xff\xfe red dress", image, "TXT_INVALID_UTF8"),
        (b"x" * 140_000, image, "TXT_TOO_LONG"),
        (b" ", b"", "NO_MODALITY"),
    ]
    return [Request(serialize([(title, image)]), code) for title, image, code in kinds]


def mixture(good: Sequence[Request], bad: Sequence[Request], share: float, count: int, seed: int = 0) -> list[Request]:
    """`count` requests, each bad with probability `share`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    is_bad, choice = rng.random(count) < share, rng.integers(0, 1 << 30, count)
    return [bad[c % len(bad)] if b else good[c % len(good)] for b, c in zip(is_bad, choice, strict=True)]


def serialize(products: Sequence[TitleAndImage]) -> bytes:
    """A ModelInferRequest for the ensemble with one row a product."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, column in zip(("TITLE", "IMAGE"), zip(*products, strict=True), strict=True):
        request.inputs.add(name=name, datatype="BYTES", shape=[len(products), 1])
        request.raw_input_contents.append(b"".join(with_length(value) for value in column))
    return request.SerializeToString()


def with_length(value: bytes) -> bytes:
    """A BYTES element as Triton reads it: its length, then itself."""
    return len(value).to_bytes(4, "little") + value


def _image(format: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format)
    return buffer.getvalue()
