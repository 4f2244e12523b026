"""The whole network (paper, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.clip_towers import ClipTowers, OpenClip
from model.config import ModelConfig, PreprocessConfig, Task
from model.modality_heads import ModalityHeads
from model.sequence_attention import SequenceAttention

# B batch, T text tokens, P image tokens, S = T + P, D width, C labels of all tasks, K tasks


class Output(NamedTuple):
    """logits_BC: all tasks side by side. text_share_BK: λ per task, float32."""

    logits_BC: Tensor
    text_share_BK: Tensor


class Network(nn.Module):
    """What training, export and serving ask of a network: `forward` as CMAClip's.

    Attributes:
        unused: prefixes of the parameters that no answer depends on.
    """

    unused: tuple[str, ...] = ()

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__()
        self.towers = ClipTowers(clip, preprocess)


class CMAClip(Network):
    """CLIP towers, sequence-wise attention, modality-wise attention and a head per task.

    Args:
        config: sizes and switches.
        preprocess: lengths and normalisation.
        tasks: in the order of the logits.
        clip: open_clip model from `create_clip`.
    """

    def __init__(
        self, config: ModelConfig, preprocess: PreprocessConfig, tasks: Sequence[Task], clip: OpenClip
    ) -> None:
        super().__init__(config, preprocess, tasks, clip)
        width = self.towers.width
        self.sequence_attention = (
            SequenceAttention(config, width, preprocess.context_length, self.towers.image_tokens)
            if config.sequence_attention
            else None
        )
        self.modality_heads = ModalityHeads(
            tasks, width, config.head_width or width, config.dropout, config.modality_attention, config.kernels
        )

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        """Classify products.

        Args:
            input_ids_BT: int32 or int64, T up to the context length, any padding behind the end token.
            pixels_BHWC: uint8.
            present_B2: bool, whether there is a title, an image; at least one in each row.
        """
        text_BTD, image_BPD, text_mask_BT = self.towers(input_ids_BT, pixels_BHWC)
        text_cls_BD, image_cls_BD = text_BTD[:, 0], image_BPD[:, 0]
        if self.sequence_attention is not None:
            image_mask_BP = present_B2[:, 1:].expand(-1, image_BPD.shape[1])
            mask_BS = torch.cat([text_mask_BT & present_B2[:, :1], image_mask_BP], dim=1)
            text_cls_BD, image_cls_BD = self.sequence_attention(text_BTD, image_BPD, mask_BS)
        return Output(*self.modality_heads(text_cls_BD, image_cls_BD, present_B2))
