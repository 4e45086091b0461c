"""The session: which conversation a request belongs to, where its client says so. Kept as a digest, never as it was sent.

Coding agents name their session in a header of their own, OpenAI's SDKs in a field. A name of a single request
(x-request-id, x-client-request-id) is none of a session. What is no name is ignored: it is a hint, and no request fails for it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from gateway.errors import InvalidRequest
from gateway.front.guard import Headers

# The narrowest first: a thread is a part of its session, and has a prompt of its own.
HEADERS: Final = (
    b"thread-id",
    b"x-session-id",
    b"x-session-affinity",
    b"x-claude-code-session-id",
    b"x-deepseek-harness-session-id",
    b"session-id",
)
FIELDS: Final = ("session_id", "prompt_cache_key")
LONGEST: Final = 256
DRY_RUN: Final = b"x-faregate-dry-run"
_ASKED: Final = frozenset((*HEADERS, DRY_RUN))


def hints(headers: Headers) -> tuple[str, bool]:
    """The digest of the session that headers name ("": none does), and whether a dry run is asked for; raises InvalidRequest.

    Most requests have none of these headers: one look tells.
    """
    if _ASKED.isdisjoint(headers):
        return "", False
    found = (headers[name] for name in HEADERS if name in headers)
    return next((_digest(name) for name in found if _is_name(name)), ""), _dry_run(headers)


def of_fields(body: dict[str, Any]) -> str:
    """The digest of the session that a field names, "" where none does."""
    for field in FIELDS:
        value = body.get(field)
        if type(value) is str and value.isascii() and _is_name(value.encode()):
            return _digest(value.encode())
    return ""


def _is_name(value: bytes) -> bool:
    return 0 < len(value) <= LONGEST and value.isascii() and value.decode().isprintable() and not value.isspace()


def _digest(name: bytes) -> str:
    return blake2b(name, digest_size=16).hexdigest()


def _dry_run(headers: Headers) -> bool:
    value = headers.get(DRY_RUN, b"0")
    if value not in (b"0", b"1"):
        raise InvalidRequest("x-faregate-dry-run must be 1 (explain what would be done, and do nothing) or 0.", param=DRY_RUN.decode())
    return value == b"1"
