"""What a title counts by: its words, pairs of words and parts of words, found from token ids alone, in the graph.

A token is a word, or a piece of one. Parts are every three and four characters of a word and the blanks around it,
which plurals, compounds and rare words share; those that lie in one token or across two neighbours are found, of a long
token the first INSIDE. Terms that are too many to have a row each share rows by a hash (Weinberger et al., arXiv
0902.2206), and the rarer a term, the more it counts (inverse document frequency).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from model.tokenizer import token_texts

# B batch, T token ids, V vocabulary, N terms of a title

PAIRS = 16_384  # rows that pairs of words share
PARTS = 16_381  # rows that parts of words share; a prime, as parts are hashed by a polynomial
BASE = 31_337
LENGTHS = (3, 4)
INSIDE = 12
# Characters that a part has in one token and in the next.
ACROSS = ((1, 2), (2, 1), (1, 3), (2, 2), (3, 1))
NO_PART = PARTS
NEVER = 2 * PARTS  # no sum with it is below this, and no other sum reaches it


class TitleTerms(nn.Module):
    """Rows of a table of `rows` for the terms of titles; the last is of what is no term.

    Attributes:
        rarity: of each row, 1 unless `fit` has seen titles; saved with the weights.
    """

    rarity: Tensor
    before: Tensor
    behind: Tensor
    inside: Tensor
    ends: Tensor
    begins: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.rows = vocab_size, vocab_size + PAIRS + PARTS + 1
        # A pair's row is the sum of two numbers, modulo PAIRS: engines that multiply integers as float32 agree on it.
        ids = torch.arange(vocab_size)
        self.register_buffer("before", (ids * 31337 + 13) % PAIRS, persistent=False)
        self.register_buffer("behind", ids * 7919 % PAIRS, persistent=False)
        for name, table in zip(("inside", "ends", "begins"), part_tables(vocab_size), strict=True):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.register_buffer("rarity", torch.ones(self.rows))

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, int64 [B, N], and how much each counts, float32 [B, N], 0 where there is no term.

        Words and pairs together have length 1, and so have parts. mask_BT is True up to the end token. Start and end
        make pairs with their neighbours and are no words.
        """
        ids_BT = input_ids_BT.long()
        is_pair = mask_BT[:, 1:]
        is_word = torch.cat([is_pair, torch.zeros_like(mask_BT[:, :1])], dim=1)
        is_word = is_word & (torch.arange(mask_BT.shape[1], device=mask_BT.device) > 0)
        sums = self.before[ids_BT[:, :-1]] + self.behind[ids_BT[:, 1:]]
        pairs = torch.where(sums < PAIRS, sums, sums - PAIRS) + self.vocab_size
        words, word_weights = self._weighed([(ids_BT, is_word), (pairs, is_pair)])
        sums = self.ends[ids_BT[:, :-1]] + self.begins[ids_BT[:, 1:]]
        across = torch.where(sums < PARTS, sums, torch.where(sums < NEVER, sums - PARTS, NO_PART))
        parts = [(self.inside[ids_BT], is_word), (across, is_pair)]
        first = self.vocab_size + PAIRS
        flat = [
            ((rows + first).flatten(1), ((rows != NO_PART) & is_there[:, :, None]).flatten(1))
            for rows, is_there in parts
        ]
        part_rows, part_weights = self._weighed(flat)
        return torch.cat([words, part_rows], dim=1), torch.cat([word_weights, part_weights], dim=1)

    def _weighed(self, terms: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Rows side by side, and their rarity where there is a term, together of length 1."""
        rows_BN = torch.cat([rows for rows, _ in terms], dim=1)
        weights_BN = self.rarity[rows_BN] * torch.cat([is_there for _, is_there in terms], dim=1)
        return rows_BN, weights_BN / weights_BN.square().sum(dim=1, keepdim=True).clamp(min=1e-6).sqrt()

    @torch.no_grad()
    def fit(self, input_ids_NT: Tensor, mask_NT: Tensor) -> None:
        """Count in how many titles each row has a term."""
        titles_R = torch.zeros_like(self.rarity)
        for ids_BT, mask_BT in zip(input_ids_NT.split(64), mask_NT.split(64), strict=True):
            rows_BN, weights_BN = self(ids_BT, mask_BT)
            is_in_BR = torch.zeros(len(ids_BT), self.rows).scatter_reduce(1, rows_BN, (weights_BN > 0).float(), "amax")
            titles_R += is_in_BR.sum(dim=0)
        self.rarity.copy_(1 + torch.log((1 + len(input_ids_NT)) / (1 + titles_R)))


@lru_cache(maxsize=2)
def part_tables(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a token's parts, and numbers whose sum, modulo PARTS, is the row of a part across two tokens.

    Returns:
        int64: inside [V, INSIDE], NO_PART where there is none; ends and begins [V, len(ACROSS)], by the token before
        and by that behind, NEVER where it has not the characters.
    """
    inside = np.full((vocab_size, INSIDE), NO_PART)
    ends, begins = (np.full((vocab_size, len(ACROSS)), NEVER) for _ in range(2))
    for token, text in enumerate(token_texts(vocab_size)):
        own = [_hash(text[i : i + length]) for length in LENGTHS for i in range(len(text) - length + 1)][:INSIDE]
        inside[token, : len(own)] = own
        last = " " if text.endswith(" ") else text  # no part goes on into the next word
        for k, (left, right) in enumerate(ACROSS):
            if left <= len(last):
                ends[token, k] = _hash(last[-left:]) * BASE**right % PARTS
            if right <= len(text):
                begins[token, k] = _hash(text[:right])
    return inside, ends, begins


def _hash(text: str) -> int:
    total = 0
    for character in text:
        total = (total * BASE + ord(character)) % PARTS
    return total
