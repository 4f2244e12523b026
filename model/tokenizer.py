"""CLIP's byte pair encoding as a Hugging Face tokenizer, built from the merges that open_clip ships."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
# open_clip's pattern without its two special tokens: a title that spells them is text like any other.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """The first `vocab_size` ids of CLIP's vocabulary (49,408 is all of it), two of them start and end.

    Ids equal open_clip's SimpleTokenizer with as many merges. Titles must be cleaned first
    (model.preprocess.clean_title); start and end tokens are added by TitleTokenizer.
    """
    merges = _merges()[: vocab_size - 512 - 2]
    letters = list(_bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    if len(words) != vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is more than CLIP's {len(words)}")
    bpe = models.BPE({word: i for i, word in enumerate(words)}, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _merges() -> list[tuple[str, str]]:
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ValueError("open_clip_torch is not installed: pip install 'cma-clip[train]'")
    text = gzip.decompress((Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    lines = text.split("\n")[1 : 49152 - 256 - 2 + 1]
    return [(first, second) for first, second in (line.split() for line in lines)]


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
