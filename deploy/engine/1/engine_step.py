"""input_ids [B, T], pixels [B, H, W, 3], present [B, 2] -> logits [B, C], text_share [B, K], by a python runtime.

The config.pbtxt's parameter `runtime` names it (serve.engines); the others are handed to it.
"""

import numpy as np

from cma_clip.files import file_sha256
from model.preprocess import pad_titles
from model.refusal import Code, Refusal
from serve.engines import engine_class
from serve.stamp import EngineStamp
from serve.step import BatchStep


class TritonPythonModel(BatchStep):
    inputs = ("input_ids", "pixels", "present")
    outputs = ("logits", "text_share")

    def load(self):
        properties = dict(self.parameters)
        engine = engine_class(properties.pop("runtime"))
        path = self.version_folder / engine.FILE
        reason = EngineStamp.read(path).mismatch(path, file_sha256(self.repository / "bundle.json"), *engine.machine())
        if reason:
            raise ValueError(reason)
        device = {} if self.gpu is None else {"device": f"cuda:{self.gpu}"}
        self.run, self.call_cost = engine(path, device | properties), engine.CALL_COST
        self.warm_up(path)

    def warm_up(self, path):
        """A first call of each title length is slow: make it now. Held against the bundle in passing."""
        config, tasks = self.bundle.preprocess, self.bundle.tasks
        widths = {"logits": sum(len(task.labels) for task in tasks), "text_share": len(tasks)}
        pixels, present = np.zeros((1, config.image_size, config.image_size, 3), np.uint8), np.ones((1, 2), bool)
        for length in config.title_lengths:
            outputs = self.run(np.full((1, length), config.vocab_size - 1, np.int32), pixels, present)
            for (name, width), array in zip(widths.items(), outputs, strict=True):
                if array.shape != (1, width):
                    raise ValueError(f"{path}: {name} is {array.shape[1]} wide, bundle.json's tasks need {width}")

    def check(self, input_ids_BT, pixels_BHW3, present_B2):
        """What a caller of this step alone could get wrong; the steps before never do."""
        config = self.bundle.preprocess
        if pixels_BHW3.shape[1:3] != (config.image_size, config.image_size):
            raise Refusal(Code.BAD_TENSOR, f"pixels is {pixels_BHW3.shape}, expected sides of {config.image_size}")
        if not 0 < input_ids_BT.shape[1] <= config.context_length:
            raise Refusal(Code.BAD_TENSOR, f"input_ids is {input_ids_BT.shape}, at most {config.context_length} ids")
        if input_ids_BT.min() < 0 or input_ids_BT.max() >= config.vocab_size:
            raise Refusal(Code.BAD_TENSOR, f"input_ids must lie in 0..{config.vocab_size - 1}")

    def answer_together(self, batch):
        """Titles share a call, padded to the longest of them, unless the padding would cost more than another call."""
        ids, pixels, present = zip(*batch, strict=True)
        ids_B = [row for rows in ids for row in rows]
        pixels_BHW3, present_B2 = np.concatenate(pixels), np.concatenate(present)
        outputs = [None] * len(ids_B)
        for rows in self.calls([self.bundle.preprocess.padded_length(len(row)) for row in ids_B]):
            ids_BT = pad_titles([ids_B[row] for row in rows], self.bundle.preprocess)
            results = self.run(ids_BT, pixels_BHW3[rows], present_B2[rows])
            for row, *result in zip(rows, *results, strict=True):
                outputs[row] = result
        stacked = [np.stack(array) for array in zip(*outputs, strict=True)]
        ends = np.cumsum([len(rows) for rows in ids])[:-1]
        return list(zip(*(np.split(array, ends) for array in stacked), strict=True))

    def calls(self, lengths):
        """Rows of each engine call: from the longest titles down, shorter ones join while that is the cheaper way."""
        calls, longest = [], None
        for length in sorted(set(lengths), reverse=True):
            rows = [row for row, other in enumerate(lengths) if other == length]
            if calls and len(rows) * (longest - length) <= self.call_cost:
                calls[-1] += rows
            else:
                calls.append(rows)
                longest = length
        return calls
