"""The python steps of deploy/ without a server: triton_python_backend_utils is a stand-in."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from client.protocol import URGENT_ID
from model.config import BundleConfig, ModelConfig, PreprocessConfig
from model.reference import INAPPLICABLE, NONE, OTHER, Reference, TaskReference
from model.refusal import Code, Refusal
from model.tasks import Condition, MultiLabel, SingleLabel, TaskSet
from serve.served_engine import ServedEngine
from serve.sets import StepSet
from train.predict import Predictions
from train.reference import reference_of

DEPLOY = Path(__file__).parents[2] / "deploy"
TASKS = [
    SingleLabel(name="colour", labels=["red", "green", "blue"]),
    MultiLabel(name="pattern", labels=["dots", "stripes"]),
]
CONFIG = BundleConfig(model=ModelConfig(), preprocess=PreprocessConfig(image_size=16, vocab_size=600), tasks=TASKS)


class TritonError:
    INVALID_ARG, INTERNAL, CANCELLED, UNAVAILABLE = 3, 13, 1, 14

    def __init__(self, message, code):
        self.message, self.code = message, code


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class Request(dict):
    """Input tensors by name."""

    cancelled, id, response = False, "", None

    def is_cancelled(self):
        return self.cancelled

    def request_id(self):
        return self.id

    def get_response_sender(self):
        return SimpleNamespace(send=lambda response, flags: setattr(self, "response", response))


class MetricFamily:
    """Keeps what a step counts, and the last values of its gauges: (name, labels) -> value."""

    COUNTER, GAUGE = 0, 1
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def __init__(self, name, description, kind):
        self.name, self.kind = name, kind

    def Metric(self, labels):
        key = self.name, tuple(sorted(labels.items()))
        if self.kind == self.GAUGE:
            return SimpleNamespace(set=lambda value: self.values.update({key: value}))
        return SimpleNamespace(increment=lambda amount: self.values.update({key: self.values.get(key, 0) + amount}))


@pytest.fixture
def log(monkeypatch, tmp_path_factory):
    """Stands in for the server's modules; gives the lines that steps log."""
    lines: list[str] = []
    monkeypatch.setattr(MetricFamily, "values", {})
    shared_memory = tmp_path_factory.mktemp("shm")
    monkeypatch.setattr("serve.engine_pace.pace_file", lambda step: shared_memory / step)
    fake = ModuleType("triton_python_backend_utils")
    fake.TritonError, fake.Tensor, fake.MetricFamily = TritonError, Tensor, MetricFamily
    fake.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    fake.TritonModelException = type("TritonModelException", (Exception,), {})
    fake.Logger = SimpleNamespace(log_error=lines.append)
    fake.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    fake.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(tensors=output_tensors, error=error)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    for module in ("serve.step", "serve.step_metrics", "serve.queued_step"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield lines
    for module in ("serve.step", "serve.step_metrics", "serve.queued_step"):
        sys.modules.pop(module, None)


def load_step(name: str, file: str):
    spec = importlib.util.spec_from_file_location(file, DEPLOY / name / "1" / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    step = module.TritonPythonModel()
    step.bundle, step.name, step.worker, step.parameters = CONFIG, name, f"{name}_0", {"most_ahead": "4"}
    step.metrics = importlib.import_module("serve.step_metrics").StepMetrics(period_s=3600)
    return step


def arguments(repository: Path, **others: str) -> dict[str, str]:
    """What Triton hands to `initialize`."""
    own = {"model_repository": str(repository / "decode"), "model_version": "1", "model_config": "{}"}
    own |= {"model_instance_name": "decode_0", "model_instance_kind": "CPU", "model_instance_device_id": "0"}
    return own | others


def values(response) -> dict[str, np.ndarray]:
    assert response.error is None, response.error.message
    return {tensor.name: tensor.array for tensor in response.tensors}


def text(*rows: bytes) -> np.ndarray:
    return np.array([[row] for row in rows], dtype=object)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def divide(log):
    """A step whose answer refuses 0, breaks on 13 and halves anything else."""
    base = importlib.import_module("serve.step").TritonStep

    class Divide(base):
        inputs, outputs = ("x",), ("half",)

        def answer(self, x):
            if x[0] == 0:
                raise Refusal(Code.BAD_TENSOR, "x is 0, expected another number")
            if x[0] == 13:
                raise ValueError(f"could not broadcast in {__file__}")
            return (x / 2,)

    step = Divide()
    step.name, step.metrics = "divide", importlib.import_module("serve.step_metrics").StepMetrics(period_s=3600)
    return step


def test_F1_each_request_is_answered_by_itself(divide, log):
    good, refused, broken, last = divide.execute([Request(x=np.array([x])) for x in (4, 0, 13, 6)])
    assert values(good) == {"half": 2} and values(last) == {"half": 3}
    assert (refused.error.code, refused.error.message) == (
        TritonError.INVALID_ARG,
        "BAD_TENSOR: x is 0, expected another number",
    )
    assert broken.error.code == TritonError.INTERNAL


def test_F1_an_unforeseen_error_shows_an_id_only(divide, log):
    (response,) = divide.execute([Request(x=np.array([13]))])
    incident = response.error.message.split()[1].rstrip(",")
    assert "could not" not in response.error.message and "/" not in response.error.message
    assert len(log) == 1 and incident in log[0] and "Traceback" in log[0]


def test_refusals_and_incidents_are_counted(divide, log):
    divide.execute([Request(x=np.array([x])) for x in (0, 4, 0, 13)])
    assert not MetricFamily.values, "handed over at once: a message to the server for each request"
    divide.finalize()
    assert MetricFamily.values == {
        ("cma_clip_refusals_total", (("code", "BAD_TENSOR"),)): 2,
        ("cma_clip_incidents_total", (("step", "divide"),)): 1,
    }


def test_metrics_are_handed_over_regularly(log):
    metrics = importlib.import_module("serve.step_metrics").StepMetrics(period_s=0.01)
    metrics.add("cma_clip_refusals_total", code="A")
    deadline = time.monotonic() + 30
    while not MetricFamily.values and time.monotonic() < deadline:
        time.sleep(0.01)
    metrics.close()
    assert list(MetricFamily.values.values()) == [1]


@pytest.mark.parametrize(("content", "problem"), [(None, "no such file"), ("{}", "model: Field required")])
def test_F7_a_bad_bundle_stops_the_load(log, tmp_path, content, problem):
    if content:
        (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(sys.modules["triton_python_backend_utils"].TritonModelException) as caught:
        load_step("decode", "decode_step").initialize(arguments(tmp_path))
    message = str(caught.value)
    assert str(tmp_path / "bundle.json") in message and problem in message
    assert f"python -m serve.export BUNDLE --deploy {tmp_path}" in message and "\n" not in message


def test_initialize_reads_bundle_and_parameters(log, tmp_path):
    (tmp_path / "bundle.json").write_text(CONFIG.model_dump_json())
    config = json.dumps({"parameters": {"HINT": {"string_value": "f32"}, "most_ahead": {"string_value": "64"}}})
    step = load_step("decode", "decode_step")
    step.initialize(arguments(tmp_path, model_config=config))
    assert step.bundle == CONFIG and step.parameters == {"HINT": "f32"}
    assert step.version_folder == tmp_path / "decode/1" and step.gpu is None
    gpu = {"model_instance_kind": "GPU", "model_instance_device_id": "3"}
    step.initialize(arguments(tmp_path, model_config=config, **gpu))
    assert step.gpu == "3"


def test_a_step_of_a_published_set_reads_that_sets_files(log, tmp_path):
    suffix, other = "_0123456789ab", CONFIG.model_copy(update={"tasks": TaskSet(TASKS[:1])})
    (tmp_path / "bundle.json").write_text(CONFIG.model_dump_json())
    (tmp_path / f"bundle{suffix}.json").write_text(other.model_dump_json())
    config = json.dumps({"parameters": {"most_ahead": {"string_value": "64"}}})
    step = load_step("decode", "decode_step")
    step.initialize(arguments(tmp_path, model_config=config, model_repository=str(tmp_path / f"decode{suffix}")))
    assert [task.name for task in step.bundle.tasks] == ["colour"] and step.set.suffix == suffix
    assert step.pace.path.name.endswith(f"decode{suffix}"), "sets in one server do not share how far they are"
    step.finalize()


def preprocess(cheap: int | None = None, **limits: int):
    """
    Args:
        cheap: units of work that are done at once.
        limits: other than these.
    """
    step = load_step("preprocess", "preprocess_step")
    step.set = StepSet(DEPLOY)
    limits = {"max_queue_size": 192, "max_wait_ms": 1500, "timeout_ms": 10_000, "max_memory_mb": 1024} | limits
    step.parameters = {name: str(limit) for name, limit in limits.items()}
    step.load()
    if cheap is not None:
        sys.modules["serve.queued_step"].CHEAP = cheap
    return step


def answered(step, requests: list[Request]) -> list:
    """The responses, whether they came at once or through their senders."""
    at_once = step.execute(requests)
    step.finalize()
    return [now or request.response for now, request in zip(at_once, requests, strict=True)]


def test_L3_what_would_wait_too_long_is_refused_as_a_full_queue_is(log):
    step = preprocess(max_wait_ms=-1)
    product = Request(TITLE=text(b"red"), IMAGE=text(jpeg()))
    (refused,) = answered(step, [product])
    assert refused.error.code == TritonError.UNAVAILABLE
    assert refused.error.message.startswith("Exceeds maximum queue size: work of ")
    assert MetricFamily.values["cma_clip_shed_total", (("step", "preprocess"),)] == 1


def test_L4_what_has_waited_too_long_is_refused_as_an_expired_request_is(log):
    (late,) = answered(preprocess(cheap=0, timeout_ms=-1), [Request(TITLE=text(b"red"), IMAGE=text(jpeg()))])
    assert late.error.code == TritonError.UNAVAILABLE and late.error.message == "Request timeout expired"


def test_a_step_with_a_pace_says_how_far_it_is(log):
    step = load_step("decode", "decode_step")
    step.load()
    path = step.pace.path
    assert np.fromfile(path, np.int64).tolist() == [0, 0, 4, 500, 0]
    step.execute([Request(), Request()])
    taken, busy, *limits, spent_us = np.fromfile(path, np.int64).tolist()
    assert [taken, busy, *limits] == [2, 0, 4, 500] and spent_us > 0
    step.finalize()
    assert not path.exists()


def test_F3_the_canary_is_taken_however_much_waits(log):
    canary = Request(TITLE=text(b"red"), IMAGE=text(jpeg()))
    canary.id = URGENT_ID
    (answer,) = answered(preprocess(max_wait_ms=-1), [canary])
    assert values(answer)["present"].tolist() == [[True, True]]


def test_L6_rows_that_nobody_waits_for_are_not_decoded(log, monkeypatch):
    step = preprocess(cheap=0)
    request = Request(TITLE=text(b"red", b"red"), IMAGE=text(jpeg(), jpeg()))
    looks = iter([False, True])
    monkeypatch.setattr(request, "is_cancelled", lambda: next(looks), raising=False)
    (gone,) = answered(step, [request])
    assert gone.error.code == TritonError.CANCELLED and not log


@pytest.mark.parametrize("cheap", [0, 10**9])
def test_preprocess_marks_what_is_absent(log, cheap):
    step = preprocess(cheap)
    requests = [
        Request(TITLE=text(b"red"), IMAGE=text(jpeg())),
        Request(TITLE=text(b"red"), IMAGE=text(b"")),
        Request(TITLE=text(b" \t"), IMAGE=text(jpeg())),
        Request(TITLE=text(b""), IMAGE=text(b"")),
        Request(TITLE=text(b"red"), IMAGE=text(jpeg()[:-2])),
    ]
    *answers, empty, cut = answered(step, requests)
    assert [values(answer)["present"].tolist() for answer in answers] == [
        [[True, True]],
        [[True, False]],
        [[False, True]],
    ]
    assert [values(answer)["pixels"].shape for answer in answers] == [(1, 16, 16, 3)] * 3
    assert values(answers[0])["pixels"][0, 8, 8, 0] > 250 and not values(answers[1])["pixels"].any()
    assert empty.error.message.startswith("NO_MODALITY: ") and cut.error.message.startswith("IMG_TRUNCATED: ")


def test_preprocess_takes_several_rows(log):
    step = preprocess()
    (answer,) = answered(step, [Request(TITLE=text(b"red", b""), IMAGE=text(b"", jpeg()))])
    pixels, present = (values(answer)[name] for name in step.outputs)
    assert pixels.shape == (2, 16, 16, 3) and present.tolist() == [[True, False], [False, True]]


def test_a_bad_row_among_several_is_named(log):
    requests = [
        Request(TITLE=text(b"red", b"", b"blue"), IMAGE=text(jpeg(), b"", b"")),
        Request(TITLE=text(b"red", b"blue"), IMAGE=text(jpeg(), jpeg()[:-2])),
        Request(TITLE=text(b"red"), IMAGE=text(b"<html>")),
    ]
    absent, cut, alone = (response.error.message for response in answered(preprocess(), requests))
    assert absent.startswith("NO_MODALITY: row 1 of 0 to 2: a product needs")
    assert cut.startswith("IMG_TRUNCATED: row 1 of 0 to 1: ") and alone.startswith("IMG_UNDECODABLE: the data is not")


def test_decode_answers_in_the_order_of_the_tasks(log):
    logits = np.array([[0, np.log(8), 0, 20, -20]], np.float32)
    share, present = np.array([[0.25, 1]], np.float32), np.array([[True, True]])
    step = load_step("decode", "decode_step")
    step.load()
    (response,) = step.execute([Request(logits=logits, text_share=share, present=present)])
    answer = values(response)
    np.testing.assert_allclose(answer["PROBABILITIES"], [[0.1, 0.8, 0.1, 1, 0]], atol=1e-6)
    prediction = json.loads(answer["PREDICTION"][0, 0])
    assert prediction["colour"]["label"] == "green" and prediction["pattern"]["labels"] == ["dots"]
    assert prediction["colour"]["text_share"] == 0.25
    assert answer["TEXT_SHARE"] is share
    assert answer["LABEL_SET"].tolist() == [[CONFIG.tasks.label_set_hash.encode()]]


def test_decode_counts_labels_scores_and_shares(log):
    logits = np.array([[0, np.log(8), 0, 20, 20], [9, 0, 0, -20, -20]], np.float32)
    share, present = np.array([[0.25, 1], [0.5, 0.75]], np.float32), np.ones((2, 2), bool)
    step = load_step("decode", "decode_step")
    step.load()
    step.execute([Request(logits=logits, text_share=share, present=present)] * 2)
    step.finalize()
    counted = {(name, *dict(labels).values()): value for (name, labels), value in MetricFamily.values.items()}
    assert counted["cma_clip_answers_total", "true", "green", "colour"] == 2
    assert counted["cma_clip_answers_total", "true", "stripes", "pattern"] == 2
    assert not any(key[1:] == ("false", "dots", "pattern") for key in counted)
    assert counted["cma_clip_text_share_sum", "colour"] == pytest.approx(1.5)
    assert counted["cma_clip_text_share_count", "pattern"] == 4
    assert counted["cma_clip_score_sum", "colour"] == pytest.approx(2 * (0.8 + 0.999753), abs=1e-5)


# What decode_request's products were in validation: half of them "green" with dots, the others "red" with nothing.
HALVES = [0] * 5 + [100, 0, 0, 0, 100]
REFERENCE = Reference(
    products=200,
    tasks={
        "colour": TaskReference(
            labels={"red": 100, "green": 100, "blue": 0}, scores=[*[0] * 9, 200], text_share=HALVES
        ),
        "pattern": TaskReference(
            labels={"dots": 100, "stripes": 0, NONE: 100}, scores=[100, *[0] * 8, 100], text_share=HALVES
        ),
    },
)
GREEN_DOTS, RED = ([-9, 9, -9, 9, -9], [0.5, 0.5]), ([9, -9, -9, -9, -9], [1, 1])


def decoded(products: list[tuple[list[float], list[float]]], reference=REFERENCE, **request) -> dict[tuple, float]:
    """The gauges after a decode step with that reference has answered the products."""
    step = load_step("decode", "decode_step")
    step.bundle = CONFIG.model_copy(update={"reference": reference})
    step.load()
    logits_BC, share_BK = (np.array(part, np.float32) for part in zip(*products, strict=True))
    told = Request(logits=logits_BC, text_share=share_BK, present=np.ones((len(products), 2), bool))
    vars(told).update(request)
    (response,) = step.execute([told])
    step.finalize()
    assert response.error is None
    return {key: value for key, value in MetricFamily.values.items() if "population" in key[0]}


def indices(gauges: dict[tuple, float]) -> dict[tuple[str, str], float]:
    """(task, kind) -> index."""
    told = {
        (dict(labels)["task"], dict(labels)["kind"]): value
        for (name, labels), value in gauges.items()
        if "index" in name
    }
    assert len(gauges) == 2 * len(told) and all(dict(labels)["worker"] == "decode_0" for _, labels in gauges)
    return told


def test_products_as_in_validation_have_a_stability_index_of_nothing(log):
    assert indices(decoded([GREEN_DOTS, RED] * 500)) == {
        (task, kind): pytest.approx(0, abs=1e-9)
        for task in ("colour", "pattern")
        for kind in ("labels", "scores", "text_share")
    }
    assert MetricFamily.values["cma_clip_unlabelled_total", (("task", "pattern"),)] == 500
    assert MetricFamily.values["cma_clip_unlabelled_total", (("task", "colour"),)] == 0
    assert MetricFamily.values["cma_clip_score_bins_total", (("bin", "0.9"), ("task", "colour"))] == 1000
    assert MetricFamily.values["cma_clip_text_share_bins_total", (("bin", "0.5"), ("task", "colour"))] == 500


def test_a_step_that_answers_no_more_shows_no_index(log, monkeypatch):
    """Such as the set before the served one, which is kept for a rollback."""
    module, clock = importlib.import_module("serve.step_metrics"), SimpleNamespace(now=0.0)
    metrics = module.StepMetrics(period_s=3600, clock=lambda: clock.now)
    metrics.watch(REFERENCE, "decode_0")
    said = {"labels": ["red"], "accepted": True, "top": [["red", 1.0]], "text_share": 1.0}
    for _ in range(1000):
        metrics.count({"colour": said})
    metrics.hand_over()
    shown = {key for key in metrics._metrics if key[0] in module.GAUGES}
    assert shown
    clock.now = module.IDLE_S + 1
    metrics.hand_over()
    assert not shown & metrics._metrics.keys() and metrics._metrics
    metrics.count({"colour": said})
    metrics.close()
    assert shown <= metrics._metrics.keys()


def test_one_kind_of_product_alone_has_a_high_one(log):
    told = decoded([RED] * 1000)
    high = {key for key, value in indices(told).items() if value > 0.2}
    assert high == {
        ("colour", "labels"),
        ("colour", "text_share"),
        *(("pattern", kind) for kind in ("labels", "scores", "text_share")),
    }
    chance = [value for (name, _), value in told.items() if "by_chance" in name]
    assert 0.01 < min(chance) <= max(chance) < 0.2


@pytest.mark.parametrize("case", [{"reference": None}, {"products": 999}, {"id": "canary"}])
def test_no_index_without_a_reference_nor_of_few_products_nor_of_the_canary(log, case):
    products = [RED] * case.pop("products", 1000)
    assert decoded(products, **case) == {}
    counted = MetricFamily.values.get(("cma_clip_text_share_count", (("task", "colour"),)))
    assert counted == (None if "id" in case else len(products))


def test_labels_that_are_rare_in_validation_are_counted_together(log):
    colour = REFERENCE.tasks["colour"].model_copy(update={"labels": {"green": 100, OTHER: 100}})
    reference = REFERENCE.model_copy(update={"tasks": REFERENCE.tasks | {"colour": colour}})
    blue = ([-9, -9, 9, -9, -9], [1, 1])
    assert indices(decoded([GREEN_DOTS] * 500 + [RED] * 300 + [blue] * 200, reference))["colour", "labels"] == 0
    of_colour = {
        dict(labels)["label"]: value
        for (name, labels), value in MetricFamily.values.items()
        if name == "cma_clip_answers_total" and dict(labels)["task"] == "colour"
    }
    assert of_colour == {"green": 500, OTHER: 500}


def test_what_does_not_apply_is_counted_as_its_bundle_counted_it(log, monkeypatch):
    """Two of five are told that no pattern is asked of them: as in validation, so the index is 0."""
    asked = MultiLabel(name="pattern", labels=["dots", "stripes"], only_if=Condition(task="colour", labels=["green"]))
    tasks = TaskSet([CONFIG.tasks[0], asked])
    monkeypatch.setitem(globals(), "CONFIG", CONFIG.model_copy(update={"tasks": tasks}))
    products = [GREEN_DOTS, GREEN_DOTS, RED, RED, ([-9, 9, -9, -9, -9], [0.5, 0.5])] * 200
    logits_NC, share_NK = (torch.tensor(part) for part in zip(*products, strict=True))
    validation = Predictions(logits_NC, share_NK, logits_NC, torch.ones(1000, 2, dtype=torch.bool), [])
    reference = reference_of(validation, tasks)
    assert reference.tasks["pattern"].labels == {"dots": 400, "stripes": 0, NONE: 200, INAPPLICABLE: 400}
    assert all(value == pytest.approx(0, abs=1e-9) for value in indices(decoded(products, reference)).values())
    counted = {(name, *dict(labels).values()): value for (name, labels), value in MetricFamily.values.items()}
    answers = {
        key[1:3]: value for key, value in counted.items() if key[0] == "cma_clip_answers_total" and key[3] == "pattern"
    }
    assert answers == {("true", "dots"): 400, ("not_applicable", INAPPLICABLE): 400}
    assert counted["cma_clip_unlabelled_total", "pattern"] == 200
    bins = [value for key, value in counted.items() if key[0] == "cma_clip_score_bins_total" and key[2] == "pattern"]
    assert sum(bins) == 600 and counted["cma_clip_text_share_count", "pattern"] == 1000
    MetricFamily.values.clear()
    shifted = indices(decoded([RED] * 1000, reference))
    assert shifted["pattern", "labels"] > 1 and ("pattern", "scores") not in shifted  # there is no score


def test_decode_says_what_does_not_apply_and_leaves_probabilities_as_they_are(log, monkeypatch):
    asked = MultiLabel(name="pattern", labels=["dots", "stripes"], only_if=Condition(task="colour", labels=["green"]))
    monkeypatch.setitem(globals(), "CONFIG", CONFIG.model_copy(update={"tasks": TaskSet([CONFIG.tasks[0], asked])}))
    step = load_step("decode", "decode_step")
    step.load()
    logits = np.array([[np.log(8), 0, 0, 20, -20]], np.float32)
    share, present = np.array([[0.25, 1]], np.float32), np.array([[True, True]])
    (response,) = step.execute([Request(logits=logits, text_share=share, present=present)])
    answer = values(response)
    said = json.loads(answer["PREDICTION"][0, 0])["pattern"]
    assert (said["labels"], said["refused"], said["applicable"]) == ([], "not_applicable", 0.1)
    np.testing.assert_allclose(answer["PROBABILITIES"], [[0.8, 0.1, 0.1, 1, 0]], atol=1e-6)
    assert answer["LABEL_SET"].tolist() == [[CONFIG.tasks.label_set_hash.encode()]]


def test_each_of_several_labels_is_counted_as_it_was_accepted(log):
    metrics = importlib.import_module("serve.step_metrics").StepMetrics(period_s=3600)
    some = {"labels": ["a", "b"], "accepted": True, "accepted_labels": ["b"], "top": [["a", 0.5]], "text_share": 0.5}
    whole = {"labels": ["a"], "accepted": False, "refused": "no promise", "top": [["a", 0.5]], "text_share": 0.5}
    metrics.count({"tags": some, "color": whole})
    metrics.hand_over()
    counted = {(name, *dict(labels).values()): value for (name, labels), value in MetricFamily.values.items()}
    assert {key: value for key, value in counted.items() if key[0] == "cma_clip_answers_total"} == {
        ("cma_clip_answers_total", "false", "a", "tags"): 1,
        ("cma_clip_answers_total", "true", "b", "tags"): 1,
        ("cma_clip_answers_total", "false", "a", "color"): 1,
    }


def decode_request(logits=0.0, share=0.5, columns=5, tasks=2, present=(True, True)) -> Request:
    logits_BC, share_BK = np.full((1, columns), logits, np.float32), np.full((1, tasks), share, np.float32)
    return Request(logits=logits_BC, text_share=share_BK, present=np.array([present]))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"columns": 4}, "BAD_TENSOR: logits is [1, 4], expected [1, 5]"),
        ({"tasks": 3}, "BAD_TENSOR: text_share is [1, 3], expected [1, 2]"),
        ({"present": (True, True, True)}, "BAD_TENSOR: present is [1, 3]"),
        ({"share": -1e6}, "BAD_TENSOR: text_share must lie in 0..1"),
        ({"share": 1.001}, "BAD_TENSOR: text_share must lie in 0..1"),
        ({"present": (False, False)}, "NO_MODALITY: row 0 of present"),
    ],
)
def test_decode_called_by_itself_refuses_what_no_engine_says(log, bad, says):
    step = load_step("decode", "decode_step")
    step.load()
    refused, good = step.execute([decode_request(**bad), decode_request()])
    assert refused.error.code == TritonError.INVALID_ARG and refused.error.message.startswith(says)
    assert json.loads(values(good)["PREDICTION"][0, 0]) and not log


@pytest.mark.parametrize("bad", [{"logits": np.nan}, {"logits": np.inf}, {"share": np.nan}, {"share": -np.inf}])
def test_numbers_that_are_not_finite_are_an_incident_with_a_counter_and_no_json(log, bad):
    step = load_step("decode", "decode_step")
    step.load()
    broken, good = step.execute([decode_request(**bad), decode_request()])
    assert broken.error.code == TritonError.INTERNAL and broken.error.message.startswith("incident ")
    assert json.loads(values(good)["PREDICTION"][0, 0])
    step.finalize()
    assert MetricFamily.values["cma_clip_not_finite_total", ()] == 1
    assert MetricFamily.values["cma_clip_text_share_count", (("task", "colour"),)] == 1
    assert len(log) == 1 and "NotFiniteError" in log[0]


@pytest.mark.parametrize("logits", [1e30, -3e38, 0.0])
def test_prediction_is_json_whatever_the_size_of_the_logits(log, logits):
    step = load_step("decode", "decode_step")
    step.load()
    (answer,) = step.execute([decode_request(logits=logits)])
    prediction = json.loads(values(answer)["PREDICTION"][0, 0], parse_constant=pytest.fail)
    assert np.isfinite([said["top"][0][1] for said in prediction.values()]).all()


def test_counters_outlive_amounts_that_no_counter_takes_and_a_server_that_refuses_one(log, monkeypatch):
    metrics = importlib.import_module("serve.step_metrics").StepMetrics(period_s=3600)
    for amount in (-1e6, np.nan, np.inf):
        metrics.add("cma_clip_text_share_sum", amount, task="colour")
    metrics.add("cma_clip_text_share_sum", 0.5, task="colour")
    metrics.hand_over()
    assert MetricFamily.values == {
        ("cma_clip_not_counted_total", (("counter", "cma_clip_text_share_sum"),)): 3,
        ("cma_clip_text_share_sum", (("task", "colour"),)): 0.5,
    }
    monkeypatch.setattr(MetricFamily, "Metric", lambda *_, **__: 1 / 0)
    metrics.add("cma_clip_refusals_total", code="A")
    metrics.add("cma_clip_text_share_sum", 0.25, task="colour")
    metrics.close()
    assert MetricFamily.values["cma_clip_text_share_sum", (("task", "colour"),)] == 0.75
    assert len(log) == 1 and "cma_clip_refusals_total was not counted" in log[0]


def engine_request(*titles: list[int], size: int = 16) -> Request:
    rows = len(titles)
    pixels = np.full((rows, size, size, 3), titles[0][1] % 256, np.uint8)
    return Request(input_ids=np.array(titles, np.int32), pixels=pixels, present=np.ones((rows, 2), bool))


@pytest.fixture
def engine(log):
    """The engine step over an engine that returns sums; `asked` collects what it was given."""
    step, asked = load_step("engine", "engine_step"), []

    def run(input_ids, pixels, present):
        asked.append(input_ids)
        return input_ids.sum(axis=1, keepdims=True), pixels[:, 0, 0, :1]

    step.engine, step.asked = ServedEngine(run, CONFIG, call_cost=1000), asked
    return step


def test_engine_runs_ragged_titles_in_one_call(engine):
    short, two_rows, long = (
        engine_request([598, 5, 599]),
        engine_request([598, 6], [1, 2]),
        engine_request([7] * 20),
    )
    responses = engine.execute([short, two_rows, long])
    assert [ids.shape for ids in engine.asked] == [(4, 24)]
    assert [values(answer)["logits"].tolist() for answer in responses] == [[[1202]], [[604], [3]], [[140]]]
    assert [values(answer)["text_share"].tolist() for answer in responses] == [[[5]], [[6], [6]], [[7]]]


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (engine_request([598, 5, 599], size=8), "pixels"),
        (engine_request([598] * 78), "input_ids"),
        (engine_request([598, 600]), "input_ids"),
        (engine_request([598, -1]), "input_ids"),
    ],
)
def test_engine_refuses_a_bad_tensor_alone(engine, bad, name):
    refused, good = engine.execute([bad, engine_request([598, 5, 599])])
    assert refused.error.code == TritonError.INVALID_ARG and refused.error.message.startswith(f"BAD_TENSOR: {name}")
    assert values(good)["logits"].tolist() == [[1202]]


def test_engine_failure_is_one_incident_for_the_batch(engine, log):
    engine.engine.run = lambda *inputs: 1 / 0
    responses = engine.execute([engine_request([598, 5, 599])] * 2)
    assert [response.error.code for response in responses] == [TritonError.INTERNAL] * 2
    assert len(log) == 1 and "ZeroDivisionError" in log[0]


def test_the_engine_step_hands_runtime_gpu_and_parameters_on(log, monkeypatch, tmp_path):
    loaded, step = [], load_step("engine", "engine_step")
    monkeypatch.setattr(ServedEngine, "load", lambda *arguments: loaded.append(arguments))
    step.version_folder, step.gpu = tmp_path, "3"
    step.parameters |= {"runtime": "torch", "device": "auto"}
    step.load()
    assert loaded == [("torch", tmp_path, CONFIG, {"gpu": "3", "device": "auto"})]
    assert step.parameters == {"runtime": "torch", "device": "auto"}
