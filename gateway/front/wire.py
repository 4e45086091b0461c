"""Shapes on the wire that are OpenAI's, and the names of the server's interface: no decision is taken here."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The scope's extension that holds the request's Cycle: its departure, and the way to break its answer off.
CYCLE = "faregate.cycle"

Fields = list[tuple[bytes, bytes]]

# Printable ASCII; anything else in a header value is shown as "?".
_VISIBLE = bytes(byte if 0x20 <= byte < 0x7F else 0x3F for byte in range(256))
# The usual limit of one header line in proxies is 8 KB.
_LONGEST = 4096

JSON = (b"content-type", b"application/json")
EVENT_STREAM: Fields = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def request_id() -> str:
    """A new id, `req-` and 32 hex digits: 48 bits of real milliseconds (ids sort by time), then 80 random bits."""
    return "req-" + ((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)).hex()


def header_fields(headers: dict[str, str]) -> Fields:
    """Headers as bytes; a value that could break a line or a proxy is made harmless."""
    return [*map(_field, headers, headers.values())]


# What was edited, where it went, in which currency: most answers say what others said.
@lru_cache(maxsize=256)
def _field(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode(), header_value(value)


def header_value(text: str) -> bytes:
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
        return text.encode()
    return text[:_LONGEST].encode("ascii", "replace").translate(_VISIBLE)


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return msgspec.json.encode(value)


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def model_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer of GET /models; each entry has at least `id`."""
    return {"object": "list", "data": [{"object": "model", "created": 0, "owned_by": "faregate", **model} for model in models]}
