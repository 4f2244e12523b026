"""The image at one small size, whatever the towers see: what looks at it there costs the same for every CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# B batch, H and W image size, S side of what is looked at

SIDE = 64


class SmallImage(nn.Module):
    """The means over SIDE x SIDE equal parts.

    Args:
        image_size: side of the square images, pixels.
    """

    area: Tensor | None

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.register_buffer("area", None if image_size == SIDE else _area_weights(image_size), persistent=False)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 3, SIDE, SIDE], 0 to 255."""
        # Laid out anew: with the channels last, pooling could not be exported for a batch of one.
        image_B3HW = pixels_BHWC.permute(0, 3, 1, 2).float().clone(memory_format=torch.contiguous_format)
        return image_B3HW if self.area is None else self.area @ image_B3HW @ self.area.T


def _area_weights(size: int) -> Tensor:
    """[SIDE, size]: each row is the mean over one of SIDE equal parts of `size` pixels."""
    edges = torch.arange(SIDE + 1, dtype=torch.float64) * size / SIDE
    pixels = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * SIDE / size).float()
