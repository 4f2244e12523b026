"""Load on a running server, with real images over gRPC.

python -m bench.load sweep    --data data/apa_mini                       latency and throughput over concurrency
python -m bench.load overload --data data/apa_mini                       three times what it can do, then calm
python -m bench.load overload --data data/apa_mini --photographs --concurrency 4       the same with 12 megapixels each
python -m bench.load soak     --data data/apa_mini --pid SERVER          100,000 requests, 5 % bad, leaks watched
python -m bench.load publish  --data data/apa_mini --deploy deploy runs/a/bundle runs/b/bundle   new bundles under load
python -m bench.load compare  --data data/apa_mini a=localhost:8001 b=deploy   two servers, or one and this process

Each writes table.md, result.json and plot.png, and ends with 1 where what it must show does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from bench.harness import Report
from bench.load import experiments, plots, tables
from bench.load.calls import closed_loop
from bench.load.in_process import InProcess
from bench.load.publishing import known_answers, publishing, turns
from bench.load.requests import TitleAndImage, bad_requests, from_data_set, good_requests, mixture, photographs
from bench.load.summary import is_queue_limit
from client.classifier import Classifier
from cma_clip.command import Failure, command
from model.bundle import load_bundle

LARGEST_BATCH = 16  # in this process


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a verdict does not hold or no server answers, 2 for wrong input."""
    options = _parse(arguments)
    products = from_data_set(options.data)
    run, table, draw = COMMANDS[options.command]
    try:
        with Report(options.command, options.output, table, draw, products=len(products)) as report:
            run(options, products, report)
    except InferenceServerException as error:
        raise Failure(str(error)) from error
    return report.exit_code


def _sweep(options: argparse.Namespace, products: list[TitleAndImage], report: Report) -> None:
    report.save(server=_server(options.url, options.wait), seconds=options.seconds)
    for row in experiments.sweep(options.url, good_requests(products), options.concurrency, options.seconds):
        report.add(row)
    failed = [name for row in report.result["rows"] for name in row["failures"] if not is_queue_limit(name)]
    report.save(verdict={"no failure but refusals of a full queue": not failed})


def _overload(options: argparse.Namespace, products: list[TitleAndImage], report: Report) -> None:
    server = _server(options.url, options.wait)
    requests = good_requests(photographs(4) if options.photographs else products)
    report.save(server=server, **experiments.overload(options.url, requests, options.concurrency))


def _soak(options: argparse.Namespace, products: list[TitleAndImage], report: Report) -> None:
    good, server, rate = good_requests(products), _server(options.url, options.wait), None
    if options.rate:
        most = experiments.capacity(options.url, good, options.concurrency)
        rate = float(options.rate.removesuffix("x")) * most
    requests = mixture(good, bad_requests(products[0]), options.bad, options.requests)
    figures = experiments.soak(options.url, requests, options.pid, options.concurrency, rate)
    report.save(server=server, rate=rate, **figures)


def _publish(options: argparse.Namespace, products: list[TitleAndImage], report: Report) -> None:
    server = _server(options.url, options.wait)
    bundles = [load_bundle(directory) for directory in options.bundles]
    told = known_answers(bundles, products)
    rate = options.share * experiments.capacity(options.url, good_requests(told.products), options.concurrency)
    words = ["--deploy", str(options.deploy), "--url", options.url]
    actions = turns([str(directory) for directory in options.bundles], options.times, words)
    report.save(server=server, rate=rate, **publishing(options.url, told, rate, actions, options.pause))


def _compare(options: argparse.Namespace, products: list[TitleAndImage], report: Report) -> None:
    loads = {name: _load(where, options.wait, products) for name, where in options.sides}
    report.save(sides=dict(options.sides), seconds=options.seconds, rounds=options.rounds)
    for row in experiments.compare(loads, options.concurrency, options.seconds, options.rounds):
        report.add(row)


COMMANDS = {
    "sweep": (_sweep, tables.sweep_table, plots.draw_sweep),
    "overload": (_overload, tables.overload_table, plots.draw_overload),
    "soak": (_soak, tables.soak_table, plots.draw_soak),
    "publish": (_publish, tables.publish_table, plots.draw_publish),
    "compare": (_compare, tables.compare_table, plots.draw_compare),
}


def _load(where: str, wait_s: float, products: list[TitleAndImage]) -> experiments.Load:
    """A server by its address, or a model repository in this process."""
    if Path(where).is_dir():
        here = InProcess(Path(where))
        return lambda concurrency, seconds: here.load(products, min(concurrency, LARGEST_BATCH), seconds)
    _server(where, wait_s)
    requests = good_requests(products)
    return lambda concurrency, seconds: closed_loop(where, requests, concurrency, seconds=seconds)


def _server(url: str, wait_s: float) -> dict[str, str]:
    """Address, name and version of a server, as soon as it is ready."""
    with Classifier(url) as classifier:
        classifier.wait_until_ready(wait_s)
    with triton.InferenceServerClient(url) as client:
        about = client.get_server_metadata()
    return {"url": url, "name": about.name, "version": about.version}


def _side(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (name and equals and where):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=HOST:PORT or NAME=DIRECTORY")
    return name, where


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers from 1, with commas between")
    return numbers


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    common.add_argument("--output", type=Path, help="directory for the results (runs/bench/COMMAND)")
    common.add_argument("--wait", type=float, default=2.0, metavar="S", help="for the server to be ready (%(default)s)")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", default="localhost:8001", help="the server's gRPC address (%(default)s)")
    callers = argparse.ArgumentParser(add_help=False)
    callers.add_argument(
        "--concurrency", type=int, default=32, help="callers, also to find capacity with (%(default)s)"
    )

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", parents=[common, server])
    sweep.add_argument("--concurrency", type=_numbers, default=[1, 2, 4, 8, 16, 32, 64], metavar="N,N,...")
    sweep.add_argument("--seconds", type=float, default=5.0, help="per concurrency (%(default)s)")
    overload = commands.add_parser("overload", parents=[common, server, callers])
    overload.add_argument("--photographs", action="store_true", help="JPEGs of 12 megapixels, not the data set's")

    soak = commands.add_parser("soak", parents=[common, server, callers])
    soak.add_argument("--requests", type=int, default=100_000)
    soak.add_argument("--bad", type=float, default=0.05, help="share of bad requests (%(default)s)")
    soak.add_argument("--pid", type=int, required=True, help="of tritonserver")
    soak.add_argument("--rate", help="0.7x: at a fixed rate, times capacity, instead of as fast as it answers")

    publish = commands.add_parser("publish", parents=[common, server, callers])
    publish.add_argument("bundles", type=Path, nargs="+", help="published in turn, each other than the one before")
    publish.add_argument("--deploy", type=Path, required=True, help="the repository that the server runs over")
    publish.add_argument("--times", type=int, default=10, help="a bundle is published and taken back (%(default)s)")
    publish.add_argument("--share", type=float, default=0.7, help="of capacity, asked for all the time (%(default)s)")
    publish.add_argument("--pause", type=float, default=5.0, metavar="S", help="between two commands (%(default)s)")

    compare = commands.add_parser("compare", parents=[common])
    compare.add_argument("sides", type=_side, nargs=2, metavar="NAME=WHERE", help="HOST:PORT, or a filled deploy/")
    compare.add_argument("--concurrency", type=_numbers, default=[1, 32], metavar="N,N,...")
    compare.add_argument("--seconds", type=float, default=3.0, help="of each turn (%(default)s)")
    compare.add_argument("--rounds", type=int, default=7, help="turns of each side (%(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "compare" and options.sides[0][0] == options.sides[1][0]:
        parser.error(f"both sides are called {options.sides[0][0]!r}")
    return options


if __name__ == "__main__":
    sys.exit(main())
