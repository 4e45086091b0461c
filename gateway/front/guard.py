"""The guard: the first thing a request meets. What two programs could read in two ways is refused, not interpreted.

It works on the parser's own output (raw path, header list) and returns the one representation on which all later code decides.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.errors import FaregateError, InvalidRequest
from gateway.front.errors import HeadersTooLarge, send_refusal
from gateway.front.wire import App, Receive, Scope, Send, request_id

HEADER_COUNT = 100
HEADER_BYTES = 32 * 1024

# A second one of these would be read by one program and not by another.
SINGLE = frozenset(b"host authorization x-api-key api-key content-type content-length content-encoding transfer-encoding expect".split())
HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# Empty and dot segments, encoded separators and dots, NUL, backslash: two paths for two readers.
PATH = re.compile(rb"//|/\.{1,2}(?:/|$)|%2[eEfF]|%5[cC]|%00|[^\x21-\x7e]|\\")

Headers = dict[bytes, bytes]


def inspect(scope: Scope) -> Headers:
    """The headers by lower-case name (of a repeated harmless one: the last); raises InvalidRequest for anything ambiguous."""
    headers = _headers(scope["headers"])
    version = scope["http_version"]
    if version not in ("1.1", "1.0"):
        raise InvalidRequest(f"HTTP/{version} is not supported: use HTTP/1.1.")
    _check_host(headers.get(b"host"), version)
    if PATH.search(scope["raw_path"]) or not scope["raw_path"].startswith(b"/"):
        raise InvalidRequest("The path has an empty or dot segment, an encoded separator or a control character.")
    _check_framing(headers, version, scope["method"])
    return headers


def _headers(pairs: list[tuple[bytes, bytes]]) -> Headers:
    headers: Headers = {}
    size = 0
    for name, value in pairs:
        size += len(name) + len(value)
        if name in headers and name in SINGLE:
            raise InvalidRequest(f"The header {name.decode()} is there twice.")
        if b"_" in name:
            # Many servers read x_api_key and x-api-key as one name.
            raise InvalidRequest("A header name has an underscore: write it with a hyphen.")
        headers[name] = value
    if len(pairs) > HEADER_COUNT or size > HEADER_BYTES:
        raise HeadersTooLarge(f"More than {HEADER_COUNT} headers or {HEADER_BYTES} bytes of them.")
    return headers


def _check_host(host: bytes | None, version: str) -> None:
    if host is None:
        if version == "1.1":
            raise InvalidRequest("The Host header is missing.")
    elif not HOST.fullmatch(host):
        raise InvalidRequest("The Host header is not a host name with an optional port.")


def _check_framing(headers: Headers, version: str, method: str) -> None:
    transfer, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if transfer is not None:
        if transfer.lower() != b"chunked" or version == "1.0":
            raise InvalidRequest("The only transfer-encoding is chunked, with HTTP/1.1.")
        if length is not None:
            raise InvalidRequest("Send content-length or transfer-encoding, not both.")
    if method in ("GET", "HEAD") and (transfer is not None or length not in (None, b"0")):
        raise InvalidRequest(f"{method} takes no body.")


class Guard:
    """The same rules in front of another ASGI app (the admin plane)."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            inspect(scope)
        except FaregateError as error:
            await send_refusal(send, error, request_id())
            return
        frozen: dict[str, Any] = dict(scope)
        await self._app(frozen, receive, send)
