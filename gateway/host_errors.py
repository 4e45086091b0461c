"""What a host's refusal means: to the client, and for the host's own health. Nothing was billed for it; its body is never passed
on as it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil

from gateway.dialects import HostError
from gateway.errors import (
    BodyTooLarge,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    Refused,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.health import Kind, Trouble

# Texts by which hosts and engines say that a prompt does not fit; not to be tried again at the same context size.
OVERFLOW = (
    "maximum context length",
    "longer than the model's context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "context_length_exceeded",
    "exceeds the context length",
    "model context length",
    "input is too long",
)
# Texts by which a host refuses what was written, not who asks.
FORBIDDEN = ("moderation", "flagged", "content_policy", "content policy", "safety", "guardrail", "refusal", "invalid_prompt")
# How DeepSeek says how many requests at a time the balance pays for.
BALANCE = re.compile(r"concurrency limit of ([0-9]{1,6})\b.*\bbalance\b", re.IGNORECASE | re.DOTALL)
LONGEST_WAIT = 60
KINDS: dict[int, Kind] = {401: "locked", 402: "unpaid", 403: "locked", 404: "missing", 429: "busy", 504: "late"}
# What a host says of the request, not of itself.
REQUESTS = frozenset({400, 413, 422})


def overflow(error: HostError) -> bool:
    """Whether the request is too long for this host, as it stands."""
    text = f"{error.code or ''} {error.message}".lower()
    return any(mark in text for mark in OVERFLOW)


def refusal(host: str, status: int, error: HostError, retry_after: str | None = None, at: datetime | None = None) -> FaregateError:
    """The error that the client gets for a host's answer with this status; `at` is now, for a Retry-After that is a date."""
    found = _refusal(host, status, error, seconds(retry_after, at))
    found.refused = refused(status, error, seconds(retry_after, at))
    return found


def refused(status: int | None, error: HostError, wait: int | None = None) -> Refused | None:
    """What the refusal says of the host itself; None where it says nothing."""
    if status is None or (status == 403 and _forbidden(error)):
        return None
    limit = BALANCE.search(error.message) if status == 429 else None
    return Refused(status, wait, int(limit[1]) if limit else None)


def trouble(failure: Exception) -> Trouble | None:
    """What a failed dispatch says of its host; None where the fault is the request's, the client's or ours."""
    if not isinstance(failure, FaregateError):
        return None
    said = failure.refused
    if said is None:
        if isinstance(failure, UpstreamTimeout):
            return Trouble("late", free=not failure.billed)
        return Trouble("failed", free=not failure.billed) if isinstance(failure, UpstreamError) else None
    if said.status in REQUESTS:
        return None
    if said.limit is not None:
        return Trouble("balance", said.wait, said.limit, free=True)
    return Trouble(KINDS.get(said.status, "failed"), said.wait, free=not failure.billed)


def _refusal(host: str, status: int, error: HostError, wait: int | None) -> FaregateError:
    message = error.message
    said = f" {host} says: {message}" if message and (status not in {401, 403} or _forbidden(error)) else ""
    if status in {400, 413, 422} and overflow(error):
        return ContextExceeded(message)
    if status in {400, 422}:
        return InvalidRequest(message or f"{host} refused the request without a reason.")
    if status == 403 and _forbidden(error):
        return InvalidRequest(f"{host} refused what was written.{said}")
    if status == 404:
        return ModelNotFound(f"{host} does not know the model.{said}", param="model")
    if status == 413:
        return BodyTooLarge(f"The request is too large for {host}.{said}")
    if status == 429:
        return RateLimited(f"{host} limits the rate.{said}", retry_after=1 if wait is None else wait)
    if status == 504:
        return UpstreamTimeout(f"{host} timed out.{said}", dispatched=True, billed=False)
    return UpstreamError(_why(host, status) + said, dispatched=True, billed=False)


def _why(host: str, status: int) -> str:
    if status in {401, 403}:
        # The host's text may quote the key that we sent.
        return f"{host} refused the gateway's own key; the operator must mend it."
    if status == 402:
        return f"The gateway's account at {host} has no balance; the operator must top it up."
    if 300 <= status < 400:
        return f"{host} answered with a redirect, which is never followed."
    return f"{host} failed with status {status}."


def _forbidden(error: HostError) -> bool:
    text = f"{error.code or ''} {error.message}".lower()
    return any(mark in text for mark in FORBIDDEN)


def seconds(retry_after: str | None, at: datetime | None = None) -> int | None:
    """A Retry-After in seconds, at most a minute: a number, or a date as seen from `at` (one that is past: 0); None for nonsense."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(int(text), LONGEST_WAIT)
    if at is None or not text.isascii() or len(text) > 40:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # Without a zone it is GMT, as every date of HTTP.
    left = (date if date.tzinfo else date.replace(tzinfo=UTC)) - at
    return min(max(0, ceil(left.total_seconds())), LONGEST_WAIT)
