"""TITLE and IMAGE, bytes [B, 1] -> pixels uint8 [B, H, W, 3], present bool [B, 2] (title, image)."""

from collections.abc import Callable

import numpy as np

from model.preprocess import pixels_and_presence
from model.refusal import Refusal
from serve.batching import Arrays
from serve.queued_step import QueuedStep
from serve.work import Work, request_work


class TritonPythonModel(QueuedStep):
    inputs = ("TITLE", "IMAGE")
    outputs = ("pixels", "present")

    def load(self) -> None:
        self.open_queue()  # Pillow decodes and resizes without the GIL

    def work(self, titles_B1: np.ndarray, images_B1: np.ndarray) -> Work:
        return request_work(images_B1[:, 0].tolist(), self.bundle.preprocess)

    def answer(
        self, titles_B1: np.ndarray, images_B1: np.ndarray, still_wanted: Callable[[], None] = lambda: None
    ) -> Arrays:
        """An absent image is black pixels: the network masks it by `present`."""
        prepared = []
        for row, (title, image) in enumerate(zip(titles_B1[:, 0], images_B1[:, 0], strict=True)):
            still_wanted()
            try:
                prepared.append(pixels_and_presence(title, image, self.bundle.preprocess))
            except Refusal as refusal:
                raise refusal.of_row(row, len(titles_B1)) from refusal
        pixels, present = zip(*prepared, strict=True)
        return np.stack(pixels), np.array(present)
