"""Every config.pbtxt of deploy/ parses, and its names, types and shapes fit its neighbours and its code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from serve.engine_pace import SPEAKERS

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIGS = sorted(DEPLOY.glob("*/config.pbtxt")) + sorted(DEPLOY.glob("*/configs/*.pbtxt"))
ENSEMBLE = DEPLOY / "cma_clip/config.pbtxt"
BUILT_BY_EXPORT = {"model.plan"}


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def signature(tensors) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in tensors}


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(DEPLOY)))


@each([folder for folder in sorted(DEPLOY.iterdir()) if folder.is_dir()])
def test_each_folder_is_a_model(path):
    assert (path / "config.pbtxt").is_file(), "Triton refuses a repository with any other folder"
    assert (path / "1").is_dir()


@each(CONFIGS)
def test_config_names_its_folder_and_its_file(path):
    config = read(path)
    folder = DEPLOY / path.relative_to(DEPLOY).parts[0]
    assert config.name == folder.name
    assert config.max_batch_size == read(ENSEMBLE).max_batch_size > 0
    file = config.default_model_filename
    assert config.platform == "ensemble" or file in BUILT_BY_EXPORT or (folder / "1" / file).is_file()


@each([path for path in CONFIGS if read(path).backend == "python"])
def test_step_uses_the_tensors_of_its_config(path):
    config = read(path)
    step = DEPLOY / config.name / "1" / config.default_model_filename
    (cls,) = (node for node in ast.parse(step.read_text()).body if isinstance(node, ast.ClassDef))
    constants = {node.targets[0].id: ast.literal_eval(node.value) for node in cls.body if isinstance(node, ast.Assign)}
    assert constants["inputs"] == tuple(tensor.name for tensor in config.input)
    assert constants["outputs"] == tuple(tensor.name for tensor in config.output)


@each([path for path in CONFIGS if path.parent.name == "configs"])
def test_every_runtime_has_the_same_tensors(path):
    default, other = read(path.parents[1] / "config.pbtxt"), read(path)
    assert signature(other.input) == signature(default.input)
    assert signature(other.output) == signature(default.output)


def test_ensemble_maps_fit_its_steps():
    """Walk the chain: each step's inputs are there, with the type and shape that its producer gives."""
    ensemble = read(ENSEMBLE)
    known = signature(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        model = read(DEPLOY / step.model_name / "config.pbtxt")
        assert {key: known[value] for key, value in step.input_map.items()} == signature(model.input)
        outputs = signature(model.output)
        assert set(step.output_map) == set(outputs)
        known |= {value: outputs[key] for key, value in step.output_map.items()}
    assert signature(ensemble.output).items() <= known.items()


def test_ensemble_is_a_chain():
    """Each step needs the one before: Triton 2.51 never ends a request that fails beside a parallel step."""
    steps = read(ENSEMBLE).ensemble_scheduling.step
    for before, step in zip(steps[:-1], steps[1:], strict=True):
        assert set(before.output_map.values()) & set(step.input_map.values()), step.model_name


@each([path for path in CONFIGS if read(path).platform != "ensemble"])
def test_no_step_has_a_queue_policy(path):
    """With one, a step that is free may wait half a second for its next batch (serve.engine_pace)."""
    batching = read(path).dynamic_batching
    assert not batching.HasField("default_queue_policy") and not batching.priority_levels
    assert read(path).HasField("dynamic_batching")


def test_what_waits_is_bounded_in_number_work_and_time():
    limits = read(DEPLOY / "preprocess/config.pbtxt").parameters
    assert {"max_queue_size", "max_wait_ms", "timeout_ms", "max_memory_mb"} == set(limits)
    assert all(int(limit.string_value) > 0 for limit in limits.values())


@each([path for path in CONFIGS if read(path).name in SPEAKERS and read(path).backend == "python"])
def test_steps_say_how_many_requests_may_be_on_their_way(path):
    most, batches = int(read(path).parameters["most_ahead"].string_value), read(path).dynamic_batching
    assert most >= 2 * max(batches.preferred_batch_size, default=read(path).max_batch_size), "the next batch gathers"


@each([path for path in CONFIGS if read(path).model_warmup])
def test_warm_up_requests_give_every_input(path):
    config = read(path)
    for request in config.model_warmup:
        assert set(request.inputs) == {tensor.name for tensor in config.input}
        for tensor in request.inputs.values():
            assert (path.parent / "warmup" / tensor.input_data_file).is_file()


def test_served_tensors_are_those_of_the_client():
    from client.protocol import MODEL, OUTPUTS

    ensemble = read(ENSEMBLE)
    assert ensemble.name == MODEL
    assert tuple(tensor.name for tensor in ensemble.output) == OUTPUTS
    assert [tensor.name for tensor in ensemble.input] == ["TITLE", "IMAGE"]
