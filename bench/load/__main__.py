"""Load on a running server, with real pictures over gRPC.

python -m bench.load sweep    --data data/apa_mini                       latency and throughput over concurrency
python -m bench.load overload --data data/apa_mini                       three times what it can do, then calm
python -m bench.load soak     --data data/apa_mini --pid SERVER          100,000 requests, 5 % bad, leaks watched
python -m bench.load compare  --data data/apa_mini a=localhost:8001 b=deploy   two servers, or one and this process

Each writes table.md, result.json and plot.png, and ends with 1 where what it must show does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritonclient.utils import InferenceServerException

from bench.load import experiments, perf_analyzer, plots, report
from bench.load.in_process import InProcess
from bench.load.load import closed_loop
from bench.load.requests import Product, bad_requests, from_data_set, from_pictures, good_requests, mixture
from bench.load.summary import is_queue_limit
from client.classifier import Classifier, ClassifierError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where a verdict does not hold, 2 where nothing could be measured."""
    options = _parse(arguments)
    try:
        products = from_pictures(options.pictures) if options.pictures else from_data_set(options.data)
        result, table, draw = COMMANDS[options.command](options, products)
    except (ValueError, OSError, ClassifierError, InferenceServerException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    output = options.output or Path("runs/bench") / options.command
    result = {"machine": report.machine(), "products": len(products), **result}
    table += _verdict_lines(result.get("verdict", {}))
    report.write(output, result, table)
    draw(output / "plot.png")
    print(table + f"\n{output}/: table.md, result.json, plot.png")
    return 0 if all(result.get("verdict", {}).values()) else 1


def _sweep(options: argparse.Namespace, products: list[Product]) -> tuple[dict[str, Any], str, Any]:
    requests, server = good_requests(products, options.rows), _server(options.url, options.wait)
    if options.perf_analyzer:
        perf_analyzer.check(options.perf_analyzer)
    rows = experiments.sweep(
        options.url, requests, options.concurrency, options.seconds, options.timeout, options.admin_key
    )
    if options.perf_analyzer:
        for row in rows:
            row["perf_analyzer"] = perf_analyzer.measure(
                options.perf_analyzer, options.url, products, row["concurrency"], options.seconds
            )
    failed = [name for row in rows for name in row["failures"] if not is_queue_limit(name)]
    result = {"server": server, "rows_per_request": options.rows, "seconds": options.seconds, "sweep": rows}
    result["verdict"] = {"no failure but refusals of a full queue": not failed}
    return result, report.sweep_table(rows), lambda path: plots.draw_sweep(rows, path)


def _overload(options: argparse.Namespace, products: list[Product]) -> tuple[dict[str, Any], str, Any]:
    requests, server = good_requests(products, options.rows), _server(options.url, options.wait)
    figures = experiments.overload(
        options.url,
        requests,
        _times(options.rate),
        options.concurrency,
        options.seconds,
        options.timeout,
        options.accepted_limit,
    )
    result = {"server": server, "rows_per_request": options.rows, **figures}
    return result, report.overload_table(result), lambda path: plots.draw_overload(result, path)


def _soak(options: argparse.Namespace, products: list[Product]) -> tuple[dict[str, Any], str, Any]:
    good, server = good_requests(products), _server(options.url, options.wait)
    rate = None
    if options.rate:
        most = experiments.capacity(options.url, good, options.concurrency, options.timeout)
        rate = _times(options.rate) * most
    requests = mixture(good, bad_requests(products[0]), options.bad, options.requests)
    figures = experiments.soak(options.url, requests, options.pid, options.concurrency, options.timeout, rate)
    result = {"server": server, "rate": rate, **figures}
    return result, report.soak_table(result), lambda path: plots.draw_soak(result, path)


def _compare(options: argparse.Namespace, products: list[Product]) -> tuple[dict[str, Any], str, Any]:
    names = [name for name, _ in options.sides]
    loads = {name: _load(where, options, products) for name, where in options.sides}
    rows = experiments.compare(loads, options.concurrency, options.seconds, options.rounds)
    result = {"sides": dict(options.sides), "seconds": options.seconds, "rounds": options.rounds, "compare": rows}
    return result, report.compare_table(rows, names), lambda path: plots.draw_compare(rows, names, path)


COMMANDS = {"sweep": _sweep, "overload": _overload, "soak": _soak, "compare": _compare}


def _load(where: str, options: argparse.Namespace, products: list[Product]) -> experiments.Load:
    """A server by its address, or a model repository in this process."""
    if Path(where).is_dir():
        here = InProcess(Path(where), options.config)
        return lambda concurrency, seconds: here.load(products, min(concurrency, options.batch), seconds)
    _server(where, options.wait)
    requests = good_requests(products)
    return lambda concurrency, seconds: closed_loop(
        where, requests, concurrency, seconds=seconds, timeout_s=options.timeout
    )


def _server(url: str, wait_s: float) -> dict[str, str]:
    with Classifier(url) as classifier:
        classifier.wait_until_ready(wait_s)
    return report.server(url)


def _verdict_lines(verdict: dict[str, bool]) -> str:
    return "".join(f"\n{'yes' if held else 'NO '}  {claim}" for claim, held in verdict.items()) + "\n"


def _times(text: str) -> float:
    """`3x` -> 3.0, of capacity."""
    return float(text.removesuffix("x"))


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
    source = common.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="directory written by train.prepare")
    source.add_argument("--pictures", type=Path, metavar="DIR", help="a folder of pictures instead")
    common.add_argument("--output", type=Path, help="directory for the results (runs/bench/COMMAND)")
    common.add_argument("--timeout", type=float, default=10.0, metavar="S", help="deadline of a call (%(default)s)")
    common.add_argument("--wait", type=float, default=2.0, metavar="S", help="for the server to be ready (%(default)s)")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", default="localhost:8001", help="the server's gRPC address (%(default)s)")
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("--rows", type=int, default=1, metavar="N", help="products in a request (%(default)s)")

    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser("sweep", parents=[common, server, rows])
    sweep.add_argument("--concurrency", type=_numbers, default=[1, 2, 4, 8, 16, 32, 64], metavar="N,N,...")
    sweep.add_argument("--seconds", type=float, default=5.0, help="per concurrency (%(default)s)")
    sweep.add_argument("--admin-key", metavar="KEY", help="of a server that restricts its statistics")
    sweep.add_argument("--perf-analyzer", type=Path, metavar="PATH", help="measure with this binary too")

    overload = commands.add_parser("overload", parents=[common, server, rows])
    overload.add_argument("--rate", default="3x", help="times capacity (%(default)s)")
    overload.add_argument("--concurrency", type=int, default=32, help="callers to find capacity with (%(default)s)")
    overload.add_argument("--seconds", type=float, default=10.0, help="of overload (%(default)s)")
    overload.add_argument(
        "--accepted-limit", type=float, default=2000.0, metavar="MS", help="p99 of accepted requests (%(default)s)"
    )

    soak = commands.add_parser("soak", parents=[common, server])
    soak.add_argument("--requests", type=int, default=100_000)
    soak.add_argument("--bad", type=float, default=0.05, help="share of bad requests (%(default)s)")
    soak.add_argument("--pid", type=int, required=True, help="of tritonserver")
    soak.add_argument("--concurrency", type=int, default=32, help="callers (%(default)s)")
    soak.add_argument("--rate", help="0.7x: at a fixed rate, times capacity, instead")

    compare = commands.add_parser("compare", parents=[common])
    compare.add_argument("sides", type=_side, nargs=2, metavar="NAME=WHERE", help="HOST:PORT, or a filled deploy/")
    compare.add_argument("--concurrency", type=_numbers, default=[1, 32], metavar="N,N,...")
    compare.add_argument("--seconds", type=float, default=3.0, help="of each turn (%(default)s)")
    compare.add_argument("--rounds", type=int, default=7, help="turns of each side (%(default)s)")
    compare.add_argument("--batch", type=int, default=16, help="largest batch in this process (%(default)s)")
    compare.add_argument("--config", default="cpu", help="deploy/engine/configs/NAME.pbtxt in this process")
    options = parser.parse_args(arguments)
    if options.command == "compare" and options.sides[0][0] == options.sides[1][0]:
        parser.error(f"both sides are called {options.sides[0][0]!r}")
    return options


if __name__ == "__main__":
    sys.exit(main())
