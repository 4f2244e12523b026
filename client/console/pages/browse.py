"""All products in the order of the review, and how far it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.background import BackgroundTask

from client.console.catalog import Product
from client.console.exports import FORMATS, write_as
from client.console.queue import STATES
from client.console.state import console_of, page

MOST = 100  # products a step of scrolling

router = APIRouter()


@router.get("/products")
def products(
    request: Request, after: int = -1, state: str = "", task: str = "", reason: str = "", id: str = ""
) -> Response:
    """A page, or where it is scrolled on, what follows the rank `after`; a product of that id at once."""
    console = console_of(request)
    if state not in STATES:
        raise HTTPException(422, f"state {state!r}: expected one of {', '.join(filter(None, STATES))}")
    if id:
        place = console.catalog.place_of(id.strip())
        if place is None:
            raise HTTPException(404, f"no product has the id {id.strip()!r}")
        return RedirectResponse(f"/review?place={place}", 303)
    chosen = {"state": state, "task": task, "reason": reason}
    rows = console.queue.page(after, MOST, **chosen)
    template = "cards.html.j2" if after >= 0 else "products.html.j2"
    return page(
        request,
        template,
        rows=[_card(*row) for row in rows],
        is_full=len(rows) == MOST,
        chosen=chosen,
        reasons=console.queue.reasons() if after < 0 else [],
    )


@router.get("/export/{format}")
def export(request: Request, format: str) -> Response:
    """The decisions as one file to keep: a folder comes as a zip."""
    if format not in FORMATS:
        raise HTTPException(404, f"no format {format!r}: expected one of {', '.join(FORMATS)}")
    folder = TemporaryDirectory(prefix="decisions-")
    made = write_as(FORMATS[format], Path(folder.name) / "decisions", console_of(request).catalog)
    if made.is_dir():
        made = Path(shutil.make_archive(str(made), "zip", made))
    return FileResponse(made, filename=made.name, background=BackgroundTask(folder.cleanup))


@router.get("/progress")
def progress(request: Request) -> HTMLResponse:
    console = console_of(request)
    return page(
        request,
        "progress.html.j2",
        counts=console.queue.counts(),
        products=len(console.catalog),
        answered=console.catalog.answered,
        reasons=console.queue.reasons(),
        estimates=console.queue.estimates(),
        exports={name: format.says for name, format in FORMATS.items()},
    )


def _card(rank: int, is_decided: bool, *values: Any) -> dict[str, Any]:
    return {"rank": rank, "is_decided": is_decided, "product": Product.of(values)}
