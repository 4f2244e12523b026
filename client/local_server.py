"""Triton as a plain `tritonserver` command on a machine without NVIDIA's image.

    python -m client.local_server --install
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
import socket
import sys
import sysconfig
from pathlib import Path

NVIDIA_SERVER = Path("/opt/tritonserver/bin/tritonserver")
LOOPBACK = "127.0.0.1"
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
COMMAND = """#!{python}
import sys

from client.local_server import serve

sys.exit(serve(sys.argv[1:]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m client.local_server", description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", required=True, help="write tritonserver beside python")
    parser.parse_args()
    try:
        print(install(Path(sys.prefix)))
    except ValueError as error:
        return _fail(str(error))
    return 0


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
    return f"{command} installed; next: {command} --model-repository deploy/ --model-config-name=cpu"


def serve(arguments: list[str]) -> int:
    """Become tritonserver with these arguments; returns (an exit code) only where that cannot work."""
    try:
        options = _known_options(arguments)
        _check_repositories(options)
        _check_ports(options)
        wheel = _wheel()
    except ValueError as error:
        return _fail(str(error))
    added = [f"--backend-directory={_backends(Path(sys.prefix))}"]
    private = [service for service in PORTS if getattr(options, f"{service}_address") is None]
    if private:
        added += [f"--{service}-address={LOOPBACK}" for service in private]
        print(
            f"tritonserver: {', '.join(private)} on {LOOPBACK} only (Triton 2.51 has known CVEs)",
            file=sys.stderr,
        )
    binary = wheel / "bin/tritonserver"
    os.execve(binary, ["tritonserver", *added, *arguments], _environment(wheel))


def _known_options(arguments: list[str]) -> argparse.Namespace:
    """The options looked at here; tritonserver itself gets all of them, and judges the others."""
    parser = argparse.ArgumentParser(prog="tritonserver", add_help=False, allow_abbrev=False)
    parser.add_argument("--model-repository", "--model-store", action="append", type=Path, default=[])
    parser.add_argument("--model-config-name")
    for service, port in PORTS.items():
        parser.add_argument(f"--{service}-address")
        parser.add_argument(f"--{service}-port", type=int, default=port)
        parser.add_argument(f"--allow-{service}", default="true")
    return parser.parse_known_args(arguments)[0]


def _check_repositories(options: argparse.Namespace) -> None:
    for repository in options.model_repository:
        bundle = repository / "bundle.json"
        if not bundle.is_file():
            raise ValueError(f"{bundle}: no such file; export: python -m model.export BUNDLE --deploy {repository}")
        if options.model_config_name is None and (repository / "engine/configs/cpu.pbtxt").is_file():
            raise ValueError("there is no TensorRT in this server; add --model-config-name=cpu")


def _check_ports(options: argparse.Namespace) -> None:
    for service in PORTS:
        port, address = getattr(options, f"{service}_port"), getattr(options, f"{service}_address") or LOOPBACK
        if getattr(options, f"allow_{service}").lower() in ("false", "0"):
            continue
        try:
            socket.create_server((address, port), family=_family(address)).close()
        except OSError as error:
            cure = f"stop what listens there or pass --{service}-port=N"
            raise ValueError(f"port {port} ({service}): {error.strerror}; {cure}") from None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


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


def _fail(message: str) -> int:
    print(f"tritonserver: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
