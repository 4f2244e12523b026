"""TITLE and IMAGE, bytes [B, 1] -> pixels uint8 [B, H, W, 3], present bool [B, 2] (title, image)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cma_clip.machine import usable_cores
from model.preprocess import pixels_and_presence
from serve.batching import Arrays
from serve.step import Outcome, TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("TITLE", "IMAGE")
    outputs = ("pixels", "present")

    def load(self) -> None:
        self.pool = ThreadPoolExecutor(usable_cores())  # Pillow decodes and resizes without the GIL

    def answer_all(self, requests: Sequence[Any]) -> list[Outcome]:
        return list(self.pool.map(self.answer_one, requests))

    def answer(self, titles_B1: np.ndarray, images_B1: np.ndarray) -> Arrays:
        """An absent image is black pixels: the network masks it by `present`."""
        products = zip(titles_B1[:, 0], images_B1[:, 0], strict=True)
        prepared = [pixels_and_presence(title, image, self.bundle.preprocess) for title, image in products]
        pixels, present = zip(*prepared, strict=True)
        return np.stack(pixels), np.array(present)

    def finalize(self) -> None:
        self.pool.shutdown()
        super().finalize()
