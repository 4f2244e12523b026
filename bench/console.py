"""How long a reviewer waits: the console over many products in headless Chromium, beside a plain file that it serves.

    python -m bench.console --products 100000

First paint is what the browser says (Paint Timing), each time in a new profile; deciding is from the key to the next
product. Exit status 1: the queue takes 300 ms or more, or memory grows.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, sync_playwright
from tqdm import tqdm

from bench.harness import Report, percentiles
from bench.preprocessing import encode_jpeg, photograph
from cma_clip.command import Failure, command
from cma_clip.tables import markdown
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import SingleLabel

COLOR = SingleLabel(name="color", labels=["black", "blue", "green", "red", "white"])
IMAGES, IMAGE_EDGE = 64, 300  # as many different ones; pixels
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PAGES = {"a file": "static/console.css", "queue": "review", "list": "products"}
PAINT = """() => new Promise(tell => new PerformanceObserver(list => tell(list.getEntries()[0].startTime))
    .observe({type: "paint", buffered: true}))"""
SAVE = """() => new Promise(tell => {
    const start = performance.now(), next = () => requestAnimationFrame(() => tell(performance.now() - start));
    document.addEventListener("htmx:afterSettle", next, {once: true});
    document.querySelector("#product form").requestSubmit();
})"""
FIRST_PAINT_MS, MOST_GROWTH = 300, 1.2
SCREEN = 8  # products of the list
COLUMNS = ("what", "median ms", "p20 to p80", "p99")
SPREAD = {"p20": 20.0, "median": 50.0, "p80": 80.0, "p99": 99.0}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20, help="loads of each page (%(default)s)")
    parser.add_argument("--decisions", type=int, default=100, help="by keys (%(default)s)")
    parser.add_argument("--scrolled", type=int, default=10_000, help="products of the list (%(default)s)")
    parser.add_argument("--output", type=Path, help="runs/bench/console")
    args = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise Failure("no Chromium on this machine: apt-get install chromium")
    with (
        Report("console", args.output, table, draw, products=args.products) as report,
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        write_products(Path(folder), args.products)
        with running(Path(folder)) as (url, process, start_s):
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
            measure(report, browser, url, process, args)
            report.save(start_s=start_s)
    return report.exit_code


def measure(report: Report, browser: Browser, url: str, process: psutil.Process, args: argparse.Namespace) -> None:
    """First paints, decisions and a long list; memory before and after."""
    paints = first_paints(browser, url, args.rounds)
    before = process.memory_info().rss
    page = browser.new_context().new_page()
    rows = {name: percentiles(paint, SPREAD) for name, paint in paints.items()}
    rows["the next product after a key"] = percentiles(decided(page, url, args.decisions), SPREAD)
    rows["the next screen of the list"] = percentiles(scrolled(page, url, args.scrolled), SPREAD)
    after = process.memory_info().rss
    report.add(*({"what": name, **times} for name, times in rows.items()))
    report.save(
        memory_bytes=[before, after],
        verdict={
            f"first paint of the queue under {FIRST_PAINT_MS} ms": rows["queue"]["median"] < FIRST_PAINT_MS,
            "memory is flat": after < MOST_GROWTH * before,
        },
    )


def first_paints(browser: Browser, url: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each page in turn, in new profiles."""
    paints: dict[str, list[float]] = {name: [] for name in PAGES}
    for _ in tqdm(range(rounds), "first paint", leave=False):
        for name, path in PAGES.items():
            context = browser.new_context()
            page = context.new_page()
            page.goto(url + path)
            paints[name].append(page.evaluate(PAINT))
            context.close()
    return paints


def decided(page: Page, url: str, count: int) -> list[float]:
    """Milliseconds from Enter to the next product, each chosen by a key."""
    page.goto(f"{url}review")
    times = []
    for _ in tqdm(range(count), "deciding", leave=False):
        page.keyboard.press("2")
        times.append(page.evaluate(SAVE))
    return times


def scrolled(page: Page, url: str, count: int) -> list[float]:
    """Milliseconds until each further screen of the list has its last product, ten screens a second."""
    page.goto(f"{url}products")
    times = []
    height = page.evaluate("document.querySelector('.cards li').getBoundingClientRect().height")
    for last in tqdm(range(SCREEN, count, SCREEN), "scrolling", leave=False):
        page.mouse.wheel(0, SCREEN * height)
        start = time.perf_counter()
        while page.evaluate("document.querySelectorAll('.cards a').length") <= last:
            page.wait_for_timeout(5)
        times.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(100)
    return times


def write_products(folder: Path, count: int) -> None:
    """A data set without labels, and answers to it of which a third is not accepted."""
    images = [encode_jpeg(photograph(IMAGE_EDGE, IMAGE_EDGE, seed), quality=80) for seed in range(IMAGES)]
    titles = (f"Redwood belted dress for every day, number {n}" for n in range(count))
    rows = (Product(f"sku-{n}", images[n % IMAGES], title, {"color": None}, "train") for n, title in enumerate(titles))
    write_rows(NewDataset(folder / "data", [COLOR], source="drawn", settings={}), rows, count)
    scores = np.random.default_rng(0).random(count)
    columns = {
        "id": [f"sku-{n}" for n in range(count)],
        "color_answer": [COLOR.labels[n % len(COLOR.labels)] for n in range(count)],
        "color_score": scores,
        "color_accepted": scores > 1 / 3,
        "color_refused": np.where(scores > 1 / 3, "", "score"),
        "color_text_share": scores,
    }
    pq.write_table(pa.table(columns), folder / "answers.parquet")


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """A console over what was written: its address, its process, and the seconds until it answered."""
    words = ["--data", folder / "data", "--answers", folder / "answers.parquet", "--port", "0"]
    start = time.perf_counter()
    command = [sys.executable, "-m", "client.console", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        said = next((line for line in process.stdout if line.startswith("open ")), None)
        if said is None:
            raise Failure("the console did not start")
        yield said.split()[1], psutil.Process(process.pid), time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


def table(result: dict[str, Any]) -> str:
    lines = [
        [r["what"], f"{r['median']:.0f}", f"{r['p20']:.0f} to {r['p80']:.0f}", f"{r['p99']:.0f}"]
        for r in result["rows"]
    ]
    before, after = (size / 2**20 for size in result["memory_bytes"])
    said = f"{result['products']:,} products; memory before and after: {before:.0f} and {after:.0f} MiB"
    return f"{markdown(COLUMNS, lines)}\n{said}; it starts in {result['start_s']:.0f} s\n"


def draw(result: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots()
    axes.barh([r["what"] for r in result["rows"]], [r["median"] for r in result["rows"]])
    axes.set_xlabel("milliseconds")


if __name__ == "__main__":
    sys.exit(main())
