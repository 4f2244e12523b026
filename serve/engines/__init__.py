"""What computes the network behind the served path: one module a runtime, all called alike (serve.runtimes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

# B batch, T token ids, H and W image size, C labels of all tasks, K tasks

INPUTS = ("input_ids", "pixels", "present")
OUTPUTS = ("logits", "text_share")
# input_ids [B, T], pixels [B, H, W, 3], present [B, 2] -> logits [B, C], text_share [B, K]
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Engine(Protocol):
    """A loaded engine file.

    Attributes:
        precision: of its matrix products, as in EngineStamp.
    """

    precision: str

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None: ...

    def __call__(
        self, input_ids_BT: np.ndarray, pixels_BHW3: np.ndarray, present_B2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits float32 [B, C] and text_share float32 [B, K]."""

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        """Versions of the libraries an engine depends on, and the GPU's compute capability."""
