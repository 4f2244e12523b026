"""What happens in which order when a bundle is published into a running server, and when it is taken back.

1. The new set is built aside and held against torch. Nothing that is served is touched.
2. The set before the served one leaves the server's memory, so that it holds two sets at most. Its files stay.
3. The new set comes to the repository's root and is loaded, step by step; products go through it.
4. The ensemble's configuration names it, and the server loads the ensemble: requests in flight end where they began.
5. What answers is looked at; then the set that was served lies aside, still loaded, and the one before it goes.

Whatever fails before 4 is undone; a failure in 5 switches back. A kill leaves what the next call tidies.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cma_clip.command import Failure
from model.config import BundleConfig
from serve.publish.server import Answer, Server
from serve.repository import Repository
from serve.sets import ENSEMBLE, STEPS, Served, ensemble_config

WARM_UP = ("preprocess/warmup/title", "preprocess/warmup/image")
LENGTH_BYTES = 4  # in front of a BYTES element, also in these files


class Expected(NamedTuple):
    """What answers of a set must be.

    Attributes:
        bundle: its tasks and label set.
        probabilities_BC: torch's, of the canaries; None where nobody computed them.
        limit: how far a probability may be from that.
    """

    bundle: BundleConfig
    probabilities_BC: np.ndarray | None = None
    limit: float = 0.0


@contextmanager
def alone(repository: Repository) -> Iterator[None]:
    """Raises Failure while another process publishes into this repository."""
    folder = os.open(ensemble_config(repository.root).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Failure(f"{repository.root}: somebody else publishes into it at the moment") from None
    finally:
        os.close(folder)


def canaries(repository: Repository) -> list[tuple[bytes, bytes]]:
    """The product of preprocess's warm-up, its title alone, and its image alone."""
    title, image = ((repository.template() / file).read_bytes()[LENGTH_BYTES:] for file in WARM_UP)
    return [(title, image), (title, b""), (b"", image)]


def settle(repository: Repository, server: Server) -> Served:
    """Have files and server agree again after a kill; the files count. Returns what is served.

    Raises:
        Failure: the server does not allow it to be told what to load.
    """
    server.check_control()
    served = repository.served()
    if server.served() != served.current:
        server.load(ENSEMBLE)
    for suffix in repository.unknown():
        server.unload(repository.steps(suffix))
    repository.tidy()
    if server.served() != served.current:
        raise Failure(f"{server.url} does not serve {repository.root}: its {ENSEMBLE} has other steps")
    return served


def bring_in(repository: Repository, server: Server, suffix: str, expected: Expected) -> None:
    """Steps 3 to 5, for a set that lies aside.

    Raises:
        Failure: the set cannot be loaded or answers wrongly. What was served before is.
    """
    before = repository.served()
    after = Served(suffix, before.current)
    try:
        repository.place(suffix)
        for step in STEPS:  # one at a time: each takes a core from those that answer
            server.load(repository.steps(suffix).name(step))
        text = after.write(ensemble_config(repository.root).read_text())
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        check(server.ask_steps(config, canaries(repository)), expected, f"the new set {suffix[1:] or 'engine'}")
        switch(repository, server, before, after, expected)
    except BaseException:
        repository.put_aside(suffix)
        raise
    repository.put_aside(before.current)


def switch(repository: Repository, server: Server, before: Served, after: Served, expected: Expected) -> None:
    """Step 4; back again where the server does not follow or answers wrongly."""
    try:
        repository.switch(after)
        server.load(ENSEMBLE)
        if server.served() != after.current:
            raise Failure(f"{server.url} still serves the set before")
        check(server.ask(canaries(repository)), expected, ENSEMBLE)
    except BaseException:
        repository.switch(before)
        server.load(ENSEMBLE)
        raise


def check(answer: Answer, expected: Expected, what: str) -> None:
    """Raises Failure where the canaries' answers are of another bundle, or not those of torch."""
    tasks = expected.bundle.tasks
    if answer.label_sets != {tasks.label_set_hash} or answer.tasks != {task.name for task in tasks}:
        raise Failure(f"{what} answers with label set {', '.join(answer.label_sets)}, not {tasks.label_set_hash}")
    if expected.probabilities_BC is None:
        return
    furthest = np.abs(answer.probabilities_BC - expected.probabilities_BC).max()
    if not furthest <= expected.limit:
        raise Failure(f"{what} answers {furthest:.2g} beside torch, at most {expected.limit:g} is right")
