"""logits [B, C], text_share [B, K], present [B, 2] -> PREDICTION (JSON), PROBABILITIES, TEXT_SHARE, LABEL_SET."""

import json
from typing import Any

import numpy as np

from serve.batching import Arrays
from serve.engine_outputs import NotFiniteError, check_outputs
from serve.step import URGENT, TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("logits", "text_share", "present")
    outputs = ("PREDICTION", "PROBABILITIES", "TEXT_SHARE", "LABEL_SET")

    def load(self) -> None:
        self.open_pace(lost_after_s=0.5)  # longer than an engine on a GPU takes for a batch
        self.label_set = self.bundle.tasks.label_set_hash.encode()
        if self.bundle.reference:
            self.metrics.watch(self.bundle.reference, self.worker)

    def read(self, request: Any) -> tuple[Any, ...]:
        """The request's inputs, and whether it is the canary, which is no customer's product."""
        return (*super().read(request), request.request_id() == URGENT)

    def answer(
        self, logits_BC: np.ndarray, text_share_BK: np.ndarray, present_B2: np.ndarray, is_canary: bool
    ) -> Arrays:
        try:
            check_outputs(self.bundle.tasks, logits_BC, text_share_BK, present_B2)
        except NotFiniteError:
            self.metrics.add("cma_clip_not_finite_total")
            raise
        scores_BC = self.bundle.tasks.scores(logits_BC)
        answers = self.bundle.tasks.predictions(scores_BC, text_share_BK, present_B2)
        for answer in answers if not is_canary else ():
            self.metrics.count(answer)
        prediction_B1 = np.array([[json.dumps(answer, allow_nan=False).encode()] for answer in answers], dtype=object)
        label_set_B1 = np.full((len(answers), 1), self.label_set, dtype=object)
        return prediction_B1, scores_BC, text_share_BK, label_set_B1
