"""What the pages share."""

from __future__ import annotations

import io
from dataclasses import dataclass

import jinja2
import numpy as np
from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse
from PIL import Image

from client.classifier import Classifier
from client.console.access import Access, reviewer_of
from client.console.answers import of_prediction
from client.console.catalog import Catalog, Product
from client.console.decisions import Decisions
from client.console.queue import Queue
from client.errors import ClassifierError
from model.config import PreprocessConfig
from model.images import decode_pixels
from model.refusal import Refusal
from model.tasks import labels_for_people

PREPROCESS = PreprocessConfig()
EDGES = {"card": 96, "large": 768}  # pixels
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("client.console"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.filters["labels"] = labels_for_people


@dataclass(frozen=True)
class Console:
    """One console. `classifier`: the server that is asked where no answer is there; None without one."""

    catalog: Catalog
    decisions: Decisions
    queue: Queue
    classifier: Classifier | None

    def found(self, place: int) -> Product:
        """Raises HTTPException where there is no such product."""
        product = self.catalog.product(place)
        if product is None:
            raise HTTPException(404, f"no product {place}")
        return product

    def with_answer(self, product: Product) -> tuple[Product, str]:
        """The product with what the server says of it, where nobody was asked before; and what went wrong, or ""."""
        if product.said is not None or self.classifier is None:
            return product, ""
        try:
            answer = self.classifier.classify(product.title, self.catalog.image(product))
        except ClassifierError as error:
            return product, str(error)
        said = of_prediction(answer.prediction)
        missing = [task.name for task in self.catalog.tasks if task.name not in said]
        if missing:
            return product, f"the server does not answer {missing[0]}: it serves another bundle"
        self.catalog.remember(product.place, said)
        return product._replace(said=said), ""


def console_of(request: Request) -> Console:
    console: Console = request.app.state.console
    return console


def page(request: Request, template: str, **values: object) -> HTMLResponse:
    """A template, with what all of them need."""
    access: Access = request.app.state.access
    reviewer = reviewer_of(request)
    shared = {
        "csrf": access.csrf(reviewer.session),
        "reviewer": reviewer.name,
        "read_only": access.read_only,
        "version": console_of(request).catalog.info.hash[:8],
    }
    return HTMLResponse(TEMPLATES.get_template(template).render(shared | values))


def as_jpeg(encoded: bytes, edge: int) -> bytes | None:
    """An image no larger than `edge` pixels, encoded anew: whatever else the file held is gone. None where it cannot
    be read.
    """
    try:
        return jpeg_of(decode_pixels(encoded, PREPROCESS), edge)
    except Refusal:
        return None


def jpeg_of(pixels_HWC: np.ndarray, edge: int) -> bytes:
    """uint8 pixels, no larger than `edge` along a side."""
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((edge, edge))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=85)
    return small.getvalue()
