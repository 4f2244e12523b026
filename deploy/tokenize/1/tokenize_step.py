"""TITLE, bytes [B, 1], present [B, 2] -> input_ids int32 [B, T]; absent: start and end token."""

import numpy as np

from model.preprocess import TitleTokenizer
from serve.batching import Arrays
from serve.step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("TITLE", "present")
    outputs = ("input_ids",)

    def load(self) -> None:
        self.bundle.check_tokenizer(self.set.tokenizer)
        self.tokenizer = TitleTokenizer.load(self.set.tokenizer, self.bundle.preprocess)

    def answer(self, titles_B1: np.ndarray, present_B2: np.ndarray) -> Arrays:
        titles = [title if here else b"" for title, here in zip(titles_B1[:, 0], present_B2[:, 0], strict=True)]
        return (self.tokenizer.encode_batch(titles),)
