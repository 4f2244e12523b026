"""The whole network (paper, figure 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip_towers import ClipTowers, TokenSequences
from model.convolutions import Convolutions
from model.mismatch import MismatchPart
from model.modality_heads import ModalityHeads
from model.parts import Parts
from model.sequence_attention import SequenceAttention
from model.wide import Wide, WidePart

# B batch, T text tokens, P image tokens, S = T + P, D width, C labels of all tasks, K tasks


class Output(NamedTuple):
    """logits_BC: all tasks side by side. text_share_BK: λ per task, float32."""

    logits_BC: Tensor
    text_share_BK: Tensor


class Vectors(NamedTuple):
    """What heads are given, [B, D] each: T'_CLS, and I'_CLS before the wide part joins it.

    alike_B1: cosine of CLIP's own two, float32, where a mismatch is told.
    """

    text_BD: Tensor
    image_BD: Tensor
    alike_B1: Tensor | None


class Network(nn.Module):
    """What training, export and serving ask of a network: `forward` as CMAClip's.

    Args:
        towers: CLIP's.
        heads: of all tasks; gives logits and λ.
        mixer: a transformer over tokens, where there is one.
        wide: what goes past the towers, where there is such a part.
        convolutions: a small network beside the image tower, where there is one.
        mismatch: what compares title and image, where that is a task.
    """

    def __init__(
        self,
        towers: ClipTowers,
        heads: nn.Module,
        mixer: SequenceAttention | None = None,
        wide: WidePart | None = None,
        convolutions: Convolutions | None = None,
        mismatch: MismatchPart | None = None,
    ) -> None:
        super().__init__()
        self.towers, self.sequence_attention, self.modality_heads = towers, mixer, heads
        self.wide, self.convolutions, self.mismatch = wide, convolutions, mismatch

    def with_evidence(
        self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor
    ) -> tuple[Output, Tensor | None]:
        """What `forward` gives, and the evidence that λ may be drawn towards (model.wide), where there is any."""
        return self(input_ids_BT, pixels_BHWC, present_B2), None


class CMAClip(Network):
    """CLIP towers, sequence-wise attention (or none), modality-wise attention and a head per task.

    Args:
        reads_both: the heads take λ·T' and (1 - λ)·I' side by side, [.., 2 D], instead of their sum.
    """

    modality_heads: ModalityHeads

    def __init__(
        self,
        towers: ClipTowers,
        heads: nn.Module,
        mixer: SequenceAttention | None = None,
        reads_both: bool = False,
        wide: WidePart | None = None,
        convolutions: Convolutions | None = None,
        mismatch: MismatchPart | None = None,
    ) -> None:
        super().__init__(towers, heads, mixer, wide, convolutions, mismatch)
        self.reads_both = reads_both

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor) -> Output:
        """Classify products.

        Args:
            input_ids_BT: int32 or int64, T up to the context length, any padding behind the end token.
            pixels_BHWC: uint8.
            present_B2: bool, whether there is a title, an image; at least one in each row.
        """
        return self.with_evidence(input_ids_BT, pixels_BHWC, present_B2)[0]

    def with_evidence(
        self, input_ids_BT: Tensor, pixels_BHWC: Tensor, present_B2: Tensor
    ) -> tuple[Output, Tensor | None]:
        tokens = self.towers(input_ids_BT, pixels_BHWC)
        convolved_BD = None if self.convolutions is None else self.convolutions(pixels_BHWC)
        beside: Wide | None = None
        if self.wide is not None:
            beside = self.wide(input_ids_BT, tokens.text_mask_BT, pixels_BHWC, present_B2)
        return self.of_vectors(self.mixed(tokens, convolved_BD, present_B2), beside, present_B2)

    def mixed(self, tokens: TokenSequences, convolved_BD: Tensor | None, present_B2: Tensor) -> Vectors:
        """From the towers, and the convolutions where there are any, to the heads."""
        text_BTD, image_BPD, text_mask_BT = tokens
        text_cls_BD, image_cls_BD = text_BTD[:, 0], image_BPD[:, 0]
        alike_B1: Tensor | None = None
        if self.mismatch is not None:
            alike_B1 = F.cosine_similarity(text_cls_BD.float(), image_cls_BD.float())[:, None]
        if self.sequence_attention is not None:
            image_mask_BP = present_B2[:, 1:].expand(-1, image_BPD.shape[1])
            mask_BS = torch.cat([text_mask_BT & present_B2[:, :1], image_mask_BP], dim=1)
            text_cls_BD, image_cls_BD = self.sequence_attention(text_BTD, image_BPD, mask_BS)
        if convolved_BD is not None:
            image_cls_BD = image_cls_BD + convolved_BD
        return Vectors(text_cls_BD, image_cls_BD, alike_B1)

    def of_vectors(self, vectors: Vectors, beside: Wide | None, present_B2: Tensor) -> tuple[Output, Tensor | None]:
        """Heads, and what stands beside them; what the wide part says comes with a network that has one."""
        text_cls_BD, image_cls_BD, alike_B1 = vectors
        if beside is not None:
            image_cls_BD = image_cls_BD + beside.image_BD
        if self.reads_both:
            # λ·[T', 0] + (1 - λ)·[0, I'] = [λ·T', (1 - λ)·I']
            nothing_BD = torch.zeros_like(image_cls_BD)
            text_cls_BD = torch.cat([text_cls_BD, nothing_BD], dim=1)
            image_cls_BD = torch.cat([nothing_BD, image_cls_BD], dim=1)
        evidence_BK = beside.evidence_BK if beside else None
        logits_BC, text_share_BK = self.modality_heads(text_cls_BD, image_cls_BD, present_B2, evidence_BK)
        if self.mismatch is not None and alike_B1 is not None:
            logits_BC = self.mismatch(logits_BC, alike_B1)
        if self.wide is not None and beside is not None:
            logits_BC = self.wide.joined(logits_BC, beside.logits_BC)
        if self.mismatch is not None:
            logits_BC = self.mismatch.only_of_both(logits_BC, present_B2)
        return Output(logits_BC, text_share_BK), evidence_BK


def cma_clip(parts: Parts) -> Network:
    config, width = parts.config, parts.sizes[0]
    mixer = parts.mixer() if config.sequence_attention else None
    reads_both = config.head_inputs == "both"
    heads = parts.heads(2 * width if reads_both else width, learned_share=config.modality_attention)
    wide, convolutions = (
        (parts.wide() if config.wide else None),
        (parts.convolutions() if config.convolutions else None),
    )
    mismatch = parts.mismatch() if parts.tasks.is_mismatch_C.any() else None
    return CMAClip(parts.towers, heads, mixer, reads_both, wide, convolutions, mismatch)
