"""What networks are composed of, in the sizes that a recipe, CLIP's towers and a data set ask for."""

from __future__ import annotations

from model.clip_towers import ClipTowers, OpenClip
from model.config import ModelConfig, PreprocessConfig
from model.convolutions import Convolutions
from model.mismatch import MismatchPart
from model.modality_heads import ModalityHeads
from model.sequence_attention import SequenceAttention
from model.tasks import TaskSet
from model.wide import WidePart


class Parts:
    """One network's modules; each call makes a new one with random weights.

    Args:
        config: sizes and switches.
        preprocess: lengths and normalisation.
        tasks: in the order of the logits.
        clip: open_clip model from `create_clip`.
    Attributes:
        towers: with the weights of `clip`.
        sizes: width D, longest text sequence, image tokens P.
    """

    def __init__(self, config: ModelConfig, preprocess: PreprocessConfig, tasks: TaskSet, clip: OpenClip) -> None:
        self.config, self.preprocess, self.tasks, self.clip = config, preprocess, tasks, clip
        self.towers = ClipTowers(clip, preprocess)
        self.sizes = (self.towers.width, preprocess.context_length, self.towers.image_tokens)

    def mixer(self) -> SequenceAttention:
        return SequenceAttention(self.config, *self.sizes)

    def wide(self) -> WidePart:
        return WidePart(self.tasks, self.sizes[0], self.preprocess.vocab_size, self.preprocess.image_size)

    def convolutions(self) -> Convolutions:
        return Convolutions(self.sizes[0], self.preprocess.image_size, self.config.dropout)

    def mismatch(self) -> MismatchPart:
        return MismatchPart(self.tasks)

    def heads(self, width: int | None = None, learned_share: bool = False) -> ModalityHeads:
        """CMA-CLIP's heads.

        Args:
            width: of the vectors that they are given; D unless said.
            learned_share: False where title and image come as one vector, so that there is nothing to weigh.
        """
        own, config = self.sizes[0], self.config
        hidden = config.head_width or own
        return ModalityHeads(self.tasks, width or own, hidden, config.dropout, learned_share, config.kernels)
