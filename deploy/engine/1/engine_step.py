"""input_ids [B, T], pixels [B, H, W, 3], present [B, 2] -> logits [B, C], text_share [B, K], by a python runtime.

The config.pbtxt's parameter `runtime` names it (serve.runtimes); the others are handed to it, but for `most_ahead`.
"""

from collections.abc import Sequence

import numpy as np

from serve.batching import Arrays
from serve.served_engine import ServedEngine
from serve.step import BatchStep


class TritonPythonModel(BatchStep):
    inputs = ("input_ids", "pixels", "present")
    outputs = ("logits", "text_share")

    def load(self) -> None:
        self.open_pace(lost_after_s=0.2)
        parameters = self.parameters | ({} if self.gpu is None else {"gpu": self.gpu})
        self.engine = ServedEngine.load(parameters.pop("runtime", ""), self.version_folder, self.bundle, parameters)

    def check(self, input_ids_BT: np.ndarray, pixels_BHW3: np.ndarray, present_B2: np.ndarray) -> None:
        self.engine.check(input_ids_BT, pixels_BHW3, present_B2)

    def answer_together(self, batch: Sequence[Arrays]) -> list[Arrays]:
        return self.engine.answer(batch)
