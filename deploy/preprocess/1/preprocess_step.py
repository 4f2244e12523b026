"""TITLE and IMAGE, bytes [B, 1] -> pixels uint8 [B, H, W, 3], present bool [B, 2] (title, image)."""

from collections.abc import Callable, Sequence

import numpy as np

from model.image_header import Header, inspect
from model.preprocess import pixels_and_presence
from model.refusal import each_row
from serve.batching import Arrays
from serve.queued_step import QueuedStep
from serve.work import Work, request_work

Products = tuple[Sequence[bytes], Sequence[bytes], Sequence[Header | None]]  # titles, images, the images' headers


class TritonPythonModel(QueuedStep):
    inputs = ("TITLE", "IMAGE")
    outputs = ("pixels", "present")

    def load(self) -> None:
        self.open_queue()  # its threads decode and resize without the GIL

    def inspect(self, titles_B1: np.ndarray, images_B1: np.ndarray) -> tuple[Work, Products]:
        config, titles, images = self.bundle.preprocess, titles_B1[:, 0].tolist(), images_B1[:, 0].tolist()
        headers = each_row(lambda image: inspect(image, config) if image else None, images)
        return request_work(images, headers, config), (titles, images, headers)

    def answer(
        self,
        titles: Sequence[bytes],
        images: Sequence[bytes],
        headers: Sequence[Header | None],
        still_wanted: Callable[[], None] = lambda: None,
    ) -> Arrays:
        """An absent image is black pixels: the network masks it by `present`."""

        def prepare(title: bytes, image: bytes, header: Header | None) -> tuple[np.ndarray, tuple[bool, bool]]:
            still_wanted()
            return pixels_and_presence(title, image, self.bundle.preprocess, header)

        pixels, present = zip(*each_row(prepare, titles, images, headers), strict=True)
        return np.stack(pixels), np.array(present)
