"""`cma-clip publish BUNDLE`: build the set, bring it in, and let go the one before the last."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from cma_clip.command import Failure
from model.bundle import Bundle
from serve.export.publish import bundle_to_serve, checked_precision
from serve.publish.back import roll_back
from serve.publish.build import build_set, suffix_of
from serve.publish.order import Expected, bring_in, canaries
from serve.publish.server import Server
from serve.repository import Repository
from serve.sets import Served


def publish(repository: Repository, server: Server, served: Served, options: argparse.Namespace) -> None:
    """Raises ValueError, Failure and OSError; then the set that was served is, and nothing else has changed."""
    bundle = bundle_to_serve(options.bundle, options.refuse_mismatches)
    runtime = server.runtime(repository.steps(served.current))
    precision, tokenizer = checked_precision(runtime, options.precision), options.bundle / "tokenizer.json"
    suffix = suffix_of(repository, bundle, tokenizer, runtime, precision)
    if suffix == served.current:
        print(f"{server.url} serves {options.bundle} already")
        return
    if suffix == served.previous:
        return roll_back(repository, server, served)
    reports = build_set(repository, suffix, bundle, tokenizer, runtime, precision, options.data)
    print(f"set {suffix[1:]} is built and answers as torch does", flush=True)
    if served.previous is not None:
        server.unload(repository.steps(served.previous))
    try:
        bring_in(repository, server, suffix, expected_of(bundle, repository, reports))
    except BaseException:
        with suppress(Failure):  # of a server that is gone
            server.unload(repository.steps(suffix))
        repository.remove(suffix)
        raise
    if served.previous is not None:
        repository.remove(served.previous)
    label_set = bundle.config.tasks.label_set_hash
    print(f"{server.url} serves label set {label_set}; back: cma-clip publish --rollback --deploy {repository.root}")


def expected_of(bundle: Bundle, repository: Repository, reports: dict[str, Any]) -> Expected:
    """What torch says of the canaries, as near as the engine was held to it."""
    scores_BC, _, _ = bundle.scores(canaries(repository))
    return Expected(bundle.config, scores_BC, max(report["limit"] for report in reports.values()))
