"""TITLE and IMAGE, bytes [B, 1] -> pixels uint8 [B, H, W, 3], present bool [B, 2] (title, image)."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from model.preprocess import image_to_pixels, title_is_present
from model.triton_step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("TITLE", "IMAGE")
    outputs = ("pixels", "present")

    def load(self):
        self.pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes and resizes without the GIL

    def answer_all(self, requests):
        return list(self.pool.map(self.answer_one, requests))

    def answer(self, titles_B1, images_B1):
        """An absent image is black pixels: the network masks it by `present`."""
        titles, images = titles_B1[:, 0], images_B1[:, 0]
        present_B2 = np.array([[title_is_present(t), bool(i)] for t, i in zip(titles, images, strict=True)])
        if not present_B2.any(axis=1).all():
            raise ValueError("NO_MODALITY: title and image are both empty")
        return np.stack([self.pixels(image) for image in images]), present_B2

    def pixels(self, image):
        size = self.bundle.preprocess.image_size
        return image_to_pixels(image, self.bundle.preprocess) if image else np.zeros((size, size, 3), np.uint8)

    def finalize(self):
        self.pool.shutdown()
