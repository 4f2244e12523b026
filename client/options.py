"""The options that every command has which asks a server."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_server_options(parser: argparse.ArgumentParser, timeout_s: float, retry_for_s: float | None) -> None:
    """--url, --timeout, --retry-for, --label-set and --tls-ca: the arguments of client.session.Session.

    Args:
        timeout_s, retry_for_s: the defaults of this command, seconds; None: no option of that kind.
    """
    parser.add_argument(
        "--url",
        default="localhost:8001",
        metavar="HOST:PORT[,HOST:PORT]",
        help="gRPC address of the server, or of several replicas (%(default)s)",
    )
    parser.add_argument(
        "--timeout", type=float, default=timeout_s, metavar="S", help="seconds to wait for an answer (%(default)s)"
    )
    if retry_for_s is not None:
        parser.add_argument(
            "--retry-for",
            type=float,
            default=retry_for_s,
            metavar="S",
            help="seconds to go on trying while the server is away or too busy (%(default)s)",
        )
    parser.add_argument("--label-set", metavar="HEX", help="accept answers from this label set only")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM of the authority behind the server's TLS")


def check_server_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with one line and exit code 2 where a value makes no sense."""
    if not all(part.strip() for part in options.url.split(",")):
        parser.error(f"--url is {options.url!r}, expected host:port, or several with commas between")
    if options.timeout <= 0:
        parser.error(f"--timeout is {options.timeout}, expected more than 0 seconds")
    if getattr(options, "retry_for", 0) < 0:
        parser.error(f"--retry-for is {options.retry_for}, expected 0 seconds or more")
    if options.tls_ca is not None and not options.tls_ca.is_file():
        parser.error(f"--tls-ca {options.tls_ca}: no such file")
