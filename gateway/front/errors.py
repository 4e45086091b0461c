"""Errors on the wire: the only place where a FaregateError becomes a status, headers and OpenAI's JSON."""

from __future__ import annotations

from typing import Any

from gateway.errors import FaregateError, InvalidRequest
from gateway.front.wire import JSON, Fields, Send, dump, request_id

TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
PHRASES = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}


class PathNotFound(FaregateError):
    fault = "caller"
    status = 404
    code = "not_found"


class MethodNotAllowed(FaregateError):
    fault = "caller"
    status = 405
    code = "method_not_allowed"


class HeadersTooLarge(InvalidRequest):
    status = 431


def body(error: FaregateError) -> dict[str, Any]:
    """OpenAI's error object, with `details` where there are any."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    inner: dict[str, Any] = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    if error.details is not None:
        inner["details"] = error.details
    return {"error": inner}


def fields(error: FaregateError, dispatched: bool = False) -> Fields:
    """Headers that tell an SDK whether to send the request again: never when that is useless, or would be paid twice."""
    found: Fields = []
    if dispatched or not error.retry:
        found.append((b"x-should-retry", b"false"))
    if error.retry_after is not None:
        found.append((b"retry-after", b"%d" % error.retry_after))
    return found


async def send_refusal(send: Send, error: FaregateError, id: str) -> None:
    """A refusal of a request that was not read: the connection ends with it."""
    data = dump(body(error))
    headers = [JSON, (b"content-length", b"%d" % len(data)), (b"x-request-id", id.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers + fields(error)})
    await send({"type": "http.response.body", "body": data})


def answer_bytes(error: FaregateError) -> bytes:
    """The whole HTTP/1.1 answer to bytes that are no request."""
    data = dump(body(error))
    lines = [
        b"HTTP/1.1 %d %s" % (error.status, PHRASES.get(error.status, b"Error")),
        b"content-type: application/json",
        b"content-length: %d" % len(data),
        b"x-request-id: " + request_id().encode(),
        b"x-should-retry: false",
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", data])
