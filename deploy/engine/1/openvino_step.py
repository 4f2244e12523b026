"""input_ids [B, T], pixels [B, H, W, 3], present [B, 2] -> logits [B, C], text_share [B, K], on the CPU."""

import hashlib
import json
import sys

import numpy as np

from model.preprocess import pad_titles
from model.triton_step import BatchStep


class TritonPythonModel(BatchStep):
    inputs = ("input_ids", "pixels", "present")
    outputs = ("logits", "text_share")

    def load(self):
        path, config, tasks = self.version_folder / "model.onnx", self.bundle.preprocess, self.bundle.tasks
        report = self.version_folder / "parity.json"
        for file in (path, report):
            if not file.is_file():
                raise ValueError(f"{file}: no such file")
        bundle = hashlib.sha256((self.repository / "bundle.json").read_bytes()).hexdigest()
        if json.loads(report.read_text())["bundle_sha256"] != bundle:
            raise ValueError(f"{path}: was not exported together with bundle.json")
        # Its telemetry calls home from a forked copy of this process, which can hang and outlive the server.
        sys.modules["openvino_telemetry"] = None
        import openvino

        self.engine = openvino.Core().compile_model(path, "CPU", self.parameters)
        widths = {"logits": sum(len(task.labels) for task in tasks), "text_share": len(tasks)}
        pixels, present = np.zeros((1, config.image_size, config.image_size, 3), np.uint8), np.ones((1, 2), bool)
        for length in config.title_lengths:  # a first call of each length is slow: make it now
            outputs = self.run(np.full((1, length), config.vocab_size - 1, np.int32), pixels, present)
            for (name, width), array in zip(widths.items(), outputs, strict=True):
                if array.shape != (1, width):
                    raise ValueError(f"{path}: {name} is {array.shape[1]} wide, bundle.json's tasks need {width}")

    def run(self, *inputs):
        results = self.engine(dict(zip(self.inputs, inputs, strict=True)))
        return tuple(results[name] for name in self.outputs)

    def check(self, input_ids_BT, pixels_BHW3, present_B2):
        """What a caller of this step alone could get wrong; the steps before never do."""
        config = self.bundle.preprocess
        if pixels_BHW3.shape[1:3] != (config.image_size, config.image_size):
            raise ValueError(f"BAD_TENSOR: pixels is {pixels_BHW3.shape}, expected sides of {config.image_size}")
        if not 0 < input_ids_BT.shape[1] <= config.context_length:
            raise ValueError(f"BAD_TENSOR: input_ids is {input_ids_BT.shape}, at most {config.context_length} ids")
        if input_ids_BT.min() < 0 or input_ids_BT.max() >= config.vocab_size:
            raise ValueError(f"BAD_TENSOR: input_ids must lie in 0..{config.vocab_size - 1}")

    def answer_together(self, batch):
        """Titles of different lengths are padded to the longest."""
        ids, pixels, present = zip(*batch, strict=True)
        ids_BT = pad_titles([row for rows in ids for row in rows], self.bundle.preprocess)
        outputs = self.run(ids_BT, np.concatenate(pixels), np.concatenate(present))
        ends = np.cumsum([len(rows) for rows in ids])[:-1]
        return list(zip(*(np.split(array, ends) for array in outputs), strict=True))
