"""What a host's HTTP refusal means to the client. Nothing was billed for it; its body is never passed on as it is."""

from __future__ import annotations

import re

from gateway.dialects import HostError
from gateway.errors import (
    BodyTooLarge,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    UpstreamError,
    UpstreamTimeout,
)

# Texts by which hosts and engines say that a prompt does not fit; not to be tried again at the same context size.
OVERFLOW = (
    "maximum context length",
    "longer than the model's context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "context_length_exceeded",
    "exceeds the context length",
    "model context length",
)
LONGEST_WAIT = 60


def overflow(error: HostError) -> bool:
    """Whether the request is too long for this host, as it stands."""
    text = f"{error.code or ''} {error.message}".lower()
    return any(mark in text for mark in OVERFLOW)


def refusal(host: str, status: int, error: HostError, retry_after: str | None = None) -> FaregateError:
    """The error that the client gets for a host's answer with this status."""
    message = error.message
    said = f" {host} says: {message}" if message and status not in {401, 403} else ""
    if status in {400, 413, 422} and overflow(error):
        return ContextExceeded(message)
    if status in {400, 422}:
        return InvalidRequest(message or f"{host} refused the request without a reason.")
    if status == 404:
        return ModelNotFound(f"{host} does not know the model.{said}", param="model")
    if status == 413:
        return BodyTooLarge(f"The request is too large for {host}.{said}")
    if status == 429:
        return RateLimited(f"{host} limits the rate.{said}", retry_after=seconds(retry_after))
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


def seconds(retry_after: str | None) -> int:
    """A Retry-After in seconds, at most a minute; a date or nonsense counts as one second."""
    text = (retry_after or "").strip()
    return min(int(text), LONGEST_WAIT) if re.fullmatch(r"[0-9]{1,9}", text) else 1
