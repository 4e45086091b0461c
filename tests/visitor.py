"""A browser without eyes: cookies, forms and redirects by hand, so that a test sees each answer as it was sent."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from tests.harness import ADMIN


class Answer(NamedTuple):
    """One answer; header names are in lower case, and of `set-cookie` the last is there."""

    status: int
    headers: Mapping[str, str]
    text: str


class Visitor:
    """Keeps the cookie of the console, and sends what browsers send."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.cookie = ""

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Answer:
        """One request; a header that is None is left out."""
        usual = {"accept": "text/html,*/*;q=0.8", "cookie": self.cookie or None}
        if method == "POST":
            usual |= {"origin": f"http://{self.host}", "sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
        sent = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
            answer = connection.getresponse()
            made = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()
        if cookie := made.headers.get("set-cookie"):
            name, value = cookie.partition(";")[0].split("=", 1)
            self.cookie = f"{name}={value}" if value.strip('"') else ""
        return made

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, None, **headers)

    def send(self, path: str, fields: Mapping[str, str], **headers: str | None) -> Answer:
        return self.ask("POST", path, urlencode(fields).encode(), **headers)

    def submit(self, page: str, action: str, **fields: str) -> Answer:
        """Open a page, and send its form to this action as a browser would."""
        return self.send(action, {**form(self.get(page).text, action), **fields})

    def log_in(self, token: str = ADMIN, to: str = "/") -> Answer:
        return self.submit(f"/login?to={to}", "/login", token=token)


def form(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form with this action."""
    found = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', page, re.DOTALL)
    assert found, f"no form to {action} in {page}"
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found[0]))


class Outline(HTMLParser):
    """What a page is made of: the names of its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
