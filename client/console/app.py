"""The console as an application: its pages behind the rules of access."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.base import BaseHTTPMiddleware

from client.console.access import Access, guard
from client.console.pages import browse, review, trial
from client.console.state import Console


def make_app(console: Console, access: Access) -> FastAPI:
    """All routes. No page of FastAPI's own: those fetch scripts from elsewhere."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.console, app.state.access = console, access
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    for pages in (review, browse, trial):
        app.include_router(pages.router)
    app.add_exception_handler(HTTPException, _say)
    app.add_exception_handler(RequestValidationError, _say)
    return app


def _say(_: Request, error: Exception) -> PlainTextResponse:
    """One line, which a page shows as its message."""
    if isinstance(error, HTTPException):
        return PlainTextResponse(str(error.detail), error.status_code)
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return PlainTextResponse(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 422)
