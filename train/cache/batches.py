"""Batches of what was cached, in the place of titles and pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from model.clip_towers import TokenSequences, text_mask
from model.cma_clip import CMAClip, Network, Output, Vectors
from model.wide import Wide, WidePart
from train.data import Batch

# B batch, T token ids, P image tokens, D width, S side of the small image, F statistics


@dataclass
class CachedBatch(Batch):
    """A batch without pixels ([B, 0]). statistics_BF: of the images, where a wide part looks at them."""

    statistics_BF: Tensor | None

    def seen_by(self, wide: WidePart) -> Wide:
        return self._beside(wide, self.present_B2)

    def _beside(self, wide: WidePart, present_B2: Tensor) -> Wide:
        assert self.statistics_BF is not None
        ids_BT = self.input_ids_BT
        return wide.of_statistics(ids_BT, text_mask(ids_BT), self.statistics_BF.float(), present_B2)

    def _answered(self, network: CMAClip, vectors: Vectors, present_B2: Tensor) -> tuple[Output, Tensor | None]:
        beside = None if network.wide is None else self._beside(network.wide, present_B2)
        return network.of_vectors(vectors, beside, present_B2)


@dataclass
class TokenBatch(CachedBatch):
    """What the towers said: text_BTD as long as the token ids, image_BPD; small_B3SS for the convolutions."""

    text_BTD: Tensor
    image_BPD: Tensor
    small_B3SS: Tensor | None

    def classified_by(self, network: Network, present_B2: Tensor) -> tuple[Output, Tensor | None]:
        assert isinstance(network, CMAClip)
        tokens = TokenSequences(self.text_BTD.float(), self.image_BPD.float(), text_mask(self.input_ids_BT))
        convolved_BD: Tensor | None = None
        if network.convolutions is not None and self.small_B3SS is not None:
            convolved_BD = network.convolutions.of_small(self.small_B3SS.float())
        return self._answered(network, network.mixed(tokens, convolved_BD, present_B2), present_B2)

    def exchanged(self, title_of_B: Tensor, image_of_B: Tensor) -> Self:
        images = {"image_BPD": self.image_BPD, "small_B3SS": self.small_B3SS, "statistics_BF": self.statistics_BF}
        moved: dict[str, Any] = {name: tensor[image_of_B] for name, tensor in images.items() if tensor is not None}
        titles: dict[str, Any] = {"input_ids_BT": self.input_ids_BT[title_of_B], "text_BTD": self.text_BTD[title_of_B]}
        return replace(self, **titles, **moved)


@dataclass
class VectorBatch(CachedBatch):
    """What the heads are given: vectors_B4D and alike_B1 as train.cache.layout.columns_of has them."""

    vectors_B4D: Tensor
    alike_B1: Tensor | None

    def classified_by(self, network: Network, present_B2: Tensor) -> tuple[Output, Tensor | None]:
        assert isinstance(network, CMAClip)
        has_both_B1 = present_B2.all(dim=1, keepdim=True)
        text_BD, image_BD, title_alone_BD, image_alone_BD = self.vectors_B4D.float().unbind(dim=1)
        seen = torch.where(has_both_B1, text_BD, title_alone_BD), torch.where(has_both_B1, image_BD, image_alone_BD)
        return self._answered(network, Vectors(*seen, self.alike_B1), present_B2)

    def exchanged(self, title_of_B: Tensor, image_of_B: Tensor) -> Self:
        raise AssertionError("title and image have been mixed: train.cache.use refuses to exchange them")
