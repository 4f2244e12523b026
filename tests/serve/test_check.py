"""A model repository that cannot be served is refused by the name of the file that is to blame."""

from __future__ import annotations

import pytest
from launch_files import write_engine, write_repository

from serve import check


@pytest.fixture
def repository(tmp_path):
    return write_repository(tmp_path / "deploy")


@pytest.fixture
def h100(monkeypatch):
    """A machine with TensorRT 10.16 and one H100."""
    monkeypatch.setattr(check, "tensorrt_version", lambda: "10.16.0.5")
    monkeypatch.setattr(check, "compute_capabilities", lambda: ["9.0"])


def refusal(function, *arguments) -> str:
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("config_name", ["cpu", "onnxruntime"])
def test_an_export_is_fine(repository, config_name):
    check.check_models(repository, config_name)
    check.check_engine(repository, config_name)


def test_F7_each_missing_file_is_named_with_its_cure(repository):
    for config_name, file, runtime in (
        ("cpu", "model.onnx", "openvino"),
        ("onnxruntime", "model.onnx", "onnxruntime"),
        ("gpu-torch", "model.pt2", "torch"),
        (None, "model.plan", "tensorrt"),
    ):
        engine = repository / "engine/1" / file
        engine.unlink(missing_ok=True)
        command = f"python -m serve.export BUNDLE --deploy {repository} --runtime {runtime}"
        assert refusal(check.check_engine, repository, config_name) == f"{engine}: no such file; export: {command}"
    step = repository / "decode/1/decode_step.py"
    step.unlink()
    assert refusal(check.check_models, repository, "cpu").startswith(f"{step}: no such file")
    (repository / "bundle.json").unlink()
    assert "serve.export BUNDLE" in refusal(check.check_models, repository, "cpu")


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("decode/config.pbtxt", "max_batch_sise: 64", 'has no field named "max_batch_sise"'),
        ("engine/configs/cpu.pbtxt", "max_batch_size: many", "Couldn't parse integer: many"),
        ("cma_clip/config.pbtxt", "input [", "Expected"),
    ],
)
def test_F7_a_bad_configuration_is_named_with_its_line(repository, file, line, says):
    path = repository / file
    text = path.read_text() + line + "\n"
    path.write_text(text)
    message = refusal(check.check_models, repository, "cpu")
    assert message.startswith(f"{path}:") and says in message
    number = int(message.removeprefix(f"{path}:").split(":")[0])
    assert number - text.count("\n") in (0, 1)


def test_F7_a_bad_label_is_named(repository):
    bundle = repository / "bundle.json"
    bundle.write_text(bundle.read_text().replace('"red"', "7"))
    message = refusal(check.check_models, repository, "cpu")
    assert message.startswith(f"{bundle}: ") and "tasks.0.labels.0" in message


@pytest.mark.parametrize("name", ["backup", ".git"])
def test_a_folder_that_is_no_model_is_named(repository, name):
    (repository / name).mkdir()
    assert refusal(check.check_models, repository, "cpu").startswith(f"{repository / name}/config.pbtxt: no such file")


def test_the_root_of_a_volume_is_one_line(repository, monkeypatch):
    (repository / "lost+found").mkdir(mode=0o700)
    message = refusal(check.check_models, repository, "cpu")
    assert message.startswith(
        f"{repository}/lost+found: a volume's root is no model repository; put the repository in a"
    )


def test_a_folder_that_may_not_be_opened_is_one_line(repository, monkeypatch):
    monkeypatch.setattr(check.os, "access", lambda path, mode: path.name != "decode")
    assert "cannot open it" in refusal(check.check_models, repository, "cpu")


def test_a_damaged_engine_is_named_before_the_start(repository):
    engine = repository / "engine/1/model.onnx"
    engine.write_bytes(b"enginf")
    message = refusal(check.check_engine, repository, "cpu")
    assert message.startswith(f"{engine}: is damaged") and message.endswith("--runtime openvino")


def test_a_model_without_a_version_is_named(repository):
    (repository / "cma_clip/1").rename(repository / "cma_clip/one")
    assert refusal(check.check_models, repository, "cpu").startswith(f"{repository}/cma_clip: no version folder")


def test_the_highest_version_is_the_one_served(repository):
    for name in ("2", "10"):
        (repository / "decode" / name).mkdir()
    assert check.served_version(repository / "decode").name == "10"


@pytest.mark.parametrize("version", ["10.16.0", "10.16.0.5"])
def test_F8_an_engine_of_this_machine_is_fine(repository, h100, version):
    write_engine(
        repository,
        "model.plan",
        runtime="tensorrt",
        versions={"tensorrt": version},
        gpu="H100",
        compute_capability="9.0",
    )
    check.check_engine(repository, None)


@pytest.mark.parametrize(
    ("versions", "capability", "says"),
    [
        ({"tensorrt": "10.14.1"}, "9.0", "built with tensorrt 10.14.1, here is 10.16.0; "),
        ({"tensorrt": "10.14.1.48"}, "9.0", "built with tensorrt 10.14.1.48, here is 10.16.0.5; "),
        ({"tensorrt": "10.16.0"}, "8.6", "built for RTX A4000 (compute capability 8.6), here is 9.0; "),
        ({"tensorrt_rtx": "1.7.1.116"}, None, "built with tensorrt_rtx 1.7.1.116, here is none; "),
    ],
    ids=["tensorrt", "tensorrt_build", "gpu", "rtx"],
)
def test_F8_an_engine_of_another_machine_is_refused(repository, h100, versions, capability, says):
    stamp = {"versions": versions, "gpu": "RTX A4000", "compute_capability": capability}
    engine = write_engine(repository, "model.plan", runtime="tensorrt", **stamp)
    rebuild = f"rebuild: python -m serve.export BUNDLE --deploy {repository} --runtime tensorrt"
    assert refusal(check.check_engine, repository, None) == f"{engine}: {says}{rebuild}"


@pytest.mark.parametrize(("gpus", "here"), [([], "no GPU"), (["9.0", "8.9"], "8.9")])
def test_F8_every_gpu_counts(repository, h100, monkeypatch, gpus, here):
    monkeypatch.setattr(check, "compute_capabilities", lambda: gpus)
    stamp = {"versions": {"tensorrt": "10.16.0"}, "gpu": "H100", "compute_capability": "9.0"}
    write_engine(repository, "model.plan", runtime="tensorrt", **stamp)
    assert f"H100 (compute capability 9.0), here is {here}; " in refusal(check.check_engine, repository, None)


def test_F8_an_engine_of_another_export_is_refused(repository):
    with (repository / "bundle.json").open("a") as file:
        file.write("\n")
    assert "model.onnx: was not exported together with bundle.json" in refusal(check.check_engine, repository, "cpu")


def test_a_repository_that_the_server_could_change_is_a_warning(repository, monkeypatch):
    assert (
        check.writable(repository)
        == f"{repository} can be written by the server's user: mount the repository read-only"
    )
    step = repository / "decode/1/decode_step.py"
    monkeypatch.setattr(check.os, "access", lambda path, mode: path == step)
    assert check.writable(repository).startswith(f"{step} can be written")
    monkeypatch.setattr(check.os, "access", lambda path, mode: False)
    assert check.writable(repository) is None
