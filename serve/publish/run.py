"""`cma-clip publish` and `--rollback`: from the options to what is printed."""

from __future__ import annotations

import argparse
import time

from cma_clip.command import Failure
from model.config import BundleConfig
from serve.check import check_exported
from serve.launch import read_key
from serve.publish.order import Expected, alone, bring_in, settle
from serve.publish.server import Server, Tls
from serve.repository import Repository
from serve.sets import Served


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


def roll_back(repository: Repository, server: Server, served: Served) -> None:
    """Raises Failure where nothing was served before."""
    if served.previous is None or not repository.is_whole(served.previous):
        raise Failure(f"{repository.root}: there is no bundle before the one that is served")
    began, config = time.monotonic(), BundleConfig.read(repository.bundle(served.previous))
    bring_in(repository, server, served.previous, Expected(config))
    took = f"{time.monotonic() - began:.1f} s"
    print(f"{server.url} serves label set {config.tasks.label_set_hash}, {took}; --rollback again: the other one")
