"""Send a known product through a running server and say whether it came back: for what health endpoints miss.

python -m client.canary --url localhost:8001

One line a server, exit code 0 where all answered and 1 where one did not, so it can be an exec probe. With
--interval S it goes on until it is stopped. A python process of the server that has died or hangs leaves the
health endpoints of older servers at "ready"; the product gets stuck all the same. It passes every queue, so that a
server which has much to do is no alarm: a restart would not help it.
"""

from __future__ import annotations

import argparse
import base64
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client.classifier import Classifier
from client.errors import ClassifierError
from client.options import add_server_options, check_server_options, session_arguments
from client.protocol import Answer, request_for, urgent
from client.retry import rule_for
from cma_clip.command import command

TITLE = "red dress"
# A red dress on white, 32 x 32, PNG.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAZUlEQVR42mP8//8/Ay0BEwONAc0tYCFG0UlReVxS5q8fDvcgYqIkfAjK"
    "jpAgoq0FBIOYoJrROKDIAmIigKDK0TgYxBYQH8P41Y/GAZkWkBoBeHSNxgE5FpAXAbj0Dv0gYhzyrWsAzSQVF9p0AWwAAAAASUVORK5CYII="
)
TIMEOUT_S, HEALTH_TIMEOUT_S = 5.0, 0.5
# A server that sheds load is alive: within this share of the timeout the product is sent again, by the client's policy.
RETRY_SHARE = 0.5
WORDS = {
    "dead stub": "dead stub",
    "deadline": "hang",
    "queue full": "busy",
    "queue timeout": "busy",
    "no server": "down",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the product came back as it should, and one line for people."""

    good: bool
    line: str


def probe(url: str, timeout_s: float = TIMEOUT_S, **session: Any) -> Verdict:
    """Ask one server. Takes half as long again as `timeout_s` (seconds) at most, and the health endpoint's 0.5 s.

    Args:
        session: further arguments of client.session.Session.
    """
    start = time.monotonic()
    with Classifier(url, timeout_s, timeout_s * RETRY_SHARE, **session) as classifier:
        try:
            answer = classifier._ask(urgent(request_for(TITLE, IMAGE)))
            _check(answer)
        except (ClassifierError, ValueError) as problem:
            spent_ms = (time.monotonic() - start) * 1000
            health = "ready" if classifier.is_ready(HEALTH_TIMEOUT_S) else "not ready"
            line = f"ALARM {url} {_word(problem)} after {spent_ms:.0f} ms, health endpoint says {health}: {problem}"
            return Verdict(False, line)
    spent_ms = (time.monotonic() - start) * 1000
    return Verdict(True, f"ok {url} {spent_ms:.0f} ms, label set {answer.label_set}, version {answer.model_version}")


def _check(answer: Answer) -> None:
    """Raises ValueError where the answer is none: no tasks, a modality lost on the way, numbers that are no shares."""
    lost = [task for task, told in answer.prediction.items() if told.get("modality") != "title_and_image"]
    if not answer.prediction or lost:
        raise ValueError(f"the answer is not of title and image: {answer.prediction}")
    for name, values in (("PROBABILITIES", answer.probabilities), ("TEXT_SHARE", answer.text_share)):
        if not values.size or not ((values >= 0) & (values <= 1 + np.finfo(np.float32).eps)).all():
            raise ValueError(f"{name} is {values.tolist()}, expected numbers in 0..1")


def _word(problem: ClassifierError | ValueError) -> str:
    if isinstance(problem, ClassifierError):
        return WORDS.get(rule_for(problem.code, problem.message).name, "failure")
    return "wrong answer"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: that of the last round where there are several."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = _round(options)
    try:
        while options.interval is not None:
            time.sleep(options.interval)
            code = _round(options)
    except KeyboardInterrupt:
        pass
    return code


def _round(options: argparse.Namespace) -> int:
    urls = [part.strip() for part in options.url.split(",")]
    session = session_arguments(options)
    verdicts = [probe(url, options.timeout, expect_label_set=options.label_set, tls=session["tls"]) for url in urls]
    print("\n".join(verdict.line for verdict in verdicts), flush=True)
    return 0 if all(verdict.good for verdict in verdicts) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser, timeout_s=TIMEOUT_S, retry_for_s=None)
    parser.add_argument("--interval", type=float, metavar="S", help="ask again every S seconds until stopped")
    options = parser.parse_args(arguments)
    check_server_options(parser, options)
    if options.interval is not None and options.interval <= 0:
        parser.error(f"--interval is {options.interval}, expected more than 0 seconds")
    return options


if __name__ == "__main__":
    sys.exit(main())
