"""A small convolutional network over the image, beside CLIP's tower.

Convolutions find edges, colours and textures wherever they lie, which a transformer over patches first has to learn
from more images than a small catalogue has (RESULTS.md). It looks at 64 x 64 pixels, 45 million multiplications an
image, whatever the towers see.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.small_image import SIDE, SmallImage

# B batch, D width, S side of the image

CHANNELS = (32, 64, 128, 256)
GROUPS = 8
SHIFT = 4  # pixels, in training


class Convolutions(nn.Module):
    """A residual network (He et al., arXiv 1512.03385) of three blocks with group norm, its means and maxima.

    In training all images of a batch are shifted by up to SHIFT pixels, the border repeated.

    Args:
        width: of the vectors that it gives.
        image_size: side of the square images, pixels.
        dropout: before the last layer.
    """

    def __init__(self, width: int, image_size: int, dropout: float) -> None:
        super().__init__()
        self.small = SmallImage(image_size)
        self.stem = nn.Sequential(*_convolution(3, CHANNELS[0], kernel=5, stride=2), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(i, o) for i, o in zip(CHANNELS, CHANNELS[1:], strict=False)))
        self.dropout = nn.Dropout(dropout)
        self.to_width = nn.Linear(2 * CHANNELS[-1], width)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to [B, D]."""
        return self.of_small(self.small(pixels_BHWC))

    def of_small(self, image_B3SS: Tensor) -> Tensor:
        """What `forward` gives, of an image that `small` has made."""
        if self.training:
            image_B3SS = _shifted(image_B3SS)
        seen = self.blocks(self.stem((image_B3SS - 128) / 64))
        return self.to_width(self.dropout(torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))], dim=1)))


class Residual(nn.Module):
    """Half the size, and another number of channels; what is added starts as nothing."""

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        self.straight = nn.Sequential(nn.AvgPool2d(2), *_convolution(channels, wanted, kernel=1))
        self.curved = nn.Sequential(
            *_convolution(channels, wanted, kernel=3, stride=2), nn.ReLU(), *_convolution(wanted, wanted, kernel=3)
        )
        last = self.curved[-1]
        assert isinstance(last, nn.GroupNorm)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, S, S] to [B, wanted, S / 2, S / 2]."""
        return F.relu(self.straight(x) + self.curved(x))


def _convolution(channels: int, wanted: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.GroupNorm]:
    convolution = nn.Conv2d(channels, wanted, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.GroupNorm(GROUPS, wanted)


def _shifted(image_B3SS: Tensor) -> Tensor:
    padded = F.pad(image_B3SS, (SHIFT,) * 4, mode="replicate")
    top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    return padded[:, :, top : top + SIDE, left : left + SIDE]
