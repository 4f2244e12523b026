"""TITLE, bytes [B, 1], present [B, 2] -> input_ids int32 [B, T]; absent: start and end token."""

from model.preprocess import TitleTokenizer
from serve.step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("TITLE", "present")
    outputs = ("input_ids",)

    def load(self):
        self.bundle.check_tokenizer(self.repository / "tokenizer.json")
        self.tokenizer = TitleTokenizer.load(self.repository / "tokenizer.json", self.bundle.preprocess)

    def answer(self, titles_B1, present_B2):
        titles = [title if here else b"" for title, here in zip(titles_B1[:, 0], present_B2[:, 0], strict=True)]
        return (self.tokenizer.encode_batch(titles),)
