"""Titles that Hypothesis makes up: each becomes token ids or is refused with a code, and none costs much.

    python -m bench.title_fuzz --titles 100000

Exit status 1: an exception without a code, wrong ids, or a title that took more CPU time than the limit. Hypothesis
makes it as short as it can; its bytes are kept in --output.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from html.entities import html5
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.fuzzing import in_time
from cma_clip.command import command
from model.config import PreprocessConfig
from model.preprocess import LONGEST_READ, TitleTokenizer, pixels_and_presence
from model.refusal import Code, Refusal
from model.tokenizer import build_tokenizer

CONFIG = PreprocessConfig()
MOST_SECONDS = 0.5
ENCODINGS = ("utf-8", "latin-1", "cp1252", "cp437", "mac-roman", "shift-jis", "utf-16", "utf-7")
LIMITS = (CONFIG.context_length, LONGEST_READ, CONFIG.max_title_bytes)
REFUSED = (Code.TXT_INVALID_UTF8, Code.TXT_TOO_LONG)


def titles() -> st.SearchStrategy[str | bytes]:
    """Text of all planes, halves of surrogates too, and bytes; alone, nested, repeated, and about the limits."""
    marks = st.text(st.characters(categories=["Mn", "Mc", "Me", "Cf"]), min_size=1)
    names = st.sampled_from([f"&{name}" for name in html5])
    numbers = st.integers(0, 1 << 70).flatmap(lambda n: st.sampled_from([f"&#{n};", f"&#x{n:x};", f"&#{n}", f"&#{n}é"]))
    odd = st.sampled_from(
        ["&", "\r\n", "\u3000", "\0", "\x1b[31m", "\ufdfa", "👩\u200d👩", "<|endoftext|>", "Ã\xa0", "ﷺ"]
    )
    piece = st.text(st.characters()) | st.text(st.characters(codec="ascii")) | marks | names | numbers | odd
    text = st.lists(piece, max_size=8).map("".join)
    text |= st.builds(_nested, text, st.integers(1, 6)) | st.builds(_misread, text, *2 * [st.sampled_from(ENCODINGS)])
    text |= st.builds(_long, text, piece, st.sampled_from(LIMITS), st.integers(-2, 2))
    return text | st.binary() | st.builds(_in_bytes, text, st.sampled_from(ENCODINGS), st.binary(max_size=3))


def _nested(text: str, times: int) -> str:
    for _ in range(times):
        text = html.escape(text)
    return text


def _misread(text: str, written: str, read: str) -> str:
    return text.encode(written, "replace").decode(read, "replace")


def _long(text: str, piece: str, limit: int, more: int) -> str:
    """The text and the piece over and over, some characters about a limit."""
    return (text + (piece or " ") * limit)[: limit + more]


def _in_bytes(text: str, encoding: str, tail: bytes) -> bytes:
    return text.encode(encoding, "replace") + tail


@lru_cache(maxsize=1)
def tokenizer() -> TitleTokenizer:
    return TitleTokenizer(build_tokenizer(CONFIG.vocab_size), CONFIG)


def verdict(title: str | bytes) -> str:
    """`read`, `absent`, the refusal's code, or what went wrong."""
    return in_time(lambda: _outcome(title), MOST_SECONDS, tries=2)


def _outcome(title: str | bytes) -> str:
    try:
        return _ids_are(tokenizer().encode(title), _is_present(title))
    except Refusal as refusal:
        return str(refusal.code) if refusal.code in REFUSED else f"wrong code: {refusal.code}"
    except Exception as error:
        return f"no code: {type(error).__name__}"


def _is_present(title: str | bytes) -> bool:
    try:
        return pixels_and_presence(title, b"", CONFIG)[1] == (True, False)
    except Refusal as refusal:
        if refusal.code != Code.NO_MODALITY:
            raise
        return False


def _ids_are(ids: np.ndarray, present: bool) -> str:
    """Start, words and end, at most a context of them; words are there where the title is present, and only there."""
    first, *words, last = ids.tolist()
    whole = ids.dtype == np.int32 and len(ids) <= CONFIG.context_length
    if not whole or (first, last) != (tokenizer().start_id, tokenizer().end_id) or max(words, default=0) >= first:
        return f"wrong ids: {ids.dtype} {ids.tolist()}"
    if present != bool(words):
        return f"wrong presence: {present} with {len(words)} words"
    return "read" if present else "absent"


def fuzz(most: int, number: int) -> tuple[Counter[str], str | bytes | None]:
    """Verdicts of that many titles, and the shortest of those that went wrong; the same ones for the same number."""
    counts: Counter[str] = Counter()
    wrong: list[str | bytes] = []

    @seed(number)
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(titles())
    def try_one(title: str | bytes) -> None:
        found = verdict(title)
        counts[found] += 1
        if found not in ("read", "absent", *REFUSED):
            wrong.append(title)
            raise AssertionError(found)

    try:
        try_one()
    except (AssertionError, ExceptionGroup) as problem:
        print(problem, file=sys.stderr)
    return counts, min(wrong, key=len, default=None)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="make titles up and turn them into token ids")
    parser.add_argument("--titles", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="other titles (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/title_fuzz"), help="directory for what fails")
    options = parser.parse_args(arguments)
    counts, wrong = fuzz(options.titles, options.seed)
    print(json.dumps(dict(counts.most_common()), indent=2))
    if wrong is None:
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / f"{options.seed}.bin"
    kept.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode("utf-8", "surrogatepass"))
    print(f"kept: {kept}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
