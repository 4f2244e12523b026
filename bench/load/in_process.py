"""The served path without a server: the same preprocessing, engine and decoding, called in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.load.calls import Call
from bench.load.requests import OK, TitleAndImage
from cma_clip.machine import usable_cores
from model.config import BundleConfig
from model.preprocess import TitleTokenizer, pixels_and_presence
from serve.check import engine_runtime
from serve.served_engine import ServedEngine
from serve.sets import served_set


class InProcess:
    """What a model repository serves on this machine's CPU.

    Args:
        deploy: filled by serve.export.
        config: the engine's configuration, as for tritonserver's --model-config-name.
    Raises:
        ValueError: a file is missing or does not fit.
    """

    def __init__(self, deploy: Path, config: str = "cpu") -> None:
        served = served_set(deploy)
        self.bundle = BundleConfig.read(served.bundle)
        self.tokenizer = TitleTokenizer.load(served.tokenizer, self.bundle.preprocess)
        runtime, parameters = engine_runtime(served.folder("engine"), config)
        self.engine = ServedEngine.load(runtime, served.folder("engine") / "1", self.bundle, parameters)
        self.pool = ThreadPoolExecutor(usable_cores())

    def answer(self, products: Sequence[TitleAndImage]) -> list[str]:
        """One batch: the JSON of each product's prediction, as the server sends it.

        Raises:
            Refusal: of a product.
        """
        config, tasks = self.bundle.preprocess, self.bundle.tasks
        prepared = list(self.pool.map(lambda product: pixels_and_presence(product[0], product[1], config), products))
        requests = [
            (self.tokenizer.encode_batch([title]), pixels[None], np.array([present]))
            for (title, _), (pixels, present) in zip(products, prepared, strict=True)
        ]
        logits_BC, text_share_BK = map(np.concatenate, zip(*self.engine.answer(requests), strict=True))
        present_B2 = np.array([present for _, present in prepared])
        answers = tasks.predictions(tasks.scores(logits_BC), text_share_BK, present_B2)
        return [json.dumps(answer) for answer in answers]

    def load(self, products: Sequence[TitleAndImage], batch: int, seconds: float) -> list[Call]:
        """One batch after the other for `seconds`; a product's latency is its batch's."""
        calls: list[Call] = []
        start, first = time.perf_counter(), 0
        while (sent_s := time.perf_counter() - start) < seconds:
            chosen = [(first + i) % len(products) for i in range(batch)]
            self.answer([products[i] for i in chosen])
            done_s = time.perf_counter() - start
            calls += [Call(i, sent_s, sent_s, done_s, OK, "") for i in chosen]
            first += batch
        return calls
