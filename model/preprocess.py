"""The one definition of how bytes become tensors, in training and in serving alike. No torch here.

Pixels are those of open_clip's evaluation transform (bicubic with antialiasing, centre crop; model.resize says how
nearly), still uint8: the network's graph normalises them. Token ids are those of open_clip's tokenizer.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
from tokenizers import Tokenizer

from model.config import PreprocessConfig
from model.image_header import Header
from model.images import image_to_pixels
from model.refusal import Code, Refusal

# B batch, T token ids, H and W image_size

# Characters; a context of 77 ids holds some 1,500 at most.
LONGEST_READ = 4096
# Runs of blanks, of which one is as good. Not of those that may be half of a wrongly decoded letter.
BLANKS = re.compile(r"[ \t\n\r]{2,}")
# Grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation selectors, the Braille blank.
FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def pixels_and_presence(
    title: bytes | str, image: bytes, config: PreprocessConfig, header: Header | None = None
) -> tuple[np.ndarray, tuple[bool, bool]]:
    """Pixels of a product, black where it has no image, and whether there is a title, an image.

    A title of which cleaning leaves nothing is absent. The network masks what is absent.

    Args:
        header: the image's, where it has been inspected before.
    Raises:
        Refusal: NO_MODALITY where both are absent, or the title or the image is refused.
    """
    has_title, has_image = bool(clean_title(title, config.max_title_bytes)), bool(image)
    if not has_title and not has_image:
        raise Refusal(Code.NO_MODALITY, "a product needs a title or an image")
    blank = np.zeros((config.image_size, config.image_size, 3), dtype=np.uint8)
    return (image_to_pixels(image, config, header) if has_image else blank), (has_title, has_image)


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
            Refusal: TXT_INVALID_UTF8 or TXT_TOO_LONG.
        """
        words = self.tokenizer.encode(clean_title(title, self.config.max_title_bytes)).ids
        return np.array([self.start_id, *words[: self.config.context_length - 2], self.end_id], dtype=np.int32)

    def encode_batch(self, titles: Sequence[bytes | str]) -> np.ndarray:
        """Titles to int32 [B, T], padded with 0 to one of the config's title_lengths."""
        return pad_titles([self.encode(title) for title in titles], self.config)


def pad_titles(titles: Sequence[np.ndarray], config: PreprocessConfig) -> np.ndarray:
    """Token ids of several titles to int32 [B, T]: T is the smallest title length that holds them all."""
    padded = np.zeros((len(titles), config.padded_length(max(map(len, titles)))), dtype=np.int32)
    for row, ids in zip(padded, titles, strict=True):
        row[: len(ids)] = ids
    return padded


def clean_title(title: bytes | str, max_bytes: int) -> str:
    """Repair, unescape, fold white space and lower the case, as open_clip's tokenizer does; "" if nothing is visible.

    Of a long title the first LONGEST_READ characters count, which are far more than a context holds: repairing takes
    the square of the length where the title is made for it.

    Raises:
        Refusal: TXT_INVALID_UTF8 or TXT_TOO_LONG.
    """
    if len(title) > max_bytes:  # of a str as well: no character has less than a byte
        raise _too_long(len(title), max_bytes)
    try:
        encoded = title.encode() if isinstance(title, str) else title
        text = encoded.decode()
    except UnicodeError as error:
        raise Refusal(Code.TXT_INVALID_UTF8, f"the title is not UTF-8 at position {error.start}") from None  # type: ignore[attr-defined]
    if len(encoded) > max_bytes:
        raise _too_long(len(encoded), max_bytes)
    if len(text) > LONGEST_READ:
        text = BLANKS.sub(lambda run: "\n" if "\n" in run[0] else run[0][0], text.strip(" \t\n\r"))[:LONGEST_READ]
    if not (text.isascii() and text.isprintable() and "&" not in text):  # ftfy leaves such text as it is
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = " ".join(text.split()).lower()
    return "" if all(_is_invisible(character) for character in text) else text


def _too_long(size: int, most: int) -> Refusal:
    return Refusal(Code.TXT_TOO_LONG, f"{size} bytes, at most {most} are accepted")


def _is_invisible(character: str) -> bool:
    """Whether nothing of it is seen: blanks, controls, formatting characters, and letters that are fillers."""
    return unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") or bool(FILLERS.match(character))
