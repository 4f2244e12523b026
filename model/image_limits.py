"""What one image may ask of a decoder: one table, the same in training and serving.

A row's figures are chosen so that the worst input that it accepts costs at most 1 s of one core and 400 MB;
`python -m bench.image_limits` builds those inputs and measures them (docs/image_limits.md has its table).
"""

from __future__ import annotations

from pydantic import Field

from cma_clip.settings import StrictModel


class ImageLimit(StrictModel):
    """Most that an image of one kind may have.

    Attributes:
        pixels: width x height.
        parts: segments of a JPEG, chunks of a PNG or WebP, blocks of a GIF before its first frame.
        scan_pixels: samples that the scans of a JPEG go over, all together: a progressive one of three equal
            components in the usual ten scans has 14 times its pixels.
    """

    pixels: int = Field(gt=0)
    parts: int = Field(16_384, gt=0)
    scan_pixels: int = Field(370_000_000, gt=0)


# Kind of image -> its limit. A photograph of a camera or telephone (24 megapixels, progressive too) is accepted.
IMAGE_LIMITS: dict[str, ImageLimit] = {
    # A baseline JPEG is decoded row by row: 3 bytes a pixel. 20 MB of full segments are 305.
    "JPEG": ImageLimit(pixels=50_000_000, parts=1_000),
    # All coefficients are held, 2 bytes each, and each scan goes over them again.
    "PROGRESSIVE_JPEG": ImageLimit(pixels=27_000_000, parts=1_000),
    # A fourth sample, and a copy for the colours.
    "CMYK_JPEG": ImageLimit(pixels=25_000_000, parts=1_000),
    "PNG": ImageLimit(pixels=24_000_000),
    # Twice the bytes to inflate and to filter.
    "PNG_16": ImageLimit(pixels=12_500_000),
    # libwebp's animation decoder holds several copies of the canvas: 16 bytes a pixel.
    "WEBP": ImageLimit(pixels=16_000_000),
    "GIF": ImageLimit(pixels=32_000_000, parts=65_536),
    "BMP": ImageLimit(pixels=32_000_000),
    # Pillow decodes run lengths in Python, pixel by pixel.
    "BMP_RLE": ImageLimit(pixels=4_000_000),
}
