"""The one definition of how bytes become tensors, in training and in serving alike. No torch here.

Pixels are those of open_clip's evaluation transform (bicubic with antialiasing, centre crop), still
uint8: the network's graph normalises them. Token ids are those of open_clip's tokenizer.

Every refusal is a ValueError that starts with a code: IMG_EMPTY, IMG_UNDECODABLE, IMG_TRUNCATED,
IMG_FORMAT_NOT_ALLOWED, IMG_TOO_MANY_PIXELS, IMG_TOO_MANY_BYTES, TXT_INVALID_UTF8, TXT_TOO_LONG.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer

from model.config import PreprocessConfig

# B batch, T token ids, H and W image_size

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"\x00\x00\x01\x00": "ICO",
    b"SIMPLE  =": "FITS",
    b"8BPS": "PSD",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
}
# A marker in JPEG data: 0xFF followed by neither a stuffed zero, nor a restart, nor filling.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
JPEG_END = 0xD9
PNG_END = b"IEND\xaeB`\x82"
EXIF_ORIENTATION = 0x0112
LONGEST_EXACT = 16
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_to_pixels(data: bytes, config: PreprocessConfig) -> np.ndarray:
    """Encoded picture to pixels, uint8 [H, W, 3] in 0..255, red first.

    Raises:
        ValueError: the picture is refused; the message starts with its IMG_ code.
    """
    return np.asarray(resize_and_crop(decode_image(data, config), config.image_size))


def decode_image(data: bytes, config: PreprocessConfig) -> Image.Image:
    """Encoded picture to an upright RGB image of its own size: the first frame, transparency on white.

    Raises:
        ValueError: the picture is refused; the message starts with its IMG_ code.
    """
    if not data:
        raise ValueError("IMG_EMPTY: the picture has 0 bytes")
    if len(data) > config.max_image_bytes:
        raise ValueError(f"IMG_TOO_MANY_BYTES: {len(data)} bytes, at most {config.max_image_bytes} are accepted")
    image = _open(data, config)
    if image.width * image.height > config.max_pixels:
        raise ValueError(
            f"IMG_TOO_MANY_PIXELS: {image.width} x {image.height}, at most {config.max_pixels} pixels are accepted"
        )
    if _ends_too_early(data):
        raise ValueError(f"IMG_TRUNCATED: the {image.format} data stops after {len(data)} bytes, before its end")
    try:
        image.load()
        return _on_white(_upright(image))
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise ValueError(f"IMG_TRUNCATED: the {image.format} data is incomplete") from error
        raise ValueError(f"IMG_UNDECODABLE: the {image.format} data is damaged") from error


def _open(data: bytes, config: PreprocessConfig) -> Image.Image:
    """Read the header only; the parsers of other formats never see the data."""
    try:
        return Image.open(io.BytesIO(data), formats=config.formats)
    except Image.DecompressionBombError:
        raise ValueError(f"IMG_TOO_MANY_PIXELS: at most {config.max_pixels} pixels are accepted") from None
    except Exception as error:  # as above: any failure here means that this is no readable picture
        name = next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)
        if name in config.formats:
            raise ValueError(f"IMG_TRUNCATED: no complete {name} header in {len(data)} bytes") from error
        if name:
            raise ValueError(f"IMG_FORMAT_NOT_ALLOWED: {name} is not among {', '.join(config.formats)}") from error
        raise ValueError("IMG_UNDECODABLE: the data is not a picture") from error


def _ends_too_early(data: bytes) -> bool:
    """Whether the end marker is missing: Pillow decodes a JPEG that lacks its last bytes without a word."""
    if data.startswith(b"\xff\xd8"):
        return not _jpeg_has_end(data)
    return data.startswith(b"\x89PNG") and PNG_END not in data


def _jpeg_has_end(data: bytes) -> bool:
    """Step from segment to segment, so that neither a thumbnail's end nor a trailer is taken for the picture's."""
    position = 2
    while marker := JPEG_MARKER.search(data, position):
        if data[marker.start() + 1] == JPEG_END:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the picture itself
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square of the picture with its shorter side scaled to `size` pixels.

    Equals torchvision's Resize then CenterCrop bit for bit. Of a picture longer than LONGEST_EXACT
    times its width, only the middle is scaled, so that 1 x 5000 pixels cost no more than their square.
    """
    short, long = sorted(image.size)
    if long > LONGEST_EXACT * short:
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    return scaled.crop((left, top, left + size, top + size))


def pixels_and_presence(
    title: bytes | str, image: bytes, config: PreprocessConfig
) -> tuple[np.ndarray, tuple[bool, bool]]:
    """Pixels of a product, black where it has no picture, and whether there is a title, a picture.

    A title of which cleaning leaves nothing is absent. The network masks what is absent.

    Raises:
        ValueError: NO_MODALITY where both are absent, or the title or the picture is refused.
    """
    has_title, has_image = bool(clean_title(title, config.max_title_bytes)), bool(image)
    if not has_title and not has_image:
        raise ValueError("NO_MODALITY: a product needs a title or a picture")
    blank = np.zeros((config.image_size, config.image_size, 3), dtype=np.uint8)
    return (image_to_pixels(image, config) if has_image else blank), (has_title, has_image)


class TitleTokenizer:
    """CLIP's byte pair encoding: titles to token ids, start and end token included."""

    def __init__(self, tokenizer: Tokenizer, config: PreprocessConfig) -> None:
        if tokenizer.get_vocab_size() != config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} ids, the config {config.vocab_size}")
        self.tokenizer, self.config = tokenizer, config
        self.start_id, self.end_id = config.vocab_size - 2, config.vocab_size - 1

    @classmethod
    def load(cls, path: Path, config: PreprocessConfig) -> TitleTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            ValueError: it is missing, unreadable, or of another size than the config's vocabulary.
        """
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        try:
            return cls(Tokenizer.from_file(str(path)), config)
        except Exception as error:  # the library raises plain Exception on a bad file
            raise ValueError(f"{path}: {error}") from error

    def encode(self, title: bytes | str) -> np.ndarray:
        """One title to int32 [T], T at most context_length, not padded; the end token is never cut off.

        Raises:
            ValueError: TXT_INVALID_UTF8 or TXT_TOO_LONG.
        """
        words = self.tokenizer.encode(clean_title(title, self.config.max_title_bytes)).ids
        return np.array([self.start_id, *words[: self.config.context_length - 2], self.end_id], dtype=np.int32)

    def encode_batch(self, titles: Sequence[bytes | str]) -> np.ndarray:
        """Titles to int32 [B, T], padded with 0 to one of the config's title_lengths."""
        return pad_titles([self.encode(title) for title in titles], self.config)


def pad_titles(titles: Sequence[np.ndarray], config: PreprocessConfig) -> np.ndarray:
    """Token ids of several titles to int32 [B, T]: T is the smallest title length that holds them all."""
    longest = max(len(ids) for ids in titles)
    padded = np.zeros((len(titles), next(n for n in config.title_lengths if n >= longest)), dtype=np.int32)
    for row, ids in zip(padded, titles, strict=True):
        row[: len(ids)] = ids
    return padded


def clean_title(title: bytes | str, max_bytes: int) -> str:
    """Repair, unescape, fold white space and lower the case, as open_clip's tokenizer does.

    Raises:
        ValueError: TXT_INVALID_UTF8 or TXT_TOO_LONG.
    """
    try:
        encoded = title.encode() if isinstance(title, str) else title
        text = encoded.decode()
    except UnicodeError as error:
        raise ValueError(f"TXT_INVALID_UTF8: the title is not UTF-8 at position {error.start}") from None  # type: ignore[attr-defined]
    if len(encoded) > max_bytes:
        raise ValueError(f"TXT_TOO_LONG: {len(encoded)} bytes, at most {max_bytes} are accepted")
    if not (text.isascii() and text.isprintable() and "&" not in text):  # ftfy leaves such text as it is
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
