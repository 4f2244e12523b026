"""What an image shows, by operators that need no training: colours, edges, textures and a thumbnail, inside the graph.

The same figures as train.rivals.image_features takes of a batch in NumPy, out of operators that every engine knows. The
sizes of both stand here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.small_image import SIDE, SmallImage

# B batch, H and W image size, S side of what is looked at, G cells along a side, N windows, F features

COLOR_LEVELS = 4  # of each channel
CELLS, DIRECTIONS = 8, 9
FLAT = 1e-4  # added to the strength of edges, so that noise is no edge
WINDOWS = (64, 32, 16)  # sides in pixels; the mean of all that overlap by half
RINGS, SECTORS = 8, 8
NO_POWER = 1e-3
LONGER = 1.001  # times, so that channels of equal gradients are equal in every engine, which round otherwise
FEATURES = 5 * COLOR_LEVELS**3 + CELLS**2 * DIRECTIONS + len(WINDOWS) * RINGS * SECTORS + CELLS**2 * 3


class ImageStatistics(nn.Module):
    """Histograms of colours and of oriented gradients, log power spectra, and a thumbnail.

    Args:
        image_size: side of the square images, pixels.
    """

    gray: Tensor
    levels: Tensor
    directions: Tensor
    ends: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.small = SmallImage(image_size)
        self._constant("gray", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1))
        self._constant("levels", torch.arange(COLOR_LEVELS, dtype=torch.float32).view(1, 1, -1, 1, 1))
        self._constant("directions", torch.arange(DIRECTIONS, dtype=torch.float32).view(1, -1, 1, 1))
        ends = torch.full((SIDE,), 0.5)
        ends[[0, -1]] = 1.0  # differences there reach one pixel, elsewhere two
        self._constant("ends", ends)
        for side in WINDOWS:
            hann = torch.hann_window(side + 2, periodic=False)[1:-1]
            angles = 2 * math.pi / side * torch.outer(torch.arange(side), torch.arange(side)).float()
            self._constant(f"hann{side}", torch.outer(hann, hann))
            self._constant(f"cosine{side}", torch.cos(angles))
            self._constant(f"sine{side}", torch.sin(angles))
            self._constant(f"bins{side}", torch.from_numpy(polar_bins(side)).flatten(0, 1).float())

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """float32 [B, FEATURES]; pixels are uint8."""
        image_B3SS = self.small(pixels_BHWC)
        unit_B3SS = image_B3SS / 255
        parts = [self.colors(image_B3SS), self.gradients(unit_B3SS), self.spectra(unit_B3SS)]
        thumbnail = F.avg_pool2d(unit_B3SS, SIDE // CELLS).permute(0, 2, 3, 1)
        return torch.cat([part.flatten(1) for part in (*parts, thumbnail)], dim=1)

    def colors(self, image_B3SS: Tensor) -> Tensor:
        """Share of each of 64 colours in the image and in its quarters, as its root: [B, 5, 64]."""
        level_B31SS = torch.floor(image_B3SS / (256 // COLOR_LEVELS)).unsqueeze(2)
        red, green, blue = (level_B31SS == self.levels).float().unbind(1)  # each [B, levels, S, S]
        red_green = (red.unsqueeze(2) * green.unsqueeze(1)).flatten(1, 2)
        half, counts = SIDE // 2, []
        for top in (0, half):
            for left in (0, half):
                part = (..., slice(top, top + half), slice(left, left + half))
                pixels_first = blue[part].flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)
                counts.append((red_green[part].flatten(2) @ pixels_first).flatten(1))
        quarters_B4C = torch.stack(counts, dim=1) / half**2
        return torch.cat([quarters_B4C.mean(dim=1, keepdim=True), quarters_B4C], dim=1).sqrt()

    def gradients(self, image_B3SS: Tensor) -> Tensor:
        """Strength of edges by direction in each cell, over that of the 3 x 3 cells around it: [B, G * G, directions].

        Direction 0 is a gradient along x. The channel with the strongest gradient counts.
        """
        padded = F.pad(image_B3SS, (1, 1, 1, 1), mode="replicate")
        right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) * self.ends
        down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) * self.ends[:, None]
        right, down = _of_the_strongest(right, down)
        # Not atan2, which is exported as a quotient that is NaN where there is no gradient.
        angle = torch.atan(down / torch.where(right.abs() < 1e-12, torch.full_like(right, 1e-12), right))
        place = torch.where(angle < 0, angle + math.pi, angle) * (DIRECTIONS / math.pi)
        distance = (place - self.directions).abs()
        near = (1 - torch.minimum(distance, DIRECTIONS - distance)).clamp(min=0)
        cells_BDGG = F.avg_pool2d(near * (right**2 + down**2).sqrt(), SIDE // CELLS)
        energy = F.pad((cells_BDGG**2).sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        around = F.avg_pool2d(energy, 3, stride=1)
        return (cells_BDGG / (around + FLAT).sqrt()).flatten(2).transpose(1, 2)

    def spectra(self, image_B3SS: Tensor) -> Tensor:
        """Log power by frequency (rings, rising) and direction (sectors): [B, windows, rings * sectors]."""
        gray_BSS = (image_B3SS * self.gray).sum(dim=1)
        return torch.stack([self._spectrum(gray_BSS, side) for side in WINDOWS], dim=1)

    def _spectrum(self, gray_BSS: Tensor, side: int) -> Tensor:
        """The mean power of all windows that overlap by half; the Fourier transform is two matrix products."""
        windows_BNss = _half_overlapping(gray_BSS, side)
        centred = (windows_BNss - windows_BNss.mean(dim=(2, 3), keepdim=True)) * self.get_buffer(f"hann{side}")
        cosine, sine = self.get_buffer(f"cosine{side}"), self.get_buffer(f"sine{side}")
        half = side // 2 + 1  # the rest is the mirror image
        # Turned and laid out anew between the two: a product from the left could not be exported for a batch of one.
        over_x = (centred @ matrix[:, :half] for matrix in (cosine, sine))
        a, b = (part.transpose(2, 3).clone(memory_format=torch.contiguous_format) for part in over_x)
        real, imaginary = a @ cosine - b @ sine, b @ cosine + a @ sine
        power = (real**2 + imaginary**2).mean(dim=1).flatten(1)
        return (power @ self.get_buffer(f"bins{side}") + NO_POWER).log()


def _half_overlapping(image_BSS: Tensor, side: int) -> Tensor:
    """All windows of this side that overlap by half, row by row: [B, N, side, side]."""
    half, along = side // 2, SIDE // (side // 2)
    # Each is two halves beside each other, of two above each other; one by one they make hundreds of nodes.
    halves = image_BSS.reshape(-1, along, half, along, half)
    high = torch.cat([halves[:, :-1], halves[:, 1:]], dim=2)
    whole = torch.cat([high[:, :, :, :-1], high[:, :, :, 1:]], dim=4)
    return whole.transpose(2, 3).flatten(1, 2)


def _of_the_strongest(right: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the channel where it is longest, [B, 1, S, S] each; of nearly equal ones that of the first."""
    squared = right**2 + down**2  # compared one by one: argmax takes several times as long
    longest, best_right, best_down = squared[:, :1], right[:, :1], down[:, :1]
    for channel in range(1, squared.shape[1]):
        own = slice(channel, channel + 1)
        is_longer = squared[:, own] > LONGER * longest
        best_right = torch.where(is_longer, right[:, own], best_right)
        best_down = torch.where(is_longer, down[:, own], best_down)
        longest = torch.where(is_longer, squared[:, own], longest)
    return best_right, best_down


def polar_bins(side: int) -> np.ndarray:
    """Which frequencies (along x, then y) each bin is the mean of: float64 [side // 2 + 1, side, rings * sectors]."""
    u, v = np.meshgrid(np.fft.rfftfreq(side), np.fft.fftfreq(side), indexing="ij")
    radius, angle = np.hypot(u, v), np.arctan2(v, u) % np.pi
    ring = np.digitize(radius, np.geomspace(1 / side, 0.5, RINGS + 1)[1:-1])
    sector = np.round(angle * SECTORS / np.pi).astype(int) % SECTORS
    is_mirrored = (u > 0) & (u < 0.5)  # the half that is not computed is as strong
    weight = ((radius > 0) & (radius <= 0.5)) * (1 + is_mirrored)
    bins = np.eye(RINGS * SECTORS)[ring * SECTORS + sector] * weight[..., None]
    return bins / np.maximum(bins.sum(axis=(0, 1)), 1)
