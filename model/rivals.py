"""The rivals of Tables 1 to 3, over the same towers, trained and served by the same code as CMA-CLIP.

Each takes what CMAClip takes and gives what it gives. λ is 1 where only the title is read, 0 where only
the image is, and 0.5 where a network does not weigh them. model.networks has a row for each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip_towers import text_mask
from model.cma_clip import Network, Output
from model.config import ModelConfig
from model.parts import Parts
from model.sequence_attention import SequenceAttention

# B batch, T text tokens, P image tokens, S = T + P, D width, F features, V width of the text tower, K tasks


class ImageOnly(Network):
    """The image tower's class token and the heads: ViT in Table 2."""

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        image_cls_BD = self.towers.encode_image(pixels_BHWC)[:, 0]
        return Output(*self.modality_heads(image_cls_BD, image_cls_BD, _only(present_B2, 1)))


def image_only(parts: Parts) -> Network:
    return ImageOnly(parts.towers, parts.heads())


class TextOnly(Network):
    """The text tower, a bidirectional transformer as BERT's over its tokens, and the heads: BERT in Table 2."""

    sequence_attention: SequenceAttention

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        text_BTD = self.sequence_attention.place_text(self.towers.encode_text(input_ids_BT))
        x_BTD = self.sequence_attention.mix(text_BTD, text_mask(input_ids_BT))
        return Output(*self.modality_heads(x_BTD[:, 0], x_BTD[:, 0], _only(present_B2, 0)))


def text_only(parts: Parts) -> Network:
    mixer = parts.mixer()
    return TextOnly(parts.towers, parts.heads(), mixer)


class PooledFeatures(Network):
    """T_CLS and I_CLS of the towers side by side, an absent one as 0, under heads."""

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        text_BTD, image_BPD, _ = self.towers(input_ids_BT, pixels_BHWC)
        features_BF = torch.cat([text_BTD[:, 0] * present_B2[:, :1], image_BPD[:, 0] * present_B2[:, 1:]], dim=1)
        return Output(*self.modality_heads(features_BF, features_BF, torch.ones_like(present_B2)))


def late_fusion(parts: Parts) -> Network:
    """MLP heads, trained throughout: AutoGluon's MultiModalPredictor."""
    return PooledFeatures(parts.towers, parts.heads(2 * parts.sizes[0]))


class LinearHeads(nn.Module):
    """Logistic regression for all tasks, in the place of the heads; their weights lie side by side."""

    def __init__(self, width: int, columns: int, num_tasks: int) -> None:
        super().__init__()
        linear = nn.Linear(width, columns)
        self.weight, self.bias, self.num_tasks = linear.weight, linear.bias, num_tasks

    def forward(self, features_BF: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        share_BK = torch.full_like(features_BF[:, :1], 0.5, dtype=torch.float32).expand(-1, self.num_tasks)
        return F.linear(features_BF, self.weight, self.bias), share_BK


def clip_linear_probe(parts: Parts) -> Network:
    """Logistic regression on the two frozen features: CLIP in Table 2."""
    heads = LinearHeads(2 * parts.sizes[0], parts.tasks.num_columns, len(parts.tasks))
    return PooledFeatures(parts.towers, heads)


class WordTransformer(SequenceAttention):
    """Sequence-wise attention with a projection of word embeddings [.., V] to its width."""

    def __init__(self, config: ModelConfig, width: int, text_tokens: int, image_tokens: int, words: int) -> None:
        super().__init__(config, width, text_tokens, image_tokens)
        self.words = nn.Linear(words, width)


class MMBT(Network):
    """Word embeddings and image tokens in one bidirectional transformer, answered from its first token.

    As in "Supervised multimodal bitransformers" (arXiv 1909.02950), but over CLIP's word embeddings and image
    tower: the text tower's own transformer is left out. CLIP's start token stands for BERT's [CLS].
    """

    sequence_attention: WordTransformer

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        words_BTD = self.sequence_attention.words(self.towers.clip.token_embedding(input_ids_BT))
        image_BPD = self.towers.encode_image(pixels_BHWC)
        # The start token is always there: it carries the answer.
        has_title_BT = present_B2[:, :1] | (torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device) == 0)
        text_mask_BT = text_mask(input_ids_BT) & has_title_BT
        mask_BS = torch.cat([text_mask_BT, present_B2[:, 1:].expand(-1, image_BPD.shape[1])], dim=1)
        answer_BD, _ = self.sequence_attention(words_BTD, image_BPD, mask_BS)
        return Output(*self.modality_heads(answer_BD, answer_BD, torch.ones_like(present_B2)))


def mmbt(parts: Parts) -> Network:
    mixer = WordTransformer(parts.config, *parts.sizes, parts.clip.token_embedding.embedding_dim)
    return MMBT(parts.towers, parts.heads(), mixer)


def _only(present_B2: Tensor, modality: int) -> Tensor:
    """Presence of a product that has this modality and not the other: λ is 1 for the title, 0 for the image."""
    columns = [torch.ones_like(present_B2[:, 0]), torch.zeros_like(present_B2[:, 0])]
    return torch.stack(columns if modality == 0 else columns[::-1], dim=1)
