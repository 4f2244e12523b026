"""TITLE and IMAGE, bytes [B, 1] -> pixels uint8 [B, H, W, 3], present bool [B, 2] (title, image)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cma_clip.machine import usable_cores
from model.preprocess import pixels_and_presence
from serve.step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("TITLE", "IMAGE")
    outputs = ("pixels", "present")

    def load(self):
        self.pool = ThreadPoolExecutor(usable_cores())  # Pillow decodes and resizes without the GIL

    def answer_all(self, requests):
        return list(self.pool.map(self.answer_one, requests))

    def answer(self, titles_B1, images_B1):
        """An absent image is black pixels: the network masks it by `present`."""
        products = zip(titles_B1[:, 0], images_B1[:, 0], strict=True)
        pixels, present = zip(
            *(pixels_and_presence(*product, self.bundle.preprocess) for product in products), strict=True
        )
        return np.stack(pixels), np.array(present)

    def finalize(self):
        self.pool.shutdown()
        super().finalize()
