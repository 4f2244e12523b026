"""The options that every command has which asks a server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from client.session import Tls


def add_server_options(parser: argparse.ArgumentParser, timeout_s: float, retry_for_s: float | None) -> None:
    """--url, --timeout, --retry-for, --label-set and three for TLS: the arguments of client.session.Session.

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
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM of our own certificate, for mutual TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM of its key")


def check_server_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with one line and exit code 2 where a value makes no sense."""
    if not all(part.strip() for part in options.url.split(",")):
        parser.error(f"--url is {options.url!r}, expected host:port, or several with commas between")
    if options.timeout <= 0:
        parser.error(f"--timeout is {options.timeout}, expected more than 0 seconds")
    if getattr(options, "retry_for", 0) < 0:
        parser.error(f"--retry-for is {options.retry_for}, expected 0 seconds or more")
    for name in ("tls_ca", "tls_cert", "tls_key"):
        file = getattr(options, name)
        if file is not None and not file.is_file():
            parser.error(f"--{name.replace('_', '-')} {file}: no such file")
    if (options.tls_cert is None) != (options.tls_key is None) or (options.tls_cert and options.tls_ca is None):
        parser.error("mutual TLS needs --tls-ca, --tls-cert and --tls-key")


def session_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say, by the names of Session's arguments."""
    return {
        "url": options.url,
        "timeout_s": options.timeout,
        "retry_for_s": getattr(options, "retry_for", 0.0),
        "expect_label_set": options.label_set,
        "tls": Tls(options.tls_ca, options.tls_cert, options.tls_key) if options.tls_ca else None,
    }
