"""Start tritonserver with a profile, after looking at what would make it fail.

    python -m serve.launch --profile demo --repository deploy --config-name cpu
    python -m serve.launch --profile production --repository /models -- --grpc-port=9001

What stands after -- goes to tritonserver and replaces the profile's flag of the same name. Options and files that do
not fit end with exit code 2; with 1 what this machine or the repository does not allow, a line for each reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cma_clip.command import EXIT_FAILED, Failure, command, split_at_dashes
from serve import check, host
from serve.local_server import NVIDIA_SERVER, check_ports
from serve.profiles import IMAGE, OLDEST, PRODUCTION, PROFILES, Credentials, Version, flag_name, render, replaced
from serve.repository import Repository
from serve.runtimes import RUNTIMES
from serve.sets import served_set

ADMIN_KEY = re.compile(r"[A-Za-z0-9._~-]{16,}")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Becomes tritonserver; returns an exit code only where it does not."""
    own, further = split_at_dashes(sys.argv[1:] if arguments is None else arguments)
    options = _parse(own)
    credentials = read_credentials(options)
    server = Path("tritonserver") if options.server_version else find_server()
    version = Version.parse(options.server_version or server_version(server))
    flags, dropped = replaced(render(options.profile, version, credentials, options.publish), further)
    config = [f"--model-config-name={options.config_name}"] if options.config_name else []
    line = [str(server), f"--model-repository={options.repository}", *config, *flags, *further]
    if options.print:
        print(_hidden(shlex.join(line), credentials))
        return 0
    for flag in dropped:
        _say(_hidden(f"as asked, without the profile's {flag}", credentials))
    return _check_and_start(options, version, line)


def _check_and_start(options: argparse.Namespace, version: Version, line: list[str]) -> int:
    errors = list(failures(options, version, line))
    for warning in warnings(options):
        _say(f"warning: {warning}")
    for error in errors:
        _say(error)
    if errors:
        return EXIT_FAILED
    if options.check:
        print(f"tritonserver {version} can serve {options.repository} here, profile {options.profile}")
        return 0
    if options.publish:
        _seal(options.repository)
    for name in host.remove_stale_regions():
        _say(f"removed shared memory that a killed server left: {name}")
    os.execv(line[0], line)


def _seal(repository: Path) -> None:
    try:
        Repository(repository).seal(served_set(repository).suffix)
    except OSError as error:
        _say(f"warning: {error}: the first cma-clip publish --rollback will load today's set again, which takes longer")


def find_server() -> Path:
    """NVIDIA's tritonserver, or that of serve.local_server.

    Raises:
        Failure: there is none.
    """
    beside = Path(sys.executable).with_name("tritonserver")
    for path in (NVIDIA_SERVER, beside):
        if path.is_file():
            return path
    found = shutil.which("tritonserver")
    if found is None:
        raise Failure(f"no tritonserver here: use {IMAGE}, or for a demo: python -m serve.local_server --install")
    return Path(found)


def server_version(server: Path) -> str:
    """Of a tritonserver, from the file that lies beside its folder or the environment of NVIDIA's image.

    Raises:
        Failure: neither says it.
    """
    file = server.parents[1] / "TRITON_VERSION"
    version = file.read_text().strip() if file.is_file() else os.environ.get("TRITON_SERVER_VERSION")
    if not version:
        raise Failure(f"{file}: no such file, and TRITON_SERVER_VERSION is not set: which version is {server}?")
    return version


def known_flags(server: str | Path) -> set[str]:
    """Names of the flags in `tritonserver --help`.

    Raises:
        ValueError: it prints none, as where a library is missing.
    """
    result = subprocess.run([server, "--help"], capture_output=True, text=True, timeout=60)
    output = result.stdout + result.stderr
    names = set(re.findall(r"^\s+--([\w-]+)", output, re.MULTILINE))
    if not names:
        raise ValueError(f"{server} does not run: {' '.join(output.split())[-200:]}")
    return names


def read_credentials(options: argparse.Namespace) -> Credentials:
    """What the command line gives for the profile's placeholders.

    Raises:
        ValueError: files that are missing, unreadable or do not belong together; an admin key that is too weak.
    """
    certificate, key, ca = options.tls_certificate, options.tls_key, options.tls_client_ca
    if bool(certificate) != bool(key) or (ca and not certificate):
        raise ValueError("--tls-certificate and --tls-key belong together, --tls-client-ca needs both")
    if options.profile != PRODUCTION and (certificate or options.admin_key_file):
        raise ValueError(f"--tls-… and --admin-key-file are for --profile {PRODUCTION}")
    if options.profile == PRODUCTION and options.publish and not options.admin_key_file:
        raise ValueError(f"--publish with --profile {PRODUCTION} needs --admin-key-file: else nobody could publish")
    for file in (certificate, key, ca, options.admin_key_file):
        if file is not None and not os.access(file, os.R_OK):
            raise ValueError(f"{file}: cannot be read by user {os.geteuid()}")
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca}
    secret = {"admin_key": read_key(options.admin_key_file)} if options.admin_key_file else {}
    return Credentials(**secret, **{name: str(file) for name, file in files.items() if file})


def read_key(file: Path) -> str:
    key = file.read_text().strip()
    if not ADMIN_KEY.fullmatch(key):
        raise ValueError(f"{file}: expected one line of 16 or more letters, digits or . _ ~ -: openssl rand -hex 32")
    return key


def failures(options: argparse.Namespace, version: Version, line: list[str]) -> Iterator[str]:
    """What keeps the server from starting, one line each."""
    checks: list[Callable[[], None]] = [
        lambda: check.check_models(options.repository, options.config_name),
        lambda: check.check_engine(options.repository, options.config_name),
        lambda: check_ports(line[1:]),
        lambda: check_flags(line),
    ]
    if options.profile == PRODUCTION:
        checks += [lambda: check_user(options.allow_root), lambda: check_version(version, options.allow_old_server)]
    for fails in checks:
        try:
            fails()
        except (ValueError, OSError) as error:
            yield str(error)


def check_flags(line: list[str]) -> None:
    unknown = {name for flag in line[1:] if (name := flag_name(flag))} - known_flags(line[0])
    if unknown:
        raise ValueError(f"{line[0]} does not know {', '.join(f'--{name}' for name in sorted(unknown))}")


def check_user(allow_root: bool) -> None:
    if os.geteuid() == 0 and not allow_root:
        raise ValueError("production does not run as root: become another user (docker run --user 1000)")


def check_version(version: Version, allow_old: bool) -> None:
    if version < OLDEST and not allow_old:
        raise ValueError(f"tritonserver {version} has published CVEs; production wants {OLDEST} or newer: {IMAGE}")


def warnings(options: argparse.Namespace) -> Iterator[str]:
    """What works and should be otherwise, one line each."""
    found = [host.little_shared_memory()]
    if options.profile == PRODUCTION:
        found += [check.writable(options.repository), *map(_open_to_all, (options.tls_key, options.admin_key_file))]
        if options.tls_certificate is None:
            found.append("gRPC is not encrypted: pass --tls-certificate and --tls-key, or leave that to a mesh")
    yield from filter(None, found)


def _open_to_all(file: Path | None) -> str | None:
    if file is None or not file.stat().st_mode & 0o007:
        return None
    return f"{file} is open to every user of this machine: chmod 640 {file}"


def _parse(arguments: list[str]) -> argparse.Namespace:
    configs = [row.config for row in RUNTIMES.values()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, required=True)
    parser.add_argument("--repository", type=Path, default=Path("deploy"), help="an exported deploy/ (default)")
    parser.add_argument("--config-name", help=f"{', '.join(filter(None, configs))}; without it: TensorRT")
    parser.add_argument("--publish", action="store_true", help="allow cma-clip publish to change what is served")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file: gRPC speaks TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM file")
    parser.add_argument("--tls-client-ca", type=Path, help="PEM file: callers need a certificate signed by it")
    parser.add_argument(
        "--admin-key-file", type=Path, help="its key opens the admin protocols; without it nothing does"
    )
    parser.add_argument("--allow-root", action="store_true", help="production as root all the same")
    parser.add_argument("--allow-old-server", action="store_true", help=f"production older than {OLDEST} all the same")
    parser.add_argument("--check", action="store_true", help="only say what is wrong; exit code 1 if anything is")
    parser.add_argument("--print", action="store_true", help="only print the command, its admin key hidden")
    parser.add_argument("--server-version", help="with --print: render for this one, such as 2.75.0")
    options = parser.parse_args(arguments)
    if options.server_version and not options.print:
        parser.error("--server-version is for --print: to start one, its version is read from the server")
    return options


def _hidden(text: str, credentials: Credentials) -> str:
    return text.replace(credentials.admin_key, "ADMIN_KEY")


def _say(message: str) -> None:
    print(f"launch: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
