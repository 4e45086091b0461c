"""What a host's refusal means to the client, status by status."""

from __future__ import annotations

import pytest

from gateway.clock import parse_instant
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
from gateway.gate import Trouble
from gateway.host_errors import refusal, seconds, stated, trouble


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
        (408, "late", UpstreamTimeout, 504),
        (504, "late", UpstreamTimeout, 504),
        (524, "late", UpstreamTimeout, 504),
        (529, "overloaded", UpstreamError, 502),
    ],
)
def test_each_status_has_one_meaning_and_only_a_time_out_may_be_billed(
    status: int, message: str, kind: type[FaregateError], client_status: int
) -> None:
    error = refusal("novita", status, HostError(status, None, message))
    assert type(error) is kind
    assert error.status == client_status
    assert error.billed == (kind is UpstreamTimeout)


NOW = parse_instant("2026-11-20T12:00:00Z")


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("900", 60),
        ("Fri, 20 Nov 2026 12:00:09 GMT", 9),
        ("Friday, 20-Nov-26 12:00:09 GMT", 9),
        ("Fri Nov 20 12:00:09 2026", 9),
        ("Fri, 20 Nov 2026 14:00:09 +0200", 9),
        ("Fri, 20 Nov 2026 23:00:00 GMT", 60),
        # A date that is past: at once.
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        # Nonsense says nothing.
        (None, None),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
        ("\u00b2", None),
        ("9" * 5000, None),
        ("Fri, 99 Nov 2026 12:00:09 GMT", None),
        ("Fri, 20 Nov 99999 12:00:09 GMT", None),
        ("(" * 30, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wait: int | None) -> None:
    assert seconds(header, NOW) == wait


def test_the_wait_of_a_refusal_is_the_client_s_and_the_host_s() -> None:
    error = refusal("nebius", 429, HostError(429, None, ""), "Fri, 20 Nov 2026 12:00:09 GMT", NOW)
    assert error.retry_after == 9
    assert error.refused == Refused(429, wait=9)
    assert refusal("nebius", 429, HostError(429, None, "")).refused == Refused(429)


def test_deepseek_says_how_many_requests_the_balance_pays_for() -> None:
    said = (
        "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 based on your remaining "
        "balance. Please top up your balance to restore your concurrency."
    )
    assert refusal("deepseek", 429, HostError(429, None, said)).refused == Refused(429, limit=25)
    assert refusal("deepseek", 429, HostError(429, None, "You are over your concurrency limit of 25")).refused == Refused(429)


def test_what_was_written_is_not_the_fault_of_the_key() -> None:
    error = refusal("openrouter", 403, HostError(403, "content_policy_violation", "Your input was flagged"))
    assert type(error) is InvalidRequest
    assert error.refused is None
    assert "flagged" in error.message


MANY = "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 12000."


@pytest.mark.parametrize(
    ("status", "code", "message", "witness"),
    [
        (402, None, MANY, False),
        (404, None, "No endpoints found that support tool use.", False),
        (404, None, "No endpoints found that can handle the requested parameters.", False),
        (403, PAGE, "The host answered 403 with a web page.", True),
    ],
)
def test_what_one_host_does_not_serve_is_the_request_s_and_another_may_take_it(
    status: int, code: str | None, message: str, witness: bool
) -> None:
    error = refusal("openrouter", status, HostError(status, code, message))
    assert type(error) is NotServed
    assert (error.status, error.code, error.billed) == (400, "invalid_request", False)
    # Firewalls also refuse whoever comes from an address: one caller's word is not enough, and several callers' are.
    assert trouble(error) == (Trouble("locked", free=True, sure=False) if witness else None)


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (HostError(None, "content_filter", "The response was filtered"), InvalidRequest, None),
        (HostError(403, None, "Input flagged by moderation"), InvalidRequest, None),
        (HostError(400, None, "bad tool schema"), InvalidRequest, None),
        (HostError(None, None, "This model's maximum context length is 65536 tokens."), ContextExceeded, None),
        (HostError(403, None, "Request blocked"), UpstreamError, Trouble("locked", free=True, sure=False)),
        (HostError(429, None, "slow down"), RateLimited, Trouble("busy", free=True)),
        (HostError(None, None, "oops"), UpstreamError, Trouble("failed", free=True)),
    ],
)
def test_an_error_in_an_answer_means_what_it_means_as_a_refusal(error: HostError, kind: type[FaregateError], what: Trouble | None) -> None:
    found = stated("openrouter", error)
    assert type(found) is kind
    assert trouble(found) == what


def test_the_time_that_a_client_took_to_read_is_not_the_host_s() -> None:
    error = UpstreamTimeout("x", dispatched=True)
    error.slow_client = True
    assert trouble(error) is None


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
