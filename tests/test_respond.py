"""The responder: one answer, started once and ended once, and every error in the shape and with the headers that SDKs act on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import errors
from gateway.errors import FaregateError
from gateway.front.cycle import Gone
from gateway.front.respond import Responder
from gateway.front.wire import Message


class Wire:
    """What the responder wrote, as ASGI messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.responder = Responder({}, self.send, "req-1", [(b"x-faregate-clock", b"then")])

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def whole(self) -> bool:
        return not self.messages[-1].get("more_body", False)


# error, status, code, type, may the same request be sent again
ERRORS: list[tuple[FaregateError, int, str, str, bool]] = [
    (errors.InvalidRequest("a", param="n"), 400, "invalid_request", "invalid_request_error", False),
    (errors.ContextExceeded("a"), 400, "context_exceeded", "invalid_request_error", False),
    (errors.NotServed("a"), 400, "invalid_request", "invalid_request_error", False),
    (errors.InvalidKey("a"), 401, "invalid_key", "authentication_error", False),
    (errors.BudgetExceeded("a", details={"budget": "month"}), 402, "budget_exceeded", "insufficient_quota", False),
    (errors.NotAllowed("a"), 403, "not_allowed", "permission_error", False),
    (errors.ModelNotFound("a"), 404, "model_not_found", "invalid_request_error", False),
    (errors.InFlight("a", retry_after=1), 409, "in_flight", "invalid_request_error", True),
    (errors.AlreadyDone("a", details={"id": "req-0"}), 409, "already_done", "invalid_request_error", False),
    (errors.IdempotencyMismatch("a"), 422, "idempotency_mismatch", "invalid_request_error", False),
    (errors.BodyTooLarge("a"), 413, "body_too_large", "invalid_request_error", False),
    (errors.EncodingUnsupported("a"), 415, "encoding_unsupported", "invalid_request_error", False),
    (errors.RateLimited("a", retry_after=7), 429, "rate_limited", "rate_limit_error", True),
    (errors.UpstreamError("a", dispatched=True), 502, "upstream_error", "api_error", False),
    (errors.UpstreamError("a", dispatched=False), 502, "upstream_error", "api_error", True),
    (errors.UpstreamTimeout("a", dispatched=True), 504, "upstream_timeout", "api_error", False),
    (errors.NoDeployment("a"), 503, "no_deployment", "api_error", True),
    (errors.LedgerUnavailable("a", retry_after=1), 503, "ledger_unavailable", "api_error", True),
    (errors.Overloaded("a"), 503, "overloaded", "api_error", True),
    (errors.PriceUnknown("a"), 503, "price_unknown", "api_error", False),
    (FaregateError("a"), 500, "internal_error", "api_error", False),
]


def test_no_error_is_left_out() -> None:
    every = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FaregateError)}
    assert every - {type(error).__name__ for error, *_ in ERRORS} == {"InternalError"}


@pytest.mark.parametrize(("error", "status", "code", "kind", "again"), ERRORS)
async def test_an_error_before_the_start_is_a_whole_answer(error: FaregateError, status: int, code: str, kind: str, again: bool) -> None:
    wire = Wire()
    await wire.responder.error(error, {"x-faregate-host": "novita"})

    expected: dict[str, Any] = {"message": "a", "type": kind, "param": error.param, "code": code}
    if error.details:
        expected["details"] = error.details
    assert wire.status == status and wire.whole and wire.responder.finished
    assert json.loads(wire.body) == {"error": expected}
    assert wire.headers["content-length"] == str(len(wire.body))
    assert wire.headers["x-request-id"] == "req-1" and wire.headers["x-faregate-host"] == "novita"
    assert wire.headers.get("x-should-retry") == (None if again else "false")
    assert wire.headers.get("retry-after") == (str(error.retry_after) if error.retry_after else None)


async def test_no_error_after_dispatch_invites_a_second_payment() -> None:
    wire = Wire()
    wire.responder.dispatched = True
    await wire.responder.error(errors.LedgerUnavailable("a"))
    assert wire.headers["x-should-retry"] == "false"


async def test_an_error_inside_a_stream_is_its_last_event() -> None:
    wire = Wire()
    await wire.responder.start_stream({})
    await wire.responder.send(b"data: 1\n\n")
    await wire.responder.error(errors.UpstreamError("a", dispatched=True))
    first, last, rest = wire.body.split(b"\n\n")
    assert (first, rest) == (b"data: 1", b"")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    assert wire.whole


async def test_an_error_after_the_start_of_a_whole_answer_is_its_json() -> None:
    wire = Wire()
    await wire.responder.start_whole({"x-faregate-host": "deepseek"})
    await wire.responder.send(b"\n")
    await wire.responder.error(errors.UpstreamError("a", dispatched=True), {"x-faregate-host": "late"})
    assert wire.status == 200 and wire.headers["content-type"] == "application/json" and wire.headers["x-faregate-host"] == "deepseek"
    assert wire.body.startswith(b'\n{"error":') and json.loads(wire.body)["error"]["code"] == "upstream_error"
    assert "content-length" not in wire.headers and wire.whole and wire.responder.finished


async def test_a_stream_is_not_cached_and_not_buffered_on_its_way() -> None:
    wire = Wire()
    await wire.responder.start_stream({"x-faregate-edits": "drop_user"})
    assert wire.status == 200 and wire.responder.started
    assert wire.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-faregate-edits": "drop_user",
        "x-request-id": "req-1",
        "x-faregate-clock": "then",
    }


async def test_after_the_end_nothing_is_written() -> None:
    wire = Wire()
    await wire.responder.whole(200, {}, b"{}")
    before = len(wire.messages)
    await wire.responder.send(b"data: 1\n\n")
    await wire.responder.end()
    await wire.responder.error(FaregateError("a"))
    assert len(wire.messages) == before


async def test_an_answer_is_not_started_twice() -> None:
    wire = Wire()
    await wire.responder.start_stream({})
    with pytest.raises(RuntimeError):
        await wire.responder.whole(200, {}, b"{}")


async def test_another_content_type_replaces_json() -> None:
    wire = Wire()
    await wire.responder.whole(200, {"content-type": "text/plain"}, b"a")
    assert [value for name, value in wire.messages[0]["headers"] if name == b"content-type"] == [b"text/plain"]


def test_whoever_waits_for_a_departure_is_called_once_even_if_late() -> None:
    calls: list[str] = []
    gone = Gone()
    gone.then(lambda: calls.append("early"))
    gone.depart()
    gone.depart()
    gone.then(lambda: calls.append("late"))
    assert calls == ["early", "late"] and gone.departed
