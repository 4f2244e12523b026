"""`cma-clip publish --rollback`: the set before the one that is served; it is still loaded, so this takes a moment."""

from __future__ import annotations

import time

from cma_clip.command import Failure
from model.config import BundleConfig
from serve.publish.order import Expected, bring_in
from serve.publish.server import Server
from serve.repository import Repository
from serve.sets import Served


def roll_back(repository: Repository, server: Server, served: Served) -> None:
    """Raises Failure where nothing was served before."""
    if served.previous is None or not repository.is_whole(served.previous):
        raise Failure(f"{repository.root}: there is no bundle before the one that is served")
    began, config = time.monotonic(), BundleConfig.read(repository.bundle(served.previous))
    bring_in(repository, server, served.previous, Expected(config))
    took = f"{time.monotonic() - began:.1f} s"
    print(f"{server.url} serves label set {config.tasks.label_set_hash}, {took}; --rollback again: the other one")
