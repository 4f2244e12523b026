"""Sequence-wise attention: a transformer over text and image tokens together (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig

# B batch, T text tokens, P image tokens, S = T + P, D width, N heads, E = D / N


class SequenceAttention(nn.Module):
    """BERT's encoder over {T_CLS, T_1 ..., I_CLS, I_1 ...}.

    Args:
        config: layers, heads, norm, dropout.
        width: D.
        text_tokens: longest text sequence; shorter ones use the first positions.
        image_tokens: P.
    """

    def __init__(self, config: ModelConfig, width: int, text_tokens: int, image_tokens: int) -> None:
        super().__init__()
        self.text_position = nn.Parameter(torch.empty(text_tokens, width))
        self.image_position = nn.Parameter(torch.empty(image_tokens, width))
        self.modality_type = nn.Parameter(torch.empty(2, width))
        is_gated = config.sequence_norm == "gated"
        self.embedding_norm = nn.Identity() if is_gated else nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, width) for _ in range(config.sequence_layers))
        self.final_norm = nn.LayerNorm(width) if config.sequence_norm == "pre" else nn.Identity()
        self.apply(_initialise)
        for embedding in (self.text_position, self.image_position, self.modality_type):
            nn.init.normal_(embedding, std=0.0 if is_gated else 0.02)

    def forward(self, text_BTD: Tensor, image_BPD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns T'_CLS and I'_CLS, both [B, D].

        mask_BS is True at tokens that may be attended to; at least one in each row.
        """
        length = text_BTD.shape[1]
        image_BPD = image_BPD + self.image_position + self.modality_type[1]
        x_BSD = self.mix(torch.cat([self.place_text(text_BTD), image_BPD], dim=1), mask_BS)
        return x_BSD[:, 0], x_BSD[:, length]

    def place_text(self, text_BTD: Tensor) -> Tensor:
        """The text tokens with what tells their place and their modality."""
        return text_BTD + self.text_position[: text_BTD.shape[1]] + self.modality_type[0]

    def mix(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """The transformer proper, over tokens that know their place."""
        x_BSD = self.dropout(self.embedding_norm(x_BSD))
        for block in self.blocks:
            x_BSD = block(x_BSD, mask_BS)
        return self.final_norm(x_BSD)


class Block(nn.Module):
    """One transformer block as in BERT; `pre` and `gated` move the norms to the branches' entrance."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        if width % config.sequence_heads:
            raise ValueError(f"model.sequence_heads: {config.sequence_heads} does not divide the width {width}")
        self.heads, self.norm_first = config.sequence_heads, config.sequence_norm != "post"
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.gates = nn.Parameter(torch.zeros(2, width)) if config.sequence_norm == "gated" else None

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        attention_gate, mlp_gate = (1.0, 1.0) if self.gates is None else self.gates
        x_BSD = self._residual(x_BSD, self.attention_norm, lambda x: attention_gate * self.attend(x, mask_BS))
        return self._residual(x_BSD, self.mlp_norm, lambda x: mlp_gate * self.mlp(x))

    def _residual(self, x: Tensor, norm: nn.LayerNorm, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def attend(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        batch, length, width = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, length, 3, self.heads, width // self.heads)
        q_BNSE, k_BNSE, v_BNSE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout.p if self.training else 0.0
        mixed_BNSE = F.scaled_dot_product_attention(
            q_BNSE, k_BNSE, v_BNSE, attn_mask=mask_BS[:, None, None, :], dropout_p=dropout
        )
        return self.out(mixed_BNSE.transpose(1, 2).reshape(batch, length, width))


def _initialise(module: nn.Module) -> None:
    """BERT's initial weights."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
