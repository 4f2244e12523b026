"""The rivals of Tables 1 to 3, over the same towers, trained and served by the same code as CMA-CLIP.

Each takes what CMAClip takes and gives what it gives. λ is 1 where only the title is read, 0 where only
the picture is, and 0.5 where a network does not weigh them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.clip_towers import OpenClip, text_mask
from model.cma_clip import CMAClip, Network, Output
from model.config import Architecture, ModelConfig, PreprocessConfig, Task
from model.modality_heads import ModalityHeads
from model.sequence_attention import SequenceAttention

# B batch, T text tokens, P image tokens, S = T + P, D width, V width of the text tower, K tasks

TEXT_ENCODER = (
    "towers.clip.positional_embedding",
    "towers.clip.transformer.",
    "towers.clip.ln_final.",
    "towers.clip.text_projection",
)
WORDS = ("towers.clip.token_embedding.",)
IMAGE_TOWER = ("towers.clip.visual.",)


class ImageOnly(Network):
    """The image tower's class token and the heads: ViT in Table 2."""

    unused = TEXT_ENCODER + WORDS

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        self.modality_heads = _heads(config, tasks, self.towers.width)

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        image_cls_BD = self.towers.encode_image(pixels_BHWC)[:, 0]
        return Output(*self.modality_heads(image_cls_BD, image_cls_BD, _only(present_B2, 1)))


class TextOnly(Network):
    """The text tower, a bidirectional transformer as BERT's over its tokens, and the heads: BERT in Table 2."""

    unused = (*IMAGE_TOWER, "sequence_attention.image_position")

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        sizes = (self.towers.width, preprocess.context_length, self.towers.image_tokens)
        self.sequence_attention = SequenceAttention(config, *sizes)
        self.modality_heads = _heads(config, tasks, self.towers.width)

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        text_BTD, end_B = self.towers.encode_text(input_ids_BT)
        x_BTD = self.sequence_attention.mix(
            self.sequence_attention.place_text(text_BTD), text_mask(input_ids_BT, end_B)
        )
        return Output(*self.modality_heads(x_BTD[:, 0], x_BTD[:, 0], _only(present_B2, 0)))


class ClipLinearProbe(Network):
    """Logistic regression on the two frozen, pooled features side by side: CLIP in Table 2."""

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        self.num_tasks = len(tasks)
        self.modality_heads = nn.Linear(2 * self.towers.width, sum(len(task.labels) for task in tasks))

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        features_BF = pooled_features(self, input_ids_BT, pixels_BHWC, present_B2)
        share_BK = torch.full_like(features_BF[:, :1], 0.5, dtype=torch.float32).expand(-1, self.num_tasks)
        return Output(self.modality_heads(features_BF), share_BK)


class LateFusion(Network):
    """The two pooled features side by side under MLP heads, trained throughout: AutoGluon's MultiModalPredictor."""

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        self.modality_heads = _heads(config, tasks, 2 * self.towers.width, hidden=self.towers.width)

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        features_BF = pooled_features(self, input_ids_BT, pixels_BHWC, present_B2)
        return Output(*self.modality_heads(features_BF, features_BF, torch.ones_like(present_B2)))


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

    unused = TEXT_ENCODER

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        sizes = (self.towers.width, preprocess.context_length, self.towers.image_tokens)
        self.sequence_attention = WordTransformer(config, *sizes, clip.token_embedding.embedding_dim)
        self.modality_heads = _heads(config, tasks, self.towers.width)

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        words_BTD = self.sequence_attention.words(self.towers.clip.token_embedding(input_ids_BT))
        image_BPD = self.towers.encode_image(pixels_BHWC)
        # The start token is always there: it carries the answer.
        has_title_BT = present_B2[:, :1] | (torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device) == 0)
        text_mask_BT = text_mask(input_ids_BT, input_ids_BT.argmax(dim=1)) & has_title_BT
        mask_BS = torch.cat([text_mask_BT, present_B2[:, 1:].expand(-1, image_BPD.shape[1])], dim=1)
        answer_BD, _ = self.sequence_attention(words_BTD, image_BPD, mask_BS)
        return Output(*self.modality_heads(answer_BD, answer_BD, torch.ones_like(present_B2)))


ARCHITECTURES: dict[Architecture, type[Network]] = {
    "cma_clip": CMAClip,
    "image_only": ImageOnly,
    "text_only": TextOnly,
    "clip_linear_probe": ClipLinearProbe,
    "late_fusion": LateFusion,
    "mmbt": MMBT,
}


def create_network(config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip) -> Network:
    """The network that `config.architecture` names, its towers with the weights of `clip`, the rest random."""
    return ARCHITECTURES[config.architecture](config, preprocess, tasks, clip)


def pooled_features(network: Network, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Tensor:
    """T_CLS and I_CLS side by side, [B, 2 D]; an absent one is 0."""
    text_BTD, image_BPD, _ = network.towers(input_ids_BT, pixels_BHWC)
    return torch.cat([text_BTD[:, 0] * present_B2[:, :1], image_BPD[:, 0] * present_B2[:, 1:]], dim=1)


def _heads(config: ModelConfig, tasks: Sequence[Task], width: int, hidden: int | None = None) -> ModalityHeads:
    """CMA-CLIP's heads, given the same vector for title and picture."""
    hidden = config.head_width or hidden or width
    return ModalityHeads(tasks, width, hidden, config.dropout, learned_share=False, kernels=config.kernels)


def _only(present_B2: Tensor, modality: int) -> Tensor:
    """Presence of a product that has this modality and not the other: λ is 1 for the title, 0 for the picture."""
    columns = [torch.ones_like(present_B2[:, 0]), torch.zeros_like(present_B2[:, 0])]
    return torch.stack(columns if modality == 0 else columns[::-1], dim=1)
