"""Pages of a console as a browser without scripts gets them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from starlette.testclient import TestClient


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def value(self, name: str) -> str | None:
        return next(one["value"] for one in self.all("input") if one.get("name") == name)

    def checked(self, name: str) -> list[str | None]:
        return [one["value"] for one in self.all("input") if one.get("name") == name and "checked" in one]


class Browser:
    """One browser: its cookies, and the token that its pages carry."""

    def __init__(self, app) -> None:
        self.client = TestClient(app, follow_redirects=False)
        self.headers: dict[str, str] = {}

    def get(self, path: str) -> Page:
        response = self.client.get(path)
        assert response.status_code == 200, (path, response.status_code, response.text[:500])
        if found := re.search(r'"x-csrf-token": "(\w+)"', response.text):
            self.headers = {"x-csrf-token": found[1]}
        return Page(response.text)

    def post(self, path: str, form: dict | None = None, **more):
        return self.client.post(path, data=form or {}, headers=self.headers, **more)
