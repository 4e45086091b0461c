"""The guard: the first thing a request meets. What two programs could read in two ways is refused, not interpreted.

It works on the parser's own output (raw path, header list) and returns the one representation on which all later code decides.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from gateway.errors import FaregateError, InvalidRequest
from gateway.front.errors import HeadersTooLarge, send_refusal
from gateway.front.wire import App, Receive, Scope, Send, request_id

HEADER_COUNT = 100
HEADER_BYTES = 32 * 1024

# A second one of these would be read by one program and not by another.
SINGLE = frozenset(
    b"host authorization x-api-key api-key idempotency-key content-type content-length content-encoding transfer-encoding expect"
    b" x-faregate-dry-run".split()
)
HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# Empty and dot segments, encoded separators and dots, NUL, backslash, a fragment: two paths for two readers.
PATH = re.compile(rb"//|/\.{1,2}(?:/|$)|%2[eEfF]|%5[cC]|%00|[^\x21-\x7e]|[\\#]")

# In a query, as it came and as it is read. Characters of a parameter's name that a refusal repeats.
_CODED = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])|[\x00-\x1f\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHOWN = 40

# As a number it is looked for in a tenth of the time.
_UNDERSCORE = ord("_")

Headers = dict[bytes, bytes]


def inspect(scope: Scope) -> Headers:
    """The headers by lower-case name (of a repeated harmless one: the last); raises InvalidRequest for anything ambiguous."""
    headers = _headers(scope["headers"])
    version, method = scope["http_version"], scope["method"]
    _check_target(version, headers.get(b"host"), scope["raw_path"])
    if b"transfer-encoding" in headers or method in ("GET", "HEAD"):
        _check_framing(headers, version, method)
    return headers


def _headers(pairs: list[tuple[bytes, bytes]]) -> Headers:
    headers = dict(pairs)
    size = 0
    if len(headers) < len(pairs):
        _check_repeated(pairs)
        size = sum(len(name) + len(value) for name, value in pairs)
    names = b"".join(headers)
    size = size or len(names) + len(b"".join(headers.values()))
    if _UNDERSCORE in names:
        # Many servers read x_api_key and x-api-key as one name.
        raise InvalidRequest("A header name has an underscore: write it with a hyphen.")
    if len(pairs) > HEADER_COUNT or size > HEADER_BYTES:
        raise HeadersTooLarge(f"More than {HEADER_COUNT} headers or {HEADER_BYTES} bytes of them.")
    return headers


def _check_repeated(pairs: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in SINGLE:
            raise InvalidRequest(f"The header {name.decode()} is there twice.")
        seen.add(name)


# A client asks the same of the same host again and again: remembered, this costs a tenth of the patterns.
@lru_cache(maxsize=64)
def _check_target(version: str, host: bytes | None, raw_path: bytes) -> None:
    if version not in ("1.1", "1.0"):
        raise InvalidRequest(f"HTTP/{version} is not supported: use HTTP/1.1.")
    if host is None:
        if version == "1.1":
            raise InvalidRequest("The Host header is missing.")
    elif not HOST.fullmatch(host):
        raise InvalidRequest("The Host header is not a host name with an optional port.")
    if PATH.search(raw_path) or not raw_path.startswith(b"/"):
        raise InvalidRequest("The path has an empty or dot segment, an encoded separator, a fragment or a control character.")


def _check_framing(headers: Headers, version: str, method: str) -> None:
    transfer, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if transfer is not None:
        if transfer.lower() != b"chunked" or version == "1.0":
            raise InvalidRequest("The only transfer-encoding is chunked, with HTTP/1.1.")
        if length is not None:
            raise InvalidRequest("Send content-length or transfer-encoding, not both.")
    if method in ("GET", "HEAD") and (transfer is not None or length not in (None, b"0")):
        raise InvalidRequest(f"{method} takes no body.")


def _check_query(query: bytes) -> None:
    """A text with a control character names nothing here, and not every ledger takes one."""
    if not _CODED.search(query):
        return
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if _CONTROL.search(name + value):
            raise InvalidRequest(f"The parameter {name[:_SHOWN]!r} has a control character.", param=name[:_SHOWN])


def loopback(name: str) -> bool:
    """Whether a name or an address means this machine, whoever reads it."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def meant_here(host: str) -> bool:
    """Whether a Host header names this machine itself, and not what somebody's name server has led here."""
    try:
        return loopback((urlsplit(f"//{host}").hostname or "").removesuffix("."))
    except ValueError:
        return False


class Guard:
    """The same rules in front of another ASGI app (the admin plane), which takes parameters in addresses."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            inspect(scope)
            _check_query(scope["query_string"])
        except FaregateError as error:
            await send_refusal(send, error, request_id())
            return
        frozen: dict[str, Any] = dict(scope)
        await self._app(frozen, receive, send)
