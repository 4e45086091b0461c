"""What a host's refusal means to the client, status by status."""

from __future__ import annotations

import pytest

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
from gateway.host_errors import refusal


@pytest.mark.parametrize(
    ("status", "message", "kind", "client_status"),
    [
        (400, "Invalid max_tokens value", InvalidRequest, 400),
        (400, "This model's maximum context length is 65536 tokens.", ContextExceeded, 400),
        (400, "request (13392 tokens) exceeds the available context size (8192 tokens)", ContextExceeded, 400),
        (422, "bad", InvalidRequest, 400),
        (401, "Your api key: ****e78f is invalid", UpstreamError, 502),
        (402, "Insufficient Balance", UpstreamError, 502),
        (403, "no", UpstreamError, 502),
        (404, "no such model", ModelNotFound, 404),
        (413, "too big", BodyTooLarge, 413),
        (429, "slow down", RateLimited, 429),
        (302, "", UpstreamError, 502),
        (500, "oops", UpstreamError, 502),
        (503, "busy", UpstreamError, 502),
        (504, "late", UpstreamTimeout, 504),
        (529, "overloaded", UpstreamError, 502),
    ],
)
def test_each_status_has_one_meaning_and_nothing_is_billed(
    status: int, message: str, kind: type[FaregateError], client_status: int
) -> None:
    error = refusal("novita", status, HostError(status, None, message))
    assert type(error) is kind
    assert error.status == client_status
    assert not error.billed


def test_a_refused_key_says_nothing_of_the_key() -> None:
    error = refusal("deepseek", 401, HostError(401, None, "Your api key: ****e78f is invalid"))
    assert "e78f" not in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("900", 60), (None, 1), ("Wed, 21 Oct 2015 07:28:00 GMT", 1), ("-3", 1), ("\u00b2", 1), ("9" * 5000, 1)],
)
def test_retry_after_is_bounded(header: str | None, seconds: int) -> None:
    error = refusal("nebius", 429, HostError(429, None, ""), header)
    assert error.retry_after == seconds
