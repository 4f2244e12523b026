"""An engine as the server calls it: held against its stamp and the bundle, warmed up, fed with batches of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cma_clip.files import file_sha256
from model.config import BundleConfig
from model.refusal import Code, Refusal
from serve.batching import Arrays, run_together
from serve.engine_outputs import check_present
from serve.engines import OUTPUTS, Run
from serve.runtimes import engine_class, load_engine, row_of
from serve.sets import StepSet
from serve.stamp import EngineStamp


class ServedEngine:
    """An engine, the bundle that it is served with, and what a call of it costs (Runtime.call_cost)."""

    def __init__(self, run: Run, bundle: BundleConfig, call_cost: float) -> None:
        self.run, self.bundle, self.call_cost = run, bundle, call_cost

    @classmethod
    def load(cls, runtime: str, version: Path, bundle: BundleConfig, parameters: Mapping[str, str]) -> ServedEngine:
        """Load what an export wrote, and make its slow first calls.

        Args:
            version: the folder with the engine file, DEPLOY/engine/1.
            parameters: those of the engine's config.pbtxt but `runtime`.
        Raises:
            ValueError: unknown runtime; a file that is missing, damaged, of another export, for another machine or
                cannot be loaded; outputs that do not fit the bundle's tasks.
        """
        row = row_of(runtime)
        path, machine = version / row.file, engine_class(runtime).machine()
        stamp, bundle_sha256 = EngineStamp.read(path), file_sha256(StepSet.of(version.parent).bundle)
        if reason := stamp.mismatch(path, bundle_sha256, *machine) or stamp.damage(path):
            raise ValueError(reason)
        engine = cls(load_engine(runtime, path, parameters), bundle, row.call_cost)
        engine.warm_up(path)
        return engine

    def warm_up(self, path: Path) -> None:
        """A first call of each title length is slow: make it now, and hold the outputs against the bundle."""
        config, tasks = self.bundle.preprocess, self.bundle.tasks
        widths = tasks.num_columns, len(tasks)
        pixels, present = np.zeros((1, config.image_size, config.image_size, 3), np.uint8), np.ones((1, 2), bool)
        for length in config.title_lengths:
            outputs = self.run(np.full((1, length), config.vocab_size - 1, np.int32), pixels, present)
            for name, width, array in zip(OUTPUTS, widths, outputs, strict=True):
                if array.shape != (1, width):
                    raise ValueError(f"{path}: {name} is {array.shape[1]} wide, bundle.json's tasks need {width}")

    def check(self, input_ids_BT: np.ndarray, pixels_BHW3: np.ndarray, present_B2: np.ndarray) -> None:
        """What a caller of the engine alone could get wrong; the steps before never do.

        Raises:
            Refusal: a tensor does not fit the bundle.
        """
        config = self.bundle.preprocess
        if not len(input_ids_BT) == len(pixels_BHW3) == len(present_B2):
            raise Refusal(Code.BAD_TENSOR, "input_ids, pixels and present differ in their number of rows")
        if pixels_BHW3.shape[1:3] != (config.image_size, config.image_size):
            raise Refusal(Code.BAD_TENSOR, f"pixels is {pixels_BHW3.shape}, expected sides of {config.image_size}")
        if not 0 < input_ids_BT.shape[1] <= config.context_length:
            raise Refusal(Code.BAD_TENSOR, f"input_ids is {input_ids_BT.shape}, at most {config.context_length} ids")
        if input_ids_BT.min() < 0 or input_ids_BT.max() >= config.vocab_size:
            raise Refusal(Code.BAD_TENSOR, f"input_ids must lie in 0..{config.vocab_size - 1}")
        check_present(present_B2)

    def answer(self, requests: Sequence[Arrays]) -> list[Arrays]:
        """logits [b, C] and text_share [b, K] of each request, in order."""
        return run_together(self.run, requests, self.bundle.preprocess, self.call_cost)
