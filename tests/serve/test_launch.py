"""The launcher without a server: what it becomes, what it refuses. With one: test_launch_production.py, _demo.py."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from launch_files import write_command, write_engine, write_repository, write_tensorrt
from server_process import free_ports

from cma_clip.command import Failure
from serve import host, launch
from serve.profiles import PRODUCTION, PUBLISHING, TABLE

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def repository(tmp_path):
    return write_repository(tmp_path / "deploy")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Path:
    """A tritonserver 2.75.0 that knows the flags of the table and says so."""
    names = {flag.name for rows in (*TABLE.values(), PUBLISHING) for flag in rows} | {
        "model-repository",
        "model-config-name",
    }
    names |= {f"{service}-port" for service in ("http", "grpc", "metrics")}
    text = "\n".join(f"  --{name} <string>" for name in sorted(names))
    path = write_command(tmp_path / "opt/bin/tritonserver", f"echo '{text}'")
    (tmp_path / "opt/TRITON_VERSION").write_text("2.75.0\n")
    monkeypatch.setattr(launch, "NVIDIA_SERVER", path)
    return path


@pytest.fixture
def executed(monkeypatch, server) -> list:
    """What the launcher would become: [file, arguments]."""
    calls: list = []
    monkeypatch.setattr(launch.os, "execv", lambda *call: calls.extend(call))
    monkeypatch.setattr(launch.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(launch.check, "writable", lambda repository: None)
    monkeypatch.setattr(host, "little_shared_memory", lambda: None)
    monkeypatch.setattr(host, "remove_stale_regions", lambda: ["region"])
    return calls


@pytest.fixture
def key_file(tmp_path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    return file


def arguments(repository: Path, *own: object, profile: str = PRODUCTION, further: tuple[str, ...] = ()) -> list[str]:
    ports = [
        f"--{service}-port={port}" for service, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)
    ]
    given = ["--profile", profile, "--repository", repository, "--config-name", "cpu", *own, "--", *ports, *further]
    return [str(argument) for argument in given]


def refusal(capsys, executed: list, given: list[str], code: int = 1) -> str:
    """The one line that the launcher ends with."""
    assert launch.main(given) == code and not executed
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_it_becomes_the_server_with_the_profiles_flags(capsys, repository, server, executed, key_file):
    launch.main(arguments(repository, "--admin-key-file", key_file))
    file, command = executed
    assert file == command[0] == str(server)
    assert command[1:3] == [f"--model-repository={repository}", "--model-config-name=cpu"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])
    assert flags.keys() >= {flag.name for flag in TABLE[PRODUCTION] if "tls" not in flag.value}
    assert flags["grpc-restricted-protocol"].endswith(f":admin-key={KEY}")
    error = capsys.readouterr().err
    assert KEY not in error and "gRPC is not encrypted" in error
    assert "removed shared memory that a killed server left: region" in error


def test_further_arguments_come_last_and_replace(capsys, repository, executed):
    launch.main(arguments(repository, further=("--log-format=default", "--http-max-input-size", "9")))
    command = executed[1]
    assert command[-3:] == ["--log-format=default", "--http-max-input-size", "9"]
    assert not {"--log-format=ISO8601", "--http-max-input-size=65536"} & set(command)
    assert "as asked, without the profile's --log-format=ISO8601" in capsys.readouterr().err


def test_print_shows_the_command_of_another_version_and_hides_the_key(capsys, key_file):
    given = ["--profile", PRODUCTION, "--repository", "/models", "--print", "--admin-key-file", str(key_file)]
    assert launch.main([*given, "--server-version", "2.58.0"]) == 0
    old = capsys.readouterr().out.split()
    assert launch.main([*given, "--server-version", "2.75.0"]) == 0
    new = capsys.readouterr().out.split()
    assert old[:2] == ["tritonserver", "--model-repository=/models"]
    assert set(new) - set(old) == {"--http-max-input-size=65536", "--allow-client-shm=false"} and set(old) < set(new)
    assert not any(KEY in flag for flag in new) and sum("admin-key=ADMIN_KEY" in flag for flag in new) == 2


def test_publish_needs_a_key_in_production_and_dates_the_served_set_ahead(capsys, repository, executed, key_file):
    assert "--admin-key-file: else nobody could publish" in refusal(
        capsys, executed, arguments(repository, "--publish"), code=2
    )
    config = repository / "engine/config.pbtxt"
    launch.main(arguments(repository, "--publish", "--admin-key-file", key_file))
    assert {"--model-control-mode=explicit", "--load-model=cma_clip"} <= set(executed[1])
    assert config.stat().st_mtime > time.time() + 1e9
    assert config.stat().st_mtime == (repository / "decode/config.pbtxt").stat().st_mtime


def test_another_version_is_for_printing_only(capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.main(["--profile", "demo", "--server-version", "2.75.0"])
    assert "--server-version is for --print" in capsys.readouterr().err


def test_check_says_yes_or_everything_that_is_wrong(capsys, monkeypatch, repository, executed):
    assert launch.main(arguments(repository, "--check")) == 0
    assert f"tritonserver 2.75 can serve {repository} here, profile production" in capsys.readouterr().out
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0)
    (repository / "engine/1/model.onnx").unlink()
    assert launch.main(arguments(repository, "--check", further=("--nonsense=1",))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "model.onnx: no such file" in line] and not executed
    assert [line for line in lines if "does not know --nonsense" in line]
    assert [line for line in lines if "does not run as root" in line]


def test_production_does_not_run_as_root_unless_told(capsys, monkeypatch, repository, executed):
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0)
    assert "docker run --user 1000" in refusal(capsys, executed, arguments(repository))
    launch.main(arguments(repository, "--allow-root"))
    assert executed.pop()
    executed.clear()
    launch.main(arguments(repository, profile="demo"))
    assert executed


def test_production_wants_a_server_without_known_holes(capsys, repository, server, executed):
    (server.parents[1] / "TRITON_VERSION").write_text("2.51.0")
    line = refusal(capsys, executed, arguments(repository))
    assert "tritonserver 2.51 has published CVEs" in line and "nvcr.io/nvidia/tritonserver:26.11-py3" in line
    launch.main(arguments(repository, "--allow-old-server"))
    assert executed and not [flag for flag in executed[1] if flag.startswith("--allow-client-shm")]


def test_an_occupied_port_is_named(capsys, repository, executed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = refusal(capsys, executed, [*arguments(repository), f"--grpc-port={port}"])
    assert f"port {port} (grpc): Address already in use" in line


def test_F7_a_missing_engine_ends_with_1_before_a_server_starts(capsys, repository, executed):
    (repository / "engine/1/model.onnx").unlink()
    assert f"{repository}/engine/1/model.onnx: no such file" in refusal(capsys, executed, arguments(repository))


def test_F7_a_bad_configuration_ends_with_1_before_a_server_starts(capsys, repository, executed):
    with (repository / "decode/config.pbtxt").open("a") as file:
        file.write("instances: 2\n")
    message = refusal(capsys, executed, arguments(repository, profile="demo"))
    assert f"{repository}/decode/config.pbtxt:" in message and 'no field named "instances"' in message


def test_F8_an_engine_for_another_tensorrt_ends_with_1(capsys, monkeypatch, tmp_path, repository, executed):
    library = write_tensorrt(tmp_path, "10.16.0.5")
    monkeypatch.setattr(host.ctypes.util, "find_library", lambda name: str(library))
    write_command(tmp_path / "bin/nvidia-smi", "echo 9.0")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    stamp = {"runtime": "tensorrt", "gpu": "H100", "compute_capability": "9.0"}
    engine = write_engine(repository, "model.plan", versions={"tensorrt": "10.14.1.48"}, **stamp)
    given = [argument for argument in arguments(repository) if argument not in ("--config-name", "cpu")]
    rebuild = f"python -m serve.export BUNDLE --deploy {repository} --runtime tensorrt"
    both = "built with tensorrt 10.14.1.48, here is 10.16.0.5"
    assert refusal(capsys, executed, given) == f"launch: {engine}: {both}; rebuild: {rebuild}"
    write_engine(repository, "model.plan", versions={"tensorrt": "10.16.0.5"}, **stamp)
    launch.main(given)
    assert executed


@pytest.mark.parametrize(
    "key", ["", "short", "has a space in the middle of it", "a" * 16 + "\n" + "b" * 16, "a,b:c=d" * 4]
)
def test_a_weak_admin_key_is_refused(capsys, repository, executed, key_file, key):
    key_file.write_text(key)
    line = refusal(capsys, executed, arguments(repository, "--admin-key-file", key_file), code=2)
    assert f"{key_file}: expected one line of 16 or more" in line and "openssl rand" in line


def test_a_secret_that_all_may_read_is_a_warning(capsys, repository, executed, key_file):
    key_file.chmod(0o644)
    launch.main(arguments(repository, "--admin-key-file", key_file))
    assert executed and f"warning: {key_file} is open to every user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("profile", "given", "says"),
    [
        ("production", ["--tls-certificate", "c.pem"], "--tls-certificate and --tls-key belong together"),
        ("production", ["--tls-client-ca", "ca.pem"], "--tls-client-ca needs both"),
        ("production", ["--tls-certificate", "absent.pem", "--tls-key", "absent.pem"], "absent.pem: cannot be read"),
        ("production", ["--admin-key-file", "absent"], "absent: cannot be read by user 1000"),
        ("demo", ["--admin-key-file", "absent"], "are for --profile production"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, repository, executed, profile, given, says):
    assert says in refusal(capsys, executed, arguments(repository, *given, profile=profile), code=2)


def test_the_version_is_read_from_file_or_image(monkeypatch, server):
    assert launch.server_version(server) == "2.75.0"
    (server.parents[1] / "TRITON_VERSION").unlink()
    monkeypatch.setenv("TRITON_SERVER_VERSION", "2.76.0")
    assert launch.server_version(server) == "2.76.0"
    monkeypatch.delenv("TRITON_SERVER_VERSION")
    with pytest.raises(Failure, match=f"which version is {server}"):
        launch.server_version(server)


def test_a_server_that_does_not_run_is_named(capsys, repository, server, executed):
    write_command(server, "echo error while loading libnvinfer.so >&2; exit 127")
    line = refusal(capsys, executed, arguments(repository))
    assert line == f"launch: {server} does not run: error while loading libnvinfer.so"


def test_without_a_server_it_says_where_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "NVIDIA_SERVER", tmp_path / "absent")
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="no tritonserver here: use nvcr.io/nvidia/tritonserver:26.11-py3"):
        launch.find_server()
    (tmp_path / "tritonserver").touch(mode=0o755)
    assert launch.find_server() == tmp_path / "tritonserver"
