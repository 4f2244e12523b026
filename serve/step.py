"""What the python steps of deploy/ share: loading the bundle, and answering each request by itself.

Imported inside Triton's python backend only: triton_python_backend_utils exists nowhere else.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from model.config import BundleConfig
from model.refusal import Refusal
from serve.batching import Arrays
from serve.engine_pace import MOST_AHEAD, Pace, pace_file
from serve.sets import StepSet
from serve.step_metrics import StepMetrics
from serve.work import URGENT as URGENT

# B rows of one request; a product is one row, a request usually one product

Outcome = Any  # outputs (Arrays), or the pb_utils.TritonError of a request that failed


class RequestCancelledError(Exception):
    """Nobody waits for this request's answer."""


class TritonStep:
    """Base of each step's TritonPythonModel. A step fills in `load` and `answer`.

    Attributes:
        inputs, outputs: tensor names as in config.pbtxt, in the order of `answer`.
        bundle: tasks and preprocessing, from bundle.json.
        repository: the model repository's root.
        set: the steps that it answers with, and the files that they share.
        version_folder: where the step's own file lies.
        name: the model's, as in config.pbtxt.
        worker: the name of this instance of it; there may be several.
        metrics: counters on the server's metrics page.
        gpu: number of the one that this instance is for, None on the CPU.
        parameters: the config.pbtxt's `parameters`, name to string.
        pace: where the step says how far it is; None where it does not.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pace: Pace | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once. A fault of the bundle stops the load with one line that names the file."""
        model_folder = Path(args["model_repository"])
        self.repository, self.version_folder = model_folder.parent, model_folder / args["model_version"]
        parameters = json.loads(args["model_config"]).get("parameters", {})
        self.parameters = {name: value["string_value"] for name, value in parameters.items()}
        self.name, self.worker, self.metrics = model_folder.name, args["model_instance_name"], StepMetrics()
        self.gpu = args["model_instance_device_id"] if args["model_instance_kind"] == "GPU" else None
        try:
            self.set = StepSet.of(model_folder)
            self.bundle = BundleConfig.read(self.set.bundle)
            self.load()
        except ValueError as error:
            cure = f"export again: python -m serve.export BUNDLE --deploy {self.repository}"
            raise pb_utils.TritonModelException(f"{error}; {cure}") from None

    def load(self) -> None:
        """Load what the step needs besides the bundle's config.

        Raises:
            ValueError: a file is missing or does not fit the bundle; the message names it.
        """

    def answer(self, *inputs: Any, **named: Any) -> Arrays:
        """The outputs for one request's inputs, all with B rows.

        Raises:
            Refusal: of this request.
        """
        raise NotImplementedError

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton with one batch. A request that fails leaves the others of its batch alone."""
        with nullcontext() if self.pace is None else self.pace.working(len(requests)):
            return [self.respond(outcome) for outcome in self.answer_all(requests)]

    def answer_all(self, requests: Sequence[Any]) -> list[Outcome]:
        """Outputs or the error of each request, in order."""
        return [self.answer_one(request) for request in requests]

    def answer_one(self, request: Any) -> Outcome:
        return self.attempt(lambda: self.answer(*self.read(request)))

    def read(self, request: Any) -> Arrays:
        """The request's inputs. Whether its caller has gone is the server's to ask: from here it costs a message."""
        return tuple(pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs)

    def attempt(self, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """The result of `work(*arguments)`, or the TritonError to answer with.

        A Refusal is the caller's fault: INVALID_ARGUMENT. Any other exception is ours: INTERNAL with an opaque id;
        what happened stands under that id in the server's log only.
        """
        try:
            return work(*arguments)
        except RequestCancelledError:
            return pb_utils.TritonError("the caller gave up", pb_utils.TritonError.CANCELLED)
        except Refusal as refusal:
            self.metrics.add("cma_clip_refusals_total", code=refusal.code)
            return pb_utils.TritonError(str(refusal), pb_utils.TritonError.INVALID_ARG)
        except Exception:
            incident = uuid.uuid4().hex[:12]
            self.metrics.add("cma_clip_incidents_total", step=self.name)
            pb_utils.Logger.log_error(f"incident {incident}: {traceback.format_exc()}")
            return pb_utils.TritonError(f"incident {incident}, see the server's log", pb_utils.TritonError.INTERNAL)

    def finalize(self) -> None:
        """Called by Triton once, before it unloads the step."""
        if self.pace is not None:
            self.pace.close()
        self.metrics.close()

    def open_pace(self, lost_after_s: float) -> None:
        """Say from now on how far this step is, and how many its config.pbtxt wants to be on their way to it.

        Raises:
            ValueError: it is missing or no number.
        """
        try:
            most = int(self.parameters.pop(MOST_AHEAD))
        except (KeyError, ValueError) as error:
            raise ValueError(f"config.pbtxt of {self.name}: parameter {error}") from None
        self.pace = Pace(most, lost_after_s, pace_file(self.name))

    def respond(self, outcome: Outcome) -> Any:
        if isinstance(outcome, pb_utils.TritonError):
            return pb_utils.InferenceResponse(error=outcome)
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, outcome, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)


class BatchStep(TritonStep):
    """Base of a step that answers all requests of a batch in one call."""

    def check(self, *inputs: Any, **named: Any) -> None:
        """Refuse one request before it joins the batch.

        Raises:
            Refusal: of this request.
        """

    def answer_together(self, batch: Sequence[Arrays]) -> list[Arrays]:
        """The outputs of each request, in order, for the inputs of each."""
        raise NotImplementedError

    def answer_all(self, requests: Sequence[Any]) -> list[Outcome]:
        outcomes = [self.attempt(self._checked, request) for request in requests]
        good = [index for index, inputs in enumerate(outcomes) if not isinstance(inputs, pb_utils.TritonError)]
        if good:
            answers = self.attempt(self.answer_together, [outcomes[index] for index in good])
            for position, index in enumerate(good):
                outcomes[index] = answers[position] if isinstance(answers, list) else answers
        return outcomes

    def _checked(self, request: Any) -> Arrays:
        inputs = self.read(request)
        self.check(*inputs)
        return inputs
