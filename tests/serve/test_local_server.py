"""The `tritonserver` command made from nvidia-pytriton's binary, without running it; running: test_served.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_process import free_ports

from serve import local_server


@pytest.fixture
def repository(tmp_path) -> Path:
    (tmp_path / "bundle.json").write_text("{}")
    return tmp_path


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """What the launcher would become: [file, arguments, environment]."""
    calls: list = []
    monkeypatch.setattr(local_server, "_wheel", lambda: tmp_path / "site/pytriton/tritonserver")
    monkeypatch.setattr(local_server.os, "execve", lambda *call: calls.extend(call))
    return calls


def ports(first: int) -> list[str]:
    return [f"--http-port={first}", f"--grpc-port={first + 1}", "--metrics-port", str(first + 2)]


def test_launcher_names_the_occupied_port(capsys, repository, executed, silent_port):
    http, metrics = free_ports(2)
    ports = [f"--grpc-port={silent_port}", f"--http-port={http}", f"--metrics-port={metrics}"]
    code = local_server.serve(["--model-repository", str(repository), *ports])
    error = capsys.readouterr().err
    assert code == 1 and not executed and error.count("\n") == 1
    assert f"port {silent_port} (grpc): Address already in use" in error and "--grpc-port=N" in error


def test_launcher_says_how_to_export(capsys, tmp_path, executed):
    assert local_server.serve(["--model-repository", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert not executed and error.count("\n") == 1
    assert str(tmp_path / "bundle.json") in error and f"python -m serve.export BUNDLE --deploy {tmp_path}" in error


def test_launcher_wants_the_cpu_configuration(capsys, repository, executed):
    (repository / "engine/configs").mkdir(parents=True)
    (repository / "engine/configs/cpu.pbtxt").touch()
    assert local_server.serve(["--model-repository", str(repository)]) == 1
    assert not executed and "add --model-config-name=cpu" in capsys.readouterr().err


def test_launcher_stays_on_this_machine_and_passes_the_rest_on(capsys, repository, executed, free_port):
    given = [
        "--model-repository",
        str(repository),
        *ports(free_port),
        "--log-verbose=1",
        "--grpc-address=127.0.0.2",
    ]
    local_server.serve(given)
    file, arguments, environment = executed
    assert file.name == arguments[0] == "tritonserver" and arguments[-len(given) :] == given
    assert {"--http-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(arguments)
    assert "--grpc-address=127.0.0.1" not in arguments
    assert environment["LD_LIBRARY_PATH"].split(":")[0].endswith("site/nvidia_pytriton.libs")
    assert environment["PATH"].startswith(f"{local_server.sys.prefix}/bin:")
    assert "known CVEs" in capsys.readouterr().err


def test_install_writes_command_and_backend(tmp_path, monkeypatch, executed):
    monkeypatch.setattr(local_server, "NVIDIA_SERVER", tmp_path / "absent")
    wheel = local_server._wheel()
    stub = wheel / f"python_backend_stubs/{local_server.sysconfig.get_python_version()}/triton_python_backend_stub"
    for file in (stub, wheel / "backends/python/libtriton_python.so"):
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "venv/bin").mkdir(parents=True)
    assert "tritonserver installed" in local_server.install(tmp_path / "venv")
    backend = tmp_path / "venv/share/cma_clip/triton_backends/python"
    assert {file.name for file in backend.iterdir()} == {stub.name, "libtriton_python.so"}
    command = tmp_path / "venv/bin/tritonserver"
    assert command.read_text().startswith(f"#!{tmp_path}/venv/bin/python\n") and command.stat().st_mode & 0o111
    assert (tmp_path / "venv/TRITON_VERSION").read_text() == "2.51.0\n"


def test_help_needs_no_repository_and_no_port(capsys, tmp_path, executed, silent_port):
    local_server.serve(["--help", "--model-repository", str(tmp_path), f"--http-port={silent_port}"])
    assert executed[1][2:4] == ["--help", "--model-repository"] and capsys.readouterr().err == ""


def test_install_leaves_nvidias_own_server_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(local_server, "NVIDIA_SERVER", tmp_path)
    assert "nothing installed" in local_server.install(tmp_path)
    assert not list(tmp_path.iterdir())
