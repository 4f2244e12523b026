"""`cma-clip publish` and `--rollback`: from the options to what is printed."""

from __future__ import annotations

import argparse

from serve.check import check_exported
from serve.launch import read_key
from serve.publish.back import roll_back
from serve.publish.order import alone, settle
from serve.publish.server import Server, Tls
from serve.repository import Repository


def run(options: argparse.Namespace) -> None:
    """Raises ValueError, Failure and OSError, each with one line."""
    check_exported(options.deploy)
    key = read_key(options.admin_key_file) if options.admin_key_file else None
    tls = Tls(options.tls_ca, options.tls_cert, options.tls_key) if options.tls_ca else None
    repository, server = Repository(options.deploy), Server(options.url, key, tls)
    with alone(repository):
        served = settle(repository, server)
        if options.rollback:
            roll_back(repository, server, served)
        else:
            from serve.publish.forward import publish  # PyTorch, which a rollback need not wait for

            publish(repository, server, served, options)
    server.close()
