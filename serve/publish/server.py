"""A running server, as `cma-clip publish` asks it: which set it serves, models in and out, products through a set."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cma_clip.command import Failure
from serve.check import runtime_of
from serve.profiles import ADMIN_HEADER
from serve.sets import ENSEMBLE, STEP_NAME, STEPS, StepSet
from serve.work import URGENT

HEADER = f"triton-grpc-protocol-{ADMIN_HEADER}"
ANSWER_S, UNLOAD_S = 30.0, 60.0
# What the server says -> what to do; the first that fits.
CURES = {
    "not allowed": "it serves the models of its start only; one that takes others: cma-clip serve --publish …",
    "restricted": "name the file with its admin key: --admin-key-file FILE",
    "failed to poll from model repository": "it does not see the models: is --deploy the repository that it serves?",
    "failed to connect": "is it up? cma-clip serve --publish …",
}
Tensors = dict[str, np.ndarray]


class Tls(NamedTuple):
    """PEM files: the authority behind the server's certificate, and our own where it asks for one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class Answer(NamedTuple):
    """What a set says of products: PROBABILITIES [B, C] and the label set of each."""

    probabilities_BC: np.ndarray
    label_sets: set[str]
    tasks: set[str]


class Server:
    """Args:
    url: host:port of its gRPC endpoint.
    admin_key: opens the restricted protocols.
    """

    def __init__(self, url: str, admin_key: str | None = None, tls: Tls | None = None) -> None:
        self.url, self._headers = url, {HEADER: admin_key} if admin_key else None
        files = [str(file) if file else None for file in tls or (None, None, None)]
        self._client = triton.InferenceServerClient(
            url, ssl=tls is not None, root_certificates=files[0], certificate_chain=files[1], private_key=files[2]
        )

    def close(self) -> None:
        self._client.close()

    def served(self) -> str:
        """The suffix of the set behind the ensemble that answers now."""
        steps = self._config(ENSEMBLE).ensemble_scheduling.step
        match = STEP_NAME.fullmatch(steps[0].model_name) if steps else None
        if match is None:
            raise Failure(f"{self.url}: its {ENSEMBLE} is none of this project's")
        return match[2]

    def runtime(self, steps: StepSet) -> str:
        """Of the engine of a loaded set."""
        name = steps.name("engine")
        return runtime_of(self._config(name), f"{self.url}, {name}")[0]

    def check_control(self) -> None:
        """Raises Failure where the server would not load or unload what it is told to."""
        with self._said("take models"):
            self._client.unload_model("no_such_model", headers=self._headers)

    def load(self, name: str) -> None:
        """Load a model, or load it again where its files have changed; the one that answers stays until then.

        Raises:
            Failure: it cannot be loaded, or the server does not allow it.
        """
        with self._said(f"load {name}"):
            self._client.load_model(name, headers=self._headers)

    def unload(self, steps: StepSet) -> None:
        """Unload a set that is not served, as soon as requests in flight have left it."""
        names = {steps.name(step) for step in STEPS}
        with self._said(f"unload {steps.name('engine')}"):
            for name in names:
                self._client.unload_model(name, headers=self._headers)
        end = time.monotonic() + UNLOAD_S
        while names & self._live():
            if time.monotonic() > end:
                raise Failure(f"{self.url}: {', '.join(sorted(names & self._live()))} did not unload in {UNLOAD_S:g} s")
            time.sleep(0.1)

    def ask(self, products: Sequence[tuple[bytes, bytes]]) -> Answer:
        """What callers get for these products."""
        outputs = ("PREDICTION", "PROBABILITIES", "LABEL_SET")
        return self._answer(products, lambda tensors: self._infer(ENSEMBLE, tensors, outputs))

    def ask_steps(self, config: model_config_pb2.ModelConfig, products: Sequence[tuple[bytes, bytes]]) -> Answer:
        """The same by an ensemble that is not served yet: its steps, one after the other."""

        def through(tensors: Tensors) -> Tensors:
            for step in config.ensemble_scheduling.step:
                inputs = {key: tensors[value] for key, value in step.input_map.items()}
                outputs = self._infer(step.model_name, inputs, list(step.output_map))
                tensors = tensors | {step.output_map[name]: array for name, array in outputs.items()}
            return tensors

        return self._answer(products, through)

    def _answer(self, products: Sequence[tuple[bytes, bytes]], through: Callable[[Tensors], Tensors]) -> Answer:
        named = [dict(zip(("TITLE", "IMAGE"), product, strict=True)) for product in products]
        found = [through({name: np.array([[data]], object) for name, data in each.items()}) for each in named]
        predictions = [json.loads(tensors["PREDICTION"].item()) for tensors in found]
        return Answer(
            np.concatenate([tensors["PROBABILITIES"] for tensors in found]),
            {tensors["LABEL_SET"].item().decode() for tensors in found},
            set().union(*predictions),
        )

    def _infer(self, model: str, tensors: Tensors, outputs: Sequence[str]) -> Tensors:
        inputs = []
        for name, array in tensors.items():
            inputs.append(triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        with self._said(f"classify by {model}"):
            result = self._client.infer(model, inputs, request_id=URGENT, client_timeout=ANSWER_S)
        return {name: result.as_numpy(name) for name in outputs}

    def _live(self) -> set[str]:
        with self._said("list its models"):
            index = self._client.get_model_repository_index(headers=self._headers)
        return {model.name for model in index.models if model.state in ("READY", "LOADING", "UNLOADING")}

    def _config(self, name: str) -> Any:
        with self._said(f"describe {name}"):
            return self._client.get_model_config(name, headers=self._headers).config

    @contextmanager
    def _said(self, task: str) -> Iterator[None]:
        """The server's refusal as one line that says what to do."""
        try:
            yield
        except (InferenceServerException, grpc.RpcError) as error:
            said = error.message() if isinstance(error, InferenceServerException) else str(error)
            line = " ".join(said.split())
            cure = next((cure for words, cure in CURES.items() if words in line), "its log says more")
            raise Failure(f"{self.url} did not {task}: {line}; {cure}") from None
