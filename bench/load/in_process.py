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
from serve.runtimes import load_engine, row_of


class InProcess:
    """What a model repository serves on this machine's CPU.

    Args:
        deploy: filled by serve.export.
        config: the engine's configuration, as for tritonserver's --model-config-name.
    Raises:
        ValueError: a file is missing or does not fit.
    """

    def __init__(self, deploy: Path, config: str = "cpu") -> None:
        self.bundle = BundleConfig.read(deploy / "bundle.json")
        self.tokenizer = TitleTokenizer.load(deploy / "tokenizer.json", self.bundle.preprocess)
        runtime, parameters = engine_runtime(deploy / "engine", config)
        self.engine = load_engine(runtime, deploy / "engine/1" / row_of(runtime).file, parameters)
        self.pool = ThreadPoolExecutor(usable_cores())

    def answer(self, products: Sequence[TitleAndImage]) -> list[str]:
        """One batch: the JSON of each product's prediction, as the server sends it.

        Raises:
            ValueError: a product is refused; the message starts with the code.
        """
        config, tasks = self.bundle.preprocess, self.bundle.tasks
        prepared = self.pool.map(lambda product: pixels_and_presence(product[0], product[1], config), products)
        pixels, present = zip(*prepared, strict=True)
        input_ids_BT = self.tokenizer.encode_batch([title for title, _ in products])
        present_B2 = np.array(present)
        logits_BC, text_share_BK = self.engine(input_ids_BT, np.stack(pixels), present_B2)
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
