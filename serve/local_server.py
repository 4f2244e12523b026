"""Triton as a plain `tritonserver` command on a machine without NVIDIA's image.

    python -m serve.local_server --install
    tritonserver --model-repository deploy/ --model-config-name=cpu

The binary comes from the nvidia-pytriton wheel: Triton 2.51 with the python backend only, for tests
and demos. It has published CVEs, so it listens on 127.0.0.1 unless told otherwise; production runs
NVIDIA's image.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import EXIT_FAILED, command
from serve.check import check_exported
from serve.host import check_port
from serve.runtimes import RUNTIMES

NVIDIA_SERVER = Path("/opt/tritonserver/bin/tritonserver")
SERVER_VERSION = "2.51.0"  # nvidia-pytriton 0.7.0's
LOOPBACK = "127.0.0.1"
CPU_CONFIG = RUNTIMES["openvino"].config
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
COMMAND = """#!{python}
import sys

from serve.local_server import serve

sys.exit(serve(sys.argv[1:]))
"""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", required=True, help="write tritonserver beside python")
    parser.parse_args(arguments)
    print(install(Path(sys.prefix)))


def install(environment: Path) -> str:
    """Write `bin/tritonserver` and the backend directory into a Python environment.

    Returns:
        One line that says what was done and the command to type next.
    Raises:
        ValueError: nvidia-pytriton is missing or has no python backend for this Python.
    """
    if NVIDIA_SERVER.exists():
        return f"{NVIDIA_SERVER} is NVIDIA's own and better: nothing installed"
    wheel = _wheel()
    stub = wheel / f"python_backend_stubs/{sysconfig.get_python_version()}/triton_python_backend_stub"
    if not stub.is_file():
        raise ValueError(f"nvidia-pytriton has no python backend for Python {sysconfig.get_python_version()}")
    backend = _backends(environment) / "python"
    shutil.copytree(wheel / "backends/python", backend, dirs_exist_ok=True)
    shutil.copy2(stub, backend)
    command = environment / "bin/tritonserver"
    command.write_text(COMMAND.format(python=environment / "bin/python"))
    command.chmod(0o755)
    (environment / "TRITON_VERSION").write_text(f"{SERVER_VERSION}\n")  # where NVIDIA's image has it too
    return f"{command} installed; next: {command} --model-repository deploy/ --model-config-name={CPU_CONFIG}"


def serve(arguments: list[str]) -> int:
    """Become tritonserver with these arguments; returns 1, as it would itself, only where that cannot work."""
    options = _known_options(arguments)
    try:
        if not options.help:
            _check_repositories(options)
            check_ports(arguments)
        wheel = _wheel()
    except ValueError as error:
        print(f"tritonserver: {error}", file=sys.stderr)
        return EXIT_FAILED
    added = [f"--backend-directory={_backends(Path(sys.prefix))}"]
    private = [service for service in PORTS if getattr(options, f"{service}_address") is None]
    if private and not options.help:
        added += [f"--{service}-address={LOOPBACK}" for service in private]
        print(
            f"tritonserver: {', '.join(private)} on {LOOPBACK} only (Triton 2.51 has known CVEs)",
            file=sys.stderr,
        )
    binary = wheel / "bin/tritonserver"
    os.execve(binary, ["tritonserver", *added, *arguments], _environment(wheel))


def check_ports(arguments: list[str]) -> None:
    """Nobody listens where tritonserver would with these arguments.

    Raises:
        ValueError: somebody does; the message names the port and the flag that moves it.
    """
    options = _known_options(arguments)
    for service in PORTS:
        if getattr(options, f"allow_{service}").lower() not in ("false", "0"):
            address = getattr(options, f"{service}_address") or LOOPBACK
            check_port(service, address, getattr(options, f"{service}_port"))


def _known_options(arguments: list[str]) -> argparse.Namespace:
    """The options looked at here; tritonserver itself gets all of them, and judges the others."""
    parser = argparse.ArgumentParser(prog="tritonserver", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--model-repository", "--model-store", action="append", type=Path, default=[])
    parser.add_argument("--model-config-name")
    for service, port in PORTS.items():
        parser.add_argument(f"--{service}-address")
        parser.add_argument(f"--{service}-port", type=int, default=port)
        parser.add_argument(f"--allow-{service}", default="true")
    return parser.parse_known_args(arguments)[0]


def _check_repositories(options: argparse.Namespace) -> None:
    for repository in options.model_repository:
        check_exported(repository)
        if options.model_config_name is None and any(repository.glob(f"engine*/configs/{CPU_CONFIG}.pbtxt")):
            raise ValueError(f"there is no TensorRT in this server; add --model-config-name={CPU_CONFIG}")


def _environment(wheel: Path) -> dict[str, str]:
    """The steps run in the environment whose python3 is first on PATH; PYTHONPATH would not do."""
    libraries = [wheel.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    before = {"PATH": [f"{sys.prefix}/bin"], "LD_LIBRARY_PATH": [str(folder) for folder in libraries]}
    extended = {name: ":".join([*folders, os.environ.get(name, "")]).rstrip(":") for name, folders in before.items()}
    return {**os.environ, **extended}


def _wheel() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ValueError(f"nvidia-pytriton is not installed: {sys.executable} -m pip install nvidia-pytriton 'numpy<2'")
    return Path(spec.origin).parent / "tritonserver"


def _backends(environment: Path) -> Path:
    return environment / "share/cma_clip/triton_backends"


if __name__ == "__main__":
    sys.exit(main())
