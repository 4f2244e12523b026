"""Who may ask the console for what: a token away from this machine, and only pages of its own may change anything."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import quote, unquote

from fastapi import HTTPException, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from client.console.decisions import Reviewer

YEAR_S = 365 * 24 * 3600
MOST_NAME = 60  # characters
MOST_BYTES = 30_000_000  # of what a browser sends: an image and some text
# Cookies are all ports' of a host: names that nobody else's have.
SESSION, NAME, TOKEN_COOKIE = "cma_clip_session", "cma_clip_reviewer", "cma_clip_token"
TOKEN, CSRF = "token", "x-csrf-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Access(NamedTuple):
    """The rules of one console.

    Attributes:
        secret: what pages are signed by.
        token: to be shown once by each browser; None on loopback.
        hosts: names by which it may be asked, or another site could pass itself off as this one (DNS rebinding); None
            where a token is asked for, which no other site has.
        read_only: whether nothing may be changed.
        name: of a reviewer who has not said one.
    """

    secret: str
    token: str | None
    hosts: frozenset[str] | None
    read_only: bool
    name: str

    def csrf(self, session: str) -> str:
        """What a page of this browser's sends along with each change."""
        return hmac.new(self.secret.encode(), session.encode(), hashlib.sha256).hexdigest()


Next = Callable[[Request], Awaitable[Response]]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def guard(request: Request, go_on: Next) -> Response:
    """Every request comes through here."""
    access: Access = request.app.state.access
    response = _refused(request, access)
    if response is None:
        request.state.session = request.cookies.get(SESSION) or secrets.token_urlsafe(24)
        response = await go_on(request)
        if SESSION not in request.cookies:
            keep(response, SESSION, request.state.session)
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _refused(request: Request, access: Access) -> Response | None:
    if access.hosts is not None and (request.url.hostname or "") not in access.hosts:
        return PlainTextResponse("asked by a name that is not this machine's", 421)
    shown = request.query_params.get(TOKEN, request.cookies.get(TOKEN_COOKIE, ""))
    if access.token is not None and not hmac.compare_digest(shown.encode(), access.token.encode()):
        return PlainTextResponse("no access: open the address that the console printed, with its token", 401)
    if access.token is not None and TOKEN in request.query_params:
        response = RedirectResponse(request.url.path, 303)
        keep(response, TOKEN_COOKIE, access.token)
        return response
    if request.method in ("GET", "HEAD"):
        return None
    if access.read_only:
        return PlainTextResponse("read only: nothing can be decided here", 403)
    if not request.headers.get("content-length", "").isdecimal():
        return PlainTextResponse("says not how long it is", 411)
    if int(request.headers["content-length"]) > MOST_BYTES:
        return PlainTextResponse(f"more than {MOST_BYTES:,} bytes", 413)
    expected = access.csrf(request.cookies.get(SESSION, ""))
    if not hmac.compare_digest(request.headers.get(CSRF, "").encode(), expected.encode()):
        return PlainTextResponse("not sent by a page of this console: load the page again", 403)
    return None


def keep(response: Response, name: str, value: str) -> None:
    """A cookie that no script reads and no other site sends."""
    response.set_cookie(name, value, max_age=YEAR_S, httponly=True, samesite="strict")


def reviewer_of(request: Request) -> Reviewer:
    """Whoever looks at the page."""
    name = unquote(request.cookies.get(NAME, ""))
    return Reviewer(name or request.app.state.access.name, request.state.session)


def quoted(name: str) -> str:
    """A name as a cookie can hold it."""
    return quote(name)


def cleaned_name(name: str) -> str:
    """A reviewer's name.

    Raises:
        HTTPException: it is empty, too long, or not of one line.
    """
    name = name.strip()
    if not 0 < len(name) <= MOST_NAME or not name.isprintable():
        raise HTTPException(422, f"a name has 1 to {MOST_NAME} printable characters")
    return name
