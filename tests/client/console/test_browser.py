"""The console in a real browser: by keys alone, through a kill -9, and out again to training."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from console_files import COLOR, EVIL, TAGS, console_process
from data_set_files import picture, rows_of
from playwright.sync_api import Browser, Page, expect, sync_playwright
from server_process import free_ports
from tiny import run_stage

from client.console.decisions import Decisions
from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from train.prepare.__main__ import main as prepare

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
# It may ask nobody but the console, and needs no sandbox for pages of our own.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
UNLABELLED = 24  # of train: the queue
EVIL_PLACE = 3


def product(split: str, n: int) -> Product:
    color = COLOR.labels[n % 3]
    id, title = f"{split}-{n}", f"{color} dress {n}"
    if split == "train" and n == EVIL_PLACE:
        id, title = "../../x", f"{title} {EVIL}"
    labels = {"color": None if split == "train" else color, "tags": [["new"], []][n % 2]}
    return Product(id, picture(n), title, labels, split)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("browser") / "data"
    sizes = {"train": UNLABELLED, "validation": 9, "test": 9}
    rows = (product(split, n) for split, size in sizes.items() for n in range(size))
    write_rows(NewDataset(directory, [COLOR, TAGS], source="drawn", settings={}), rows)
    return directory


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    """A new browser's page. Whatever it is shown, no script of a product runs and nobody else is asked."""
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    dialogs, asked, errors = [], [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not dialogs and not errors
    assert asked and all(url.startswith(("http://127.0.0.1:", "data:")) for url in asked)


def decide(page: Page) -> str:
    """By keys: the colour that the title names, then save; returns the id of the product."""
    title, id = page.inner_text("h1"), page.inner_text(".id >> nth=0").partition(",")[0]
    page.keyboard.press(str(COLOR.labels.index(title.split()[0]) + 1))
    page.keyboard.press("Enter")
    return id


def test_twenty_products_by_keys_through_a_kill_and_out_to_training(page, data, tmp_path, capfd):
    (port,) = free_ports(1)
    options = ["--data", data, "--decisions", tmp_path / "d.sqlite", "--port", port]
    decided = []
    with console_process(*options) as (url, process):
        page.goto(url)
        for _ in range(10):
            decided.append(decide(page))
            expect(page.locator("#message")).to_contain_text(f"{decided[-1]}: color")
        process.send_signal(signal.SIGKILL)
        process.wait()
        waiting = decide(page)
        expect(page.locator("#message")).to_contain_text("the console does not answer")
    kept = Decisions(tmp_path / "d.sqlite", DatasetInfo.read(data).tasks.label_set_hash)
    assert len(set(decided)) == 10 and all(kept.of_product(id) for id in decided) and not kept.of_product(waiting)
    with console_process(*options):
        page.keyboard.press("Enter")  # what was chosen still stands there
        expect(page.locator("#message")).to_contain_text(f"{waiting}: color")
        decided.append(waiting)
        page.keyboard.press("u")
        expect(page.locator("#message")).to_contain_text(f"{waiting}: taken back")
        assert decide(page) == waiting
        expect(page.locator("#message")).to_contain_text(f"{waiting}: color")
        page.keyboard.press("s")
        expect(page.locator("#message")).to_contain_text("skipped")
        while len(decided) < 20:
            decided.append(decide(page))
            expect(page.locator("#message")).to_contain_text(f"{decided[-1]}: color")
        page.click("text=Progress")
        with page.expect_download() as download:
            page.click("text=parquet")
        download.value.save_as(tmp_path / "decisions.parquet")
    assert len(set(decided)) == 20 and "../../x" in decided
    own = {product("train", n).id: product("train", n) for n in range(UNLABELLED)}
    for id in decided:
        assert kept.of_product(id).labels["color"] == [own[id].title.split()[0]]
    train_on(data, tmp_path, own, decided)


def train_on(data: Path, tmp_path: Path, own: dict[str, Product], decided: list[str]) -> None:
    """Prepare with the decisions laid over the table, and train two stages on it."""
    columns = ["--image-column", "image", "--title-column", "title", "--id-column", "id"]
    tasks = ["--task", "color:single_label", "--task", "tags:multi_label", "--validation", "0.2", "--test", "0.2"]
    table = ["--parquet", str(data), "--corrections", str(tmp_path / "decisions.parquet")]
    assert prepare(["catalog", *table, *columns, *tasks, "--output", str(tmp_path / "labelled")]) == 0
    info = DatasetInfo.read(tmp_path / "labelled")
    rows = {row["id"]: row for split in info.splits for row in rows_of(tmp_path / "labelled", split)}
    for id in own:
        assert rows[id]["color"] == (own[id].title.split()[0] if id in decided else None)
    for stage in ("contrastive", "warmup"):
        few = ["--stages.contrastive.batch_size=16", "--stages.contrastive.micro_batch_size=8"]
        trained = run_stage(stage, tmp_path / "labelled", tmp_path / "run", *few)
        assert trained.returncode == 0, trained.stderr[-2000:]
    assert (tmp_path / "run/bundle/config.json").is_file()


def test_every_page_is_for_everybody_and_no_product_has_a_say(page, data, tmp_path):
    """axe-core finds no serious fault, what is code in a title is text, and the list scrolls on by itself."""
    with console_process("--data", data, "--decisions", tmp_path / "d.sqlite", "--port", "0") as (url, _):
        for path in ("review", f"review?place={EVIL_PLACE}", "review?sample=true", "products", "progress", "try"):
            page.goto(url + path)
            violations = Axe().run(page).response["violations"]
            serious = [one for one in violations if one["impact"] in ("serious", "critical")]
            assert not [(one["id"], one["nodes"][0]["html"]) for one in serious], path
        page.goto(f"{url}review?place={EVIL_PLACE}")
        assert EVIL in page.inner_text("h1") and page.inner_text(".id >> nth=0").startswith("../../x")
        page.goto(f"{url}products")
        expect(page.locator(".cards li")).to_have_count(UNLABELLED + 18)
        assert page.locator("script").count() == 2 and page.locator(".cards img").count() == UNLABELLED + 18


def test_another_reviewer_gets_another_product_and_a_name_stays(chromium, page, data, tmp_path):
    with console_process("--data", data, "--decisions", tmp_path / "d.sqlite", "--port", "0") as (url, _):
        page.goto(url)
        page.fill("input[name=name]", "Ann")
        page.keyboard.press("Enter")
        expect(page.locator("input[name=name]")).to_have_value("Ann")
        other = chromium.new_context().new_page()
        other.goto(url)
        assert other.inner_text("h1") != page.inner_text("h1")
        other.context.close()
        page.goto(url)
        id = decide(page)
        expect(page.locator("#message")).to_contain_text(id)
    kept = Decisions(tmp_path / "d.sqlite", DatasetInfo.read(data).tasks.label_set_hash)
    assert kept.of_product(id).reviewer == "Ann"
