"""CLIP's byte pair encoding as a Hugging Face tokenizer, built from the merges that open_clip ships."""

from __future__ import annotations

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
# open_clip's pattern without its two special tokens: a title that spells them is text like any other.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """The first `vocab_size` ids of CLIP's vocabulary (49,408 is all of it), two of them start and end.

    Ids equal open_clip's SimpleTokenizer with as many merges. Titles must be cleaned first
    (model.preprocess.clean_title); start and end tokens are added by TitleTokenizer.
    """
    clip = SimpleTokenizer()
    words = _words(clip, vocab_size)
    merges = list(clip.bpe_ranks)[: vocab_size - len(clip.byte_encoder) * 2 - 2]
    bpe = models.BPE({word: i for i, word in enumerate(words)}, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def token_texts(vocab_size: int) -> list[str]:
    """What each id of such a tokenizer stands for, a character a byte; a word's last token ends in a blank, the start
    token is one, and the end token is nothing."""
    words = _words(SimpleTokenizer(), vocab_size)
    return [*(word.replace("</w>", " ") for word in words[:-2]), " ", ""]


def _words(clip: SimpleTokenizer, vocab_size: int) -> list[str]:
    if vocab_size > clip.vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is more than CLIP's {clip.vocab_size}")
    return [*list(clip.encoder)[: vocab_size - 2], START, END]
