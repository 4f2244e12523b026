"""logits [B, C], text_share [B, K], present [B, 2] -> PREDICTION (JSON), PROBABILITIES, TEXT_SHARE."""

import json

import numpy as np

from model.decode import predictions, probabilities
from model.triton_step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("logits", "text_share", "present")
    outputs = ("PREDICTION", "PROBABILITIES", "TEXT_SHARE")

    def answer(self, logits_BC, text_share_BK, present_B2):
        scores_BC = probabilities(logits_BC, self.bundle.tasks)
        answers = predictions(scores_BC, text_share_BK, present_B2, self.bundle.tasks)
        prediction_B1 = np.array([[json.dumps(answer).encode()] for answer in answers], dtype=object)
        return prediction_B1, scores_BC, text_share_BK
