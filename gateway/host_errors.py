"""What a host's refusal means: to the client, and for the host's own health. Nothing was billed for it, unless it is a time-out, whose
work may have gone on, or says itself what it used; its body is never passed on as it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil

from gateway.dialects import PAGE, HostError
from gateway.errors import (
    BodyTooLarge,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    ModelNotFound,
    NotServed,
    RateLimited,
    Refused,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.gate import Kind, Trouble
from gateway.outcome import Status

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
FORBIDDEN = (
    "moderation",
    "flagged",
    "content_policy",
    "content policy",
    "content_filter",
    "content filter",
    "safety",
    "guardrail",
    "refusal",
    "invalid_prompt",
)
# Texts by which a host refuses a request as it stands, where another host, or another request here, is served.
UNSERVED = ("fewer max_tokens", "can only afford", "no endpoints found that support", "no endpoints found that can handle")
# Texts by which a host says that the account has no money, so that it is no matter of what was asked.
BROKE = ("insufficient balance", "insufficient credit", "insufficient funds", "not enough balance", "not_enough_balance", "out of credits")
# How DeepSeek says how many requests at a time the balance pays for.
BALANCE = re.compile(r"concurrency limit of ([0-9]{1,6})\b.*\bbalance\b", re.IGNORECASE | re.DOTALL)
LONGEST_WAIT = 60
KINDS: dict[int, Kind] = {401: "locked", 402: "unpaid", 403: "locked", 404: "missing", 408: "late", 429: "busy", 504: "late", 524: "late"}
# Somebody on the way has given up waiting; the host behind it may have worked, and bill what it did.
TIMED_OUT = frozenset({408, 504, 524})
# What a host says of the request, not of itself.
REQUESTS = frozenset({400, 413, 422})
# What may be the fault of the request, of the key or of the row: one caller's word is not enough.
DOUBTFUL = frozenset({402, 403, 404})


def overflow(error: HostError) -> bool:
    """Whether the request is too long for this host, as it stands."""
    text = f"{error.code or ''} {error.message}".lower()
    return any(mark in text for mark in OVERFLOW)


def refusal(host: str, status: int, error: HostError, retry_after: str | None = None, at: datetime | None = None) -> FaregateError:
    """The error that the client gets for a host's answer with this status; `at` is now, for a Retry-After that is a date."""
    found = _refusal(host, status, error, seconds(retry_after, at))
    found.refused = refused(status, error, seconds(retry_after, at))
    return found


def stated(host: str, error: HostError) -> FaregateError:
    """The same for an error that stands in an answer with status 200, before any of its content."""
    status = 400 if overflow(error) else error.status or (403 if forbidden(error) else 500)
    return refusal(host, status, error)


def refused(status: int | None, error: HostError, wait: int | None = None) -> Refused | None:
    """What the refusal says of the host itself; None where it says nothing."""
    if status is None or (status in DOUBTFUL and (unserved(error) or (status == 403 and forbidden(error)))):
        return None
    limit = BALANCE.search(error.message) if status == 429 else None
    return Refused(status, wait, int(limit[1]) if limit else None, status in {402, 403} and _says(error, BROKE))


def trouble(failure: Exception) -> Trouble | None:
    """What a failed dispatch says of its host; None where the fault is the request's, the client's or ours."""
    if not isinstance(failure, FaregateError):
        return None
    said = failure.refused
    if said is None:
        if isinstance(failure, UpstreamTimeout):
            return None if failure.slow_client else Trouble("late", free=not failure.billed)
        return Trouble("failed", free=not failure.billed) if isinstance(failure, UpstreamError) else None
    if said.status in REQUESTS:
        return None
    if said.limit is not None:
        return Trouble("balance", said.wait, said.limit, free=True)
    if said.broke:
        return Trouble("unpaid", said.wait, free=not failure.billed)
    return Trouble(KINDS.get(said.status, "failed"), said.wait, free=not failure.billed, sure=said.status not in DOUBTFUL)


def weight(failure: FaregateError) -> int:
    """How much an error tells: what may have been paid for, what the request can mend, when to come again, and only then the rest."""
    if failure.billed:
        return 6
    order: tuple[tuple[type[FaregateError], int], ...] = (
        (ContextExceeded, 2), (BodyTooLarge, 2), (NotServed, 2), (InvalidRequest, 5), (RateLimited, 4), (ModelNotFound, 0),
    )  # fmt: skip
    weight = next((weight for kind, weight in order if isinstance(failure, kind)), None)
    if weight is not None:
        return weight
    return 3 if not failure.retry else 1


def refused_status(error: FaregateError) -> Status:
    """What it is counted as, in the ledger and in metrics."""
    by_status: dict[int, Status] = {402: "denied", 403: "denied", 429: "rate_limited"}
    if error.status in by_status:
        return by_status[error.status]
    return "client_error" if error.fault == "caller" else "gateway_error"


def _refusal(host: str, status: int, error: HostError, wait: int | None) -> FaregateError:
    message = error.message
    said = f" {host} says: {message}" if message and (status not in {401, 403} or forbidden(error)) else ""
    if status in {400, 413, 422} and overflow(error):
        return ContextExceeded(message)
    if status in {400, 422}:
        return InvalidRequest(message or f"{host} refused the request without a reason.")
    if status in DOUBTFUL and unserved(error):
        return NotServed(f"{host} does not serve this request as it stands.{said}")
    if status == 403 and forbidden(error):
        return InvalidRequest(f"{host} refused what was written.{said}")
    if status == 403 and error.code == PAGE:
        return NotServed(f"{host} refused the request with a web page, as firewalls do that dislike what is written.")
    if status == 404:
        return ModelNotFound(f"{host} does not know the model.{said}", param="model")
    if status == 413:
        return BodyTooLarge(f"The request is too large for {host}.{said}")
    if status == 429:
        return RateLimited(f"{host} limits the rate.{said}", retry_after=1 if wait is None else wait)
    if status in TIMED_OUT:
        return UpstreamTimeout(f"{host} timed out.{said}", dispatched=True)
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


def forbidden(error: HostError) -> bool:
    """Whether it is about what was written, not about who asks."""
    return _says(error, FORBIDDEN)


def unserved(error: HostError) -> bool:
    """Whether it is about this request at this host: what it asks for, or how much."""
    return _says(error, UNSERVED)


def _says(error: HostError, marks: tuple[str, ...]) -> bool:
    text = f"{error.code or ''} {error.message}".lower()
    return any(mark in text for mark in marks)


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
