"""What a product will cost, told from the header of its image: an estimate for the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model.config import PreprocessConfig
from model.image_header import Header
from model.refusal import Code, Refusal

URGENT = "canary"  # the id of a request that passes the queue and is not counted; client.canary sends it
# A unit is about 5 ns of one core. What an image may have at most is chosen so that it costs a second (image_limits).
SECOND = 200_000_000
PRODUCT, BYTE = 100_000, 4


class Work(NamedTuple):
    """What has to be done.

    Attributes:
        units: of time, of about 5 ns.
        memory: bytes at the same time.
    """

    units: int
    memory: int


def work_of(image: bytes, header: Header | None, config: PreprocessConfig) -> Work:
    """The cost of one product.

    Args:
        header: of `image`, None where there is none.
    """
    if header is None:
        return Work(PRODUCT, 0)
    limit = config.image_limits[header.kind]
    share = max(header.pixels / limit.pixels, header.scan_pixels / limit.scan_pixels)
    return Work(PRODUCT + BYTE * len(image) + round(SECOND * share), len(image) + header.memory)


def request_work(images: Sequence[bytes], headers: Sequence[Header | None], config: PreprocessConfig) -> Work:
    """The cost of one request, a product a row. All rows together may cost what the largest single image may.

    Raises:
        Refusal: IMG_TOO_COSTLY where several rows cost more.
    """
    rows = [work_of(image, header, config) for image, header in zip(images, headers, strict=True)]
    units = sum(row.units for row in rows)
    most = len(rows) * PRODUCT + BYTE * config.max_image_bytes + SECOND
    if len(rows) > 1 and units > most:
        share = f"{len(rows)} images of one request cost {units / most:.1f} times what the largest single one may"
        raise Refusal(Code.IMG_TOO_COSTLY, f"{share}; send fewer in a request")
    return Work(units, max(row.memory for row in rows))
