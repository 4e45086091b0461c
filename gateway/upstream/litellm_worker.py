"""The worker in which litellm runs: Converse in, OpenAI's protocol out, on a socket that only its gateway can open.

A program of its own that imports nothing of ours: it is started with an interpreter that has the extra `litellm`, reads its
credentials as one line of JSON from standard input, and ends when that input ends, however the gateway ends. No object of litellm
leaves it. What litellm gets wrong is taken from the host's own bytes instead: usage (litellm invents what is missing), the stop
reason (it may turn a cut answer into a whole one), the status and text of an error, and whether anything was sent at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

# Before litellm is imported: no network at import, and no limit that would end a lawful answer of equal chunks.
SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "REPEATED_STREAMING_CHUNK_LIMIT": "1000000000",
}
HEAD_LIMIT = ERROR_LIMIT = 64 * 1024
# What a request may say; anything else is refused before it is sent.
FIELDS = frozenset(("model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "tools", "tool_choice"))
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
NO_END = "Bedrock's answer has no end that is known ({})."
NO_USAGE = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
# Statuses of AWS that mean something else in OpenAI's protocol: the model timed out; it failed; it is not ready.
STATUSES = {408: 504, 424: 502, 409: 503}
STREAM_STATUSES = {"throttlingException": 429, "validationException": 400, "serviceUnavailableException": 503}


class Unsent(Exception):
    """The host could not be reached; not an error of httpx, for which litellm would try again."""


@dataclass
class Seen:
    """What the host really said to one call. `begun`, `stop`, `usage` and `fault` come from its bytes.

    `sent`: from then on the host may bill the call, unless it refuses it with a status. `begun`: it has written something.
    """

    sent: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    late: bool = False
    begun: bool = False
    status: int = 0
    kind: str = ""
    text: str = ""
    retry_after: str | None = None
    stop: str | None = None
    usage: dict[str, Any] | None = None
    fault: dict[str, Any] | None = field(default=None)

    def refused(self, status: int, headers: Any, body: bytes) -> None:
        """An answer with an error status: `x-amzn-errortype: ThrottlingException:http://…` and `{"message": …}`."""
        self.status, self.retry_after = status, headers.get("retry-after")
        self.kind = headers.get("x-amzn-errortype", "").partition(":")[0]
        said = _object(body)
        self.text = self._fit(said.get("message") or said.get("Message") or "")

    def event(self, headers: dict[str, Any], payload: bytes) -> None:
        """One event of converse-stream."""
        kind = str(headers.get(":event-type") or headers.get(":exception-type") or headers.get(":error-code") or "")
        if headers.get(":message-type") in ("exception", "error"):
            said = _object(payload).get("message") or headers.get(":error-message") or "The model's stream broke off."
            self.fault = {"message": self._fit(said), "type": kind, "param": None, "code": STREAM_STATUSES.get(kind, 500)}
        elif kind in ("contentBlockStart", "contentBlockDelta"):
            self.begun = True
        elif kind == "messageStop":
            self.stop = str(_object(payload).get("stopReason") or "")
        elif kind == "metadata":
            self._count(_object(payload))

    def whole(self, data: bytes) -> bytes:
        """A whole answer of Converse, in the form that litellm can read: it fails on one without usage."""
        body = _object(data)
        self._count(body)
        self.stop = str(body["stopReason"]) if "stopReason" in body else None
        return data if self.usage or not body else json.dumps(body | {"usage": NO_USAGE}).encode()

    def _fit(self, said: object) -> str:
        """A text of the host's, without the credentials that it was sent."""
        return reduce(lambda text, secret: text.replace(secret, "[removed]"), self.secrets, str(said))[:2000]

    def _count(self, body: dict[str, Any]) -> None:
        """Usage, only where it is complete."""
        usage = body.get("usage")
        if isinstance(usage, dict) and type(usage.get("inputTokens")) is int and type(usage.get("outputTokens")) is int:
            self.usage = _usage(usage)

    @property
    def finish(self) -> str | None:
        return None if self.stop is None else FINISHES.get(self.stop)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _usage(said: dict[str, Any]) -> dict[str, Any]:
    """Converse counts cached tokens beside inputTokens; nothing that it does not say is added."""
    cached, written = said.get("cacheReadInputTokens"), said.get("cacheWriteInputTokens")
    prompt = said["inputTokens"] + (cached or 0) + (written or 0)
    usage = {"prompt_tokens": prompt, "completion_tokens": said["outputTokens"], "total_tokens": prompt + said["outputTokens"]}
    return usage if cached is None else usage | {"prompt_tokens_details": {"cached_tokens": cached}}


current: ContextVar[Seen] = ContextVar("current")


class Engine:
    """litellm, imported once and told to leave everything to us that is ours."""

    def __init__(self, config: dict[str, Any]) -> None:
        os.environ.update(SETTINGS)
        import httpx
        import litellm
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

        litellm.telemetry = False
        litellm.suppress_debug_info = True
        litellm.drop_params = False
        litellm.num_retries = 0
        litellm.turn_off_message_logging = True
        limit, total = float(config["connect"]), float(config["total"])
        self._timeout = httpx.Timeout(total, connect=limit, pool=limit)
        self._client = AsyncHTTPHandler(timeout=self._timeout, transport=tap(httpx), follow_redirects=False)
        self._completion = litellm.acompletion
        # Where it names no key, the AWS library finds one by the variables that came with it: a role's, which it renews by itself.
        self._account = config["account"]

    async def ask(self, body: dict[str, Any]) -> Any:
        """litellm's answer: an object, or an iterator of chunks. Once, without any retry."""
        fields = {name: value for name, value in body.items() if name not in ("model", "stream_options")}
        return await self._completion(
            model=f"bedrock/converse/{body['model']}",
            client=self._client,
            timeout=self._timeout,
            num_retries=0,
            max_retries=0,
            drop_params=False,
            **self._account,
            **fields,
        )


def tap(httpx: Any) -> Any:
    """The transport of all calls, which notes what really came. Made by a function because httpx comes with the extra."""
    from botocore.eventstream import EventStreamBuffer

    class Tapped(httpx.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, seen: Seen, events: bool) -> None:
            self._stream, self._seen, self._events = stream, seen, events

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                if not self._events:
                    yield self._seen.whole(b"".join([data async for data in self._stream]))
                    return
                buffer = EventStreamBuffer()
                async for data in self._stream:
                    buffer.add_data(data)
                    for event in buffer:
                        self._seen.event(event.headers, event.payload)
                    yield data
            except httpx.TimeoutException:
                self._seen.late = True
                raise

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Tap(httpx.AsyncBaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inner = httpx.AsyncHTTPTransport(retries=0, limits=httpx.Limits(max_connections=None, max_keepalive_connections=20))

        async def handle_async_request(self, request: Any) -> Any:
            seen = current.get()
            signer = request.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
            seen.sent, seen.secrets = True, tuple(filter(None, (signer, request.headers.get("x-amz-security-token"))))
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                seen.sent, seen.late = False, isinstance(error, httpx.TimeoutException)
                raise Unsent(type(error).__name__) from None
            except httpx.TimeoutException:
                seen.late = True
                raise
            if response.status_code != 200:
                return await self._refused(seen, response, request)
            stream = Tapped(response.stream, seen, "eventstream" in response.headers.get("content-type", ""))
            return httpx.Response(200, headers=response.headers, stream=stream, extensions=response.extensions)

        async def _refused(self, seen: Seen, response: Any, request: Any) -> Any:
            body = bytearray()
            try:
                async for data in response.stream:
                    body += data[: ERROR_LIMIT - len(body)]
            finally:
                # A refusal is one also where its text breaks off.
                seen.refused(response.status_code, response.headers, bytes(body))
                await response.stream.aclose()
            return httpx.Response(response.status_code, headers={"content-type": "application/json"}, content=bytes(body), request=request)

    return Tap()


# ---- one call


class Refusal(Exception):
    """What the gateway hears instead of an answer: a status of AWS, which bills nothing for it.

    `unsent`: nothing has reached AWS, `refused` or `timeout`. `billed`: AWS has the request and may bill it, `broken` or `timeout`.
    """

    def __init__(
        self, status: int, message: str, kind: str = "", unsent: str = "", billed: str = "", retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind or None, "param": None, "code": status}}
        self.headers = {"x-faregate-unsent": unsent, "x-faregate-billed": billed, "retry-after": (retry_after or "").strip()[:40]}


class Spoilt(Refusal):
    """An answer that cannot be given although AWS has worked on it: with status 200, beside what shows the work: usage, choices."""

    def __init__(self, refusal: Refusal, shown: dict[str, Any]) -> None:
        super().__init__(200, "")
        self.body = refusal.body | shown


def refusal_of(seen: Seen, error: Exception) -> Refusal:
    """The host's own words where it said any; litellm's only about a request that it would not send."""
    name, status = type(error).__name__, STATUSES.get(seen.status, seen.status)
    if seen.status:
        return Refusal(status, seen.text or f"Bedrock answered {seen.status}.", seen.kind, retry_after=seen.retry_after)
    if seen.sent:
        broken = Refusal(504 if seen.late else 502, f"Bedrock's answer broke off ({name}).", billed="timeout" if seen.late else "broken")
        return Spoilt(broken, {"usage": seen.usage}) if seen.usage else broken
    if seen.late:
        return Refusal(504, "Bedrock could not be reached in time.", unsent="timeout")
    said: Any = getattr(error, "status_code", None)
    if name == "UnsupportedParamsError" and said == 400:
        text = str(error).removeprefix("litellm.UnsupportedParamsError: ").partition(". To drop")[0][:300]
        return Refusal(400, f"Converse cannot carry this request: {text}.", "invalid_request_error", unsent="refused")
    if said == 400:
        return Refusal(400, "The messages cannot be put into Converse's form.", "invalid_request_error", unsent="refused")
    return Refusal(502, "Bedrock could not be reached.", unsent="refused")


def checked(data: bytes) -> dict[str, Any]:
    """The body of a request; raises Refusal for one that Converse could not carry."""
    body = _object(data)
    unknown = sorted(set(body) - FIELDS)
    if not body.get("model") or not isinstance(body.get("messages"), list) or unknown:
        text = f"Converse has no field {unknown[0]}." if unknown else "The request has no model or no messages."
        raise Refusal(400, text, "invalid_request_error", unsent="refused")
    return body


def head_of(status: int, kind: str, extra: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Worker", f"content-type: {kind}", "transfer-encoding: chunked", "connection: close"]
    lines += [f"{name}: {value}" for name, value in extra.items() if value]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def piece(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


class Call:
    """One request and its answer on the wire to the gateway."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self._engine, self._writer = engine, writer
        self._seen = Seen()
        self._id, self._created = "", int(time.time())

    async def run(self, data: bytes) -> None:
        current.set(self._seen)
        try:
            await self._answer(checked(data))
        except Refusal as refusal:
            self._put_whole(refusal.status, refusal.body, refusal.headers)
        await self._writer.drain()

    async def _answer(self, body: dict[str, Any]) -> None:
        try:
            answer = await self._engine.ask(body)
            whole = {} if body.get("stream") else self._whole(answer, body["model"])
        except Refusal:
            raise
        except Exception as error:
            raise refusal_of(self._seen, error) from None
        if whole:
            self._put_whole(200, whole, {})
        else:
            await self._stream(answer, body["model"])

    def _whole(self, answer: Any, model: str) -> dict[str, Any]:
        """The answer with the end that the host itself stated; raises Refusal where it stated none that is known."""
        seen, said = self._seen, answer.choices[0].message
        message: dict[str, Any] = {"role": "assistant", "content": said.content or "", **_parts(said)}
        shown: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": seen.finish}]}
        shown |= {"usage": seen.usage} if seen.usage else {}
        if seen.finish is None:
            refusal = Refusal(502, NO_END.format(seen.stop), billed="broken")
            raise Spoilt(refusal, shown) if seen.usage or told(message) else refusal
        return {"id": str(answer.id), "object": "chat.completion", "created": self._created, "model": model} | shown

    def _put_whole(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        self._writer.write(head_of(status, "application/json", headers) + piece(data) + piece(b""))

    async def _stream(self, answer: Any, model: str) -> None:
        self._writer.write(head_of(200, "text/event-stream", {}))
        first, shown, fault = True, False, None
        try:
            async for chunk in answer:
                self._id = self._id or str(chunk.id)
                delta = delta_of(chunk)
                if delta:
                    self._put(model, {"role": "assistant", **delta} if first else delta)
                    first, shown = False, shown or told(delta)
                    await self._writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            fault = {"message": f"Bedrock's stream broke off ({type(error).__name__}).", "type": "upstream_error", "code": 502}
        if fault is None and self._seen.finish is None:
            # A stream that merely stops has failed, whatever litellm makes of it.
            fault = {"message": NO_END.format(self._seen.stop), "type": "upstream_error", "code": 502}
        if self._seen.fault or fault:
            self._fail(self._seen.fault, fault, shown)
        else:
            self._end(model)

    def _fail(self, stated: dict[str, Any] | None, fault: dict[str, Any] | None, shown: bool) -> None:
        """The end of a stream that has failed, with the host's bill where it gave one; `stated`: the host's own error.

        An error before any text says that nothing was billed. So where the host may have worked all the same, none is sent: the
        stream breaks off, as the host's did.
        """
        usage = self._seen.usage
        if usage or shown or (stated and not self._seen.begun):
            self._writer.write(piece(event({"error": stated or fault} | ({"usage": usage} if usage else {}))))
        self._writer.write(piece(b""))

    def _end(self, model: str) -> None:
        """The end that the host itself stated."""
        self._put(model, {}, self._seen.finish)
        if self._seen.usage:
            self._writer.write(piece(event(self._frame(model) | {"choices": [], "usage": self._seen.usage})))
        self._writer.write(piece(b"data: [DONE]\n\n") + piece(b""))

    def _frame(self, model: str) -> dict[str, Any]:
        return {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": model}

    def _put(self, model: str, delta: dict[str, Any], finish: str | None = None) -> None:
        self._writer.write(piece(event(self._frame(model) | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})))


def told(said: dict[str, Any]) -> bool:
    """Whether a message or delta has text by which the gateway sees that the host has worked."""
    return bool(said.get("content") or said.get("reasoning_content"))


def delta_of(chunk: Any) -> dict[str, Any]:
    """What one of litellm's chunks adds; its own extras, signatures and counts are left behind."""
    if not chunk.choices:
        return {}
    said = chunk.choices[0].delta
    content = getattr(said, "content", None)
    return ({"content": content} if content else {}) | _parts(said)


def _parts(said: Any) -> dict[str, Any]:
    reasoning, calls = getattr(said, "reasoning_content", None), getattr(said, "tool_calls", None)
    parts: dict[str, Any] = {"reasoning_content": reasoning} if reasoning else {}
    return parts | ({"tool_calls": list(_calls(calls))} if calls else {})


def _calls(calls: Any) -> Iterator[dict[str, Any]]:
    for call in calls:
        function = {"name": call.function.name, "arguments": call.function.arguments}
        yield {"index": getattr(call, "index", 0), "id": call.id, "type": "function", "function": function}


# ---- the socket


async def handle(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request of a connection; a gateway that closes it early ends the call, and with it the host's stream."""
    try:
        data = await read_request(reader)
        answering = asyncio.ensure_future(Call(engine, writer).run(data))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, leaving):
            task.cancel()
        for task in (answering, leaving):
            with suppress(asyncio.CancelledError, ConnectionError):
                await task
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length))


async def serve(path: str, config: dict[str, Any]) -> None:
    """Serve until standard input ends; says `ready` on standard output once it listens."""
    engine = Engine(config)
    connected: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connected.add(task)
        try:
            await handle(engine, reader, writer)
        finally:
            connected.discard(task)

    server = await asyncio.start_unix_server(client, path, limit=HEAD_LIMIT)
    print("ready", flush=True)
    # Nobody reads it from now on, and a full pipe would stop whoever prints.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    for task in connected:
        task.cancel()
    await asyncio.gather(*connected, return_exceptions=True)
    # A gateway that was killed cannot do it.
    with suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(path))


def main() -> None:
    parser = argparse.ArgumentParser(description="Carries requests to Amazon Bedrock; started by the gateway.")
    parser.add_argument("--socket", required=True)
    options = parser.parse_args()
    config = json.loads(sys.stdin.readline() or "{}")
    if not config:
        return
    os.umask(0o077)
    # Whoever stops a service may signal all of its processes: the gateway still ends its streams then, and this one ends with it.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    try:
        asyncio.run(serve(options.socket, config))
    except ImportError as error:
        print(f"cannot import {error.name or 'litellm'}", flush=True)
        sys.exit(1)
    # All is closed by now; taking down what litellm has imported would keep the gateway waiting for a second.
    os._exit(0)


if __name__ == "__main__":
    main()
