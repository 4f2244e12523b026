"""A page for the people who judge: products that need a look, one after the other, and what they decide is kept.

cma-clip console --data data/apa_mini --answers answers.parquet --url localhost:8001

It listens on this machine only. Decisions are in one SQLite file beside the data set; `cma-clip decisions` writes them
for training.
"""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from client.classifier import Classifier
from client.console.access import Access, is_loopback
from client.console.answers import check_answers
from client.console.app import make_app
from client.console.catalog import Catalog
from client.console.decisions import Decisions, place_of_decisions
from client.console.exports import schema_of
from client.console.queue import Queue
from client.console.state import Console
from cma_clip.command import Failure, command
from dataset.format import DatasetInfo
from dataset.splits import SPLITS

STOP_S = 3  # for requests that are under way


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    listener = listen(args.host, args.port)
    info = DatasetInfo.read(args.data)
    schema_of(info.tasks)  # that decisions can be written
    if args.answers:
        check_answers(args.answers, info.tasks)
    path = args.decisions or place_of_decisions(args.data)
    decisions = Decisions(path, info.tasks.label_set_hash, args.read_only)
    catalog = Catalog(args.data, decisions, args.split, args.answers, args.audit)
    queue = Queue(catalog, decisions)
    classifier = Classifier(args.url) if args.url else None
    access = access_of(args, decisions)
    app = make_app(Console(catalog, decisions, queue, classifier), access)
    counts = queue.counts()
    print(f"{len(catalog):,} products, {catalog.answered:,} with an answer, {counts.queued:,} that need a look")
    print(f"{counts.decided:,} are decided: {path}")
    print(f"open {address(listener, args.host, access)}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_S)
    uvicorn.Server(config).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for browsers.

    Raises:
        ValueError: no such address. Failure: the port is taken.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ValueError(f"--host {host}: {error.strerror}") from None
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen()
    except OSError as error:
        raise Failure(f"--host {host} --port {port}: {error.strerror}; take another --port") from None
    return listener


def access_of(args: argparse.Namespace, decisions: Decisions) -> Access:
    """Without a token on this machine, where no other can ask; else with the one that this file of decisions has."""
    secret, near = decisions.about("secret"), is_loopback(args.host)
    return Access(
        secret=secret,
        token=None if near else decisions.about("token"),
        hosts=frozenset({"localhost", "127.0.0.1", "::1", args.host}) if near else None,
        read_only=args.read_only,
        name=user(),
    )


def user() -> str:
    """Who decides where nobody says so: the account, if it has a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def address(listener: socket.socket, host: str, access: Access) -> str:
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}/"
    return url if access.token is None else f"{url}?token={access.token}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, help="of its products; default: all")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="Parquet that cma-clip predict wrote of them")
    parser.add_argument("--audit", type=Path, metavar="DIR", help="what cma-clip audit wrote of the data set")
    parser.add_argument("--url", metavar="HOST:PORT", help="server to ask where no answer is there, and to try")
    parser.add_argument("--decisions", type=Path, metavar="FILE", help="default: beside the data set")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; a token guards all others than %(default)s"
    )
    parser.add_argument("--port", type=int, default=8080, help="%(default)s; 0: one that is free")
    parser.add_argument("--read-only", action="store_true", help="look, but decide nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
