"""One product after the other, and what is decided about it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from client.console.access import NAME, cleaned_name, keep, quoted, reviewer_of
from client.console.catalog import Product
from client.console.decisions import Outdated
from client.console.form import fields_of, labels_of
from client.console.state import EDGES, as_jpeg, console_of, page

IMAGE_AGE_S = 3600
# No task's name begins so.
Place = Annotated[int, Form(alias="_place")]
Sampled = Annotated[int, Form(alias="_sampled")]

router = APIRouter()


@router.get("/")
def start() -> Response:
    return RedirectResponse("/review", 303)


@router.get("/review")
def review(request: Request, sample: bool = False, place: int | None = None) -> HTMLResponse:
    """The whole page, with the next product or that at `place`; the latter is nobody's turn, so it is not leased."""
    console = console_of(request)
    product = console.found(place) if place is not None else console.queue.next(reviewer_of(request), sample)
    return _page(request, "review.html.j2", product, sample and place is None, done="")


async def form_of(request: Request) -> FormData:
    """All fields that were sent: which there are follows from the tasks."""
    return await request.form()


@router.post("/decide")
def decide(request: Request, form: Annotated[FormData, Depends(form_of)]) -> HTMLResponse:
    """Keep what was chosen and show the next product."""
    console = console_of(request)
    product = console.found(_number(str(form.get("_place", ""))))
    replaces, sampled = _number(str(form.get("_replaces", "0"))), form.get("_sampled") == "1"
    labels = labels_of(form, console.catalog.tasks)
    try:
        console.decisions.decide(product.id, labels, product.said or {}, reviewer_of(request), sampled, replaces)
    except Outdated as error:
        return _next(request, sampled, str(error))
    said = "; ".join(f"{task} {'untold' if got is None else ', '.join(got) or 'none'}" for task, got in labels.items())
    return _next(request, sampled, f"{product.id}: {said}")


@router.post("/skip")
def skip(request: Request, place: Place, sampled: Sampled = 0) -> HTMLResponse:
    console = console_of(request)
    product = console.found(place)
    console.decisions.skip(product.id, reviewer_of(request))
    return _next(request, bool(sampled), f"{product.id}: skipped")


@router.post("/undo")
def undo(request: Request, sampled: Sampled = 0) -> HTMLResponse:
    """Take back the last one of this browser's and show it again."""
    console = console_of(request)
    id = console.decisions.undo(reviewer_of(request))
    place = None if id is None else console.catalog.place_of(id)
    if place is None:
        return _next(request, bool(sampled), "nothing to take back")
    return _page(request, "product.html.j2", console.found(place), bool(sampled), f"{id}: taken back")


@router.post("/name")
def name(request: Request, name: Annotated[str, Form()]) -> Response:
    """Who decides, from now on in this browser."""
    response = Response(status_code=204, headers={"HX-Refresh": "true"})
    keep(response, NAME, quoted(cleaned_name(name)))
    return response


@router.get("/image/{size}/{place}")
def image(request: Request, size: str, place: int) -> Response:
    """A product's image, encoded anew."""
    console = console_of(request)
    encoded = console.catalog.image(console.found(place))
    if size not in EDGES:
        raise HTTPException(404, f"no size {size}")
    content = as_jpeg(encoded, EDGES[size]) if encoded else None
    if content is None:
        raise HTTPException(404, "no image that can be read")
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={IMAGE_AGE_S}"})


def _next(request: Request, sampled: bool, done: str) -> HTMLResponse:
    product = console_of(request).queue.next(reviewer_of(request), sampled)
    return _page(request, "product.html.j2", product, sampled, done)


def _page(request: Request, template: str, product: Product | None, sampled: bool, done: str) -> HTMLResponse:
    console = console_of(request)
    problem, decided = "", None
    if product:
        product, problem = console.with_answer(product)
        decided = console.decisions.of_product(product.id)
    return page(
        request,
        template,
        product=product,
        has_image=bool(product and console.catalog.image(product)),
        fields=fields_of(product, console.catalog.tasks, decided, console.catalog.counts, sampled) if product else [],
        decided=decided,
        sampled=sampled,
        counts=console.queue.counts(),
        answered=console.catalog.answered,
        done=done,
        problem=problem,
    )


def _number(text: str) -> int:
    if not text.isdecimal():
        raise HTTPException(422, "not a form of this console; load the page again")
    return int(text)
