"""Any title and image: what is answered, whom it believes, and what decided."""

from __future__ import annotations

import base64
from typing import Annotated

import numpy as np
from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse

from client.console.answers import of_prediction
from client.console.occlusion import Decisive, decisive
from client.console.state import EDGES, PREPROCESS, as_jpeg, console_of, page
from client.errors import ClassifierError
from model.images import decode_pixels
from model.refusal import Refusal
from model.tasks import MISMATCH

STEPS = 10  # shades of what decided
FAINT = 0.02  # a fall of the score that is not shown

router = APIRouter()


@router.get("/try")
def form(request: Request) -> HTMLResponse:
    return page(request, "try.html.j2", can_ask=console_of(request).classifier is not None)


@router.post("/try")
def ask(
    request: Request, title: Annotated[str, Form()] = "", image: Annotated[UploadFile | None, File()] = None
) -> HTMLResponse:
    """The answer about a product that was typed and uploaded.

    Raises:
        HTTPException: there is no server, the product is refused, or the server is away.
    """
    console = console_of(request)
    if console.classifier is None:
        raise HTTPException(409, "no server to ask: start the console with --url HOST:PORT")
    encoded = image.file.read(PREPROCESS.max_image_bytes + 1) if image else b""
    try:
        pixels_HWC = decode_pixels(encoded, PREPROCESS) if encoded else None
        labels = {task.name: task.labels for task in console.catalog.tasks}
        answer, found = decisive(console.classifier, title, encoded, pixels_HWC, labels)
    except (Refusal, ClassifierError) as error:
        raise HTTPException(422 if isinstance(error, Refusal) else 502, str(error)) from None
    except KeyError as error:
        raise HTTPException(502, f"the server does not answer {error}: it serves another bundle") from None
    small = as_jpeg(encoded, EDGES["large"]) if encoded else None
    return page(
        request,
        "answer.html.j2",
        answer=of_prediction(answer.prediction),
        mismatch=answer.prediction.get(MISMATCH),
        found=[(one, shaded_words(one), shaded_parts(one)) for one in found],
        image=f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else "",
    )


def shaded_words(one: Decisive) -> list[tuple[str, float, int]]:
    """Word, fall of the score, and its shade, 0 to STEPS."""
    most = max([fall for _, fall in one.words], default=0.0)
    return [(word, fall, _shade(fall, most)) for word, fall in one.words]


def shaded_parts(one: Decisive) -> list[tuple[int, int, float]]:
    """Column, row and opacity of the parts of the image that count."""
    if one.parts_GG is None:
        return []
    most = float(one.parts_GG.max())
    rows, columns = np.nonzero(one.parts_GG >= FAINT)
    return [
        (int(column), int(row), round(0.7 * float(one.parts_GG[row, column]) / most, 2))
        for row, column in zip(rows, columns, strict=True)
    ]


def _shade(fall: float, most: float) -> int:
    return round(STEPS * fall / most) if fall >= FAINT else 0
