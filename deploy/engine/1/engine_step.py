"""input_ids [B, T], pixels [B, H, W, 3], present [B, 2] -> logits [B, C], text_share [B, K], by a python runtime.

The config.pbtxt's parameter `runtime` names it (serve.runtimes); the others are handed to it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.batching import Arrays
from serve.engine_pace import EnginePace, pace_file
from serve.served_engine import ServedEngine
from serve.step import BatchStep, Outcome


class TritonPythonModel(BatchStep):
    inputs = ("input_ids", "pixels", "present")
    outputs = ("logits", "text_share")

    def load(self) -> None:
        parameters = self.parameters | ({} if self.gpu is None else {"gpu": self.gpu})
        # On a CPU the steps before take cores from the engine, so they stop while three quarters of its queue are full.
        shares_cores = self.gpu is None and self.most_waiting
        self.pace = EnginePace(self.most_waiting * 3 // 4, pace_file()) if shares_cores else None
        self.engine = ServedEngine.load(parameters.pop("runtime", ""), self.version_folder, self.bundle, parameters)

    def check(self, input_ids_BT: np.ndarray, pixels_BHW3: np.ndarray, present_B2: np.ndarray) -> None:
        self.engine.check(input_ids_BT, pixels_BHW3, present_B2)

    def answer_together(self, batch: Sequence[Arrays]) -> list[Arrays]:
        return self.engine.answer(batch)

    def answer_all(self, requests: Sequence[Any]) -> list[Outcome]:
        if self.pace is None:
            return super().answer_all(requests)
        self.pace.begin(len(requests))  # requests, as its queue counts them
        try:
            return super().answer_all(requests)
        finally:
            self.pace.end()

    def finalize(self) -> None:
        if self.pace is not None:
            self.pace.close()
        super().finalize()
