"""Any title and image: what is answered, whom it believes, and what decided."""

from __future__ import annotations

import base64
from typing import Annotated

import numpy as np
from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse

from client.console.answers import of_prediction
from client.console.occlusion import Decisive, decisive, fall
from client.console.state import EDGES, PREPROCESS, console_of, jpeg_of, page
from client.errors import ClassifierError
from model.images import decode_pixels
from model.refusal import Refusal
from model.tasks import MISMATCH

STEPS, OPAQUE = 10, 0.7  # shades of words; the darkest part of an image
FAINT = 0.2  # a fall that is not shown, as log-odds

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
    small = jpeg_of(pixels_HWC, EDGES["large"]) if pixels_HWC is not None else None
    return page(
        request,
        "answer.html.j2",
        answer=of_prediction(answer.prediction),
        mismatch=answer.prediction.get(MISMATCH),
        found=[(one, shaded_words(one), shaded_parts(one)) for one in found],
        image=f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else "",
    )


def shaded_words(one: Decisive) -> list[tuple[str, float, int]]:
    """Word, score without it, and its shade, 0 to STEPS."""
    most = most_of(one)
    return [(word, without, round(STEPS * _share(fall(one.score, without), most))) for word, without in one.words]


def shaded_parts(one: Decisive) -> list[tuple[int, int, float]]:
    """Column, row and opacity of the parts of the image that count."""
    if one.parts_GG is None:
        return []
    most = most_of(one)
    shares_GG = np.array([[_share(fall(one.score, without), most) for without in row] for row in one.parts_GG])
    rows, columns = np.nonzero(shares_GG)
    return [
        (int(column), int(row), round(OPAQUE * float(shares_GG[row, column]), 2))
        for row, column in zip(rows, columns, strict=True)
    ]


def most_of(one: Decisive) -> float:
    """The greatest fall of all words and parts."""
    without = [score for _, score in one.words] + ([] if one.parts_GG is None else one.parts_GG.flatten().tolist())
    return max((fall(one.score, score) for score in without), default=0.0)


def _share(fall: float, most: float) -> float:
    """Of the greatest; 0 of what hardly matters."""
    return fall / most if fall >= FAINT else 0.0
