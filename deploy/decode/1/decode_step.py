"""logits [B, C], text_share [B, K], present [B, 2] -> PREDICTION (JSON), PROBABILITIES, TEXT_SHARE, LABEL_SET."""

import json

import numpy as np

from model.config import label_set_hash
from model.decode import predictions, probabilities
from serve.step import TritonStep


class TritonPythonModel(TritonStep):
    inputs = ("logits", "text_share", "present")
    outputs = ("PREDICTION", "PROBABILITIES", "TEXT_SHARE", "LABEL_SET")

    def load(self):
        self.label_set = label_set_hash(self.bundle.tasks).encode()

    def answer(self, logits_BC, text_share_BK, present_B2):
        scores_BC = probabilities(logits_BC, self.bundle.tasks)
        answers = predictions(scores_BC, text_share_BK, present_B2, self.bundle.tasks)
        for answer in answers:
            self.count(answer)
        prediction_B1 = np.array([[json.dumps(answer).encode()] for answer in answers], dtype=object)
        label_set_B1 = np.full((len(answers), 1), self.label_set, dtype=object)
        return prediction_B1, scores_BC, text_share_BK, label_set_B1

    def count(self, answer):
        """What a dashboard shows: the mix of labels, mean score and mean λ of each task."""
        for task, said in answer.items():
            for label in said.get("labels", [said.get("label")]):
                self.metrics.add(
                    "cma_clip_answers_total", task=task, label=label, accepted=str(said["accepted"]).lower()
                )
            self.metrics.add("cma_clip_score_sum", said["top"][0][1], task=task)
            self.metrics.add("cma_clip_text_share_sum", said["text_share"], task=task)
            self.metrics.add("cma_clip_text_share_count", task=task)
