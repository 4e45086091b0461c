"""A small Amazon Bedrock on loopback: Converse and converse-stream, with real event-stream frames, signatures required.

The shapes are those of the service's API: messageStart, contentBlockDelta with text or reasoningContent, contentBlockStop,
messageStop, metadata; errors with x-amzn-errortype before the stream, exception events inside it.
"""

from __future__ import annotations

import json
import re
import struct
import threading
import time
from binascii import crc32
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gateway.upstream.litellm_adapter import interpreter
from tests.servers import missing

SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[A-Z]+/\d{8}/us-east-1/bedrock/aws4_request, SignedHeaders=[a-z0-9;-]+, Signature=[0-9a-f]{64}"
)
USAGE = {"inputTokens": 41, "outputTokens": 142, "totalTokens": 183}


def litellm_python() -> Path:
    """An interpreter that has litellm; without one, the test fails in CI and is skipped elsewhere."""
    return interpreter(None) or missing("there is no litellm: run `make litellm`")


@dataclass
class Play:
    """What the next request gets."""

    reasoning: tuple[str, ...] = ("Let me ", "think.")
    text: tuple[str, ...] = ("Four", ", of course.")
    stop: str | None = "end_turn"
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    status: int = 200
    kind: str = "ThrottlingException"
    message: str = "Too many requests, please wait before trying again."
    headers: dict[str, str] = field(default_factory=dict)
    fault: tuple[str, str] | None = None
    reset: bool = False
    cut: int | None = None
    """The bytes of the body after which the connection ends."""
    hang: bool = False
    """Nothing is answered until the client has gone."""
    tool: dict[str, Any] | None = None
    pause: float = 0.0


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of application/vnd.amazon.eventstream; string headers only."""
    coded = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode() for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(coded) + len(payload), len(coded))
    body = prelude + struct.pack(">I", crc32(prelude)) + coded + payload
    return body + struct.pack(">I", crc32(body))


def event(kind: str, body: dict[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(body | {"p": "abcdefghijklm"}).encode())


def exception(kind: str, message: str) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": message}).encode())


def frames(play: Play) -> Iterator[bytes]:
    """The stream of one answer, frame by frame."""
    yield event("messageStart", {"role": "assistant"})
    for text in play.reasoning:
        yield event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": text}}})
    yield event("contentBlockStop", {"contentBlockIndex": 0})
    for text in play.text:
        yield event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": text}})
    if play.fault:
        yield exception(*play.fault)
        return
    if play.tool:
        yield event("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": play.tool["name"]}}})
        arguments = json.dumps(play.tool["input"])
        yield event("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": arguments}}})
    yield event("contentBlockStop", {"contentBlockIndex": 1})
    if play.stop is not None:
        yield event("messageStop", {"stopReason": play.stop})
        if play.usage is not None:
            yield event("metadata", {"usage": play.usage, "metrics": {"latencyMs": 1184}})


def whole(play: Play) -> dict[str, Any]:
    content: list[dict[str, Any]] = [
        {"text": "".join(play.text)},
        {"reasoningContent": {"reasoningText": {"text": "".join(play.reasoning)}}},
    ]
    body: dict[str, Any] = {"metrics": {"latencyMs": 1184}, "output": {"message": {"role": "assistant", "content": content}}}
    body |= {} if play.stop is None else {"stopReason": play.stop}
    return body if play.usage is None else body | {"usage": play.usage}


class Bedrock:
    """The server; `plays` is taken from the front, then everything is answered by `Play()`."""

    def __init__(self) -> None:
        self.plays: list[Play] = []
        self.requests: list[dict[str, Any]] = []
        self.unsigned: list[str] = []
        self.credentials: dict[str, str] = {}
        """What a container's address for the keys of its role answers."""
        self.left = threading.Event()
        """Set when a client has gone before its answer was complete."""
        bedrock = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                bedrock.serve(self)

            def do_GET(self) -> None:
                bedrock.answer(self, 200, bedrock.credentials, {})

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        model, action = re.fullmatch(r"/model/([^/]+)/(converse|converse-stream)", handler.path).groups()  # type: ignore[union-attr]
        signature = handler.headers.get("authorization", "")
        self.requests.append({"model": model, "action": action, "body": body, "authorization": signature})
        if not re.match(
            r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/us-east-1/bedrock/aws4_request, SignedHeaders=.+Signature=[0-9a-f]{64}", signature
        ):
            self.unsigned.append(handler.path)
        play = self.plays.pop(0) if self.plays else Play()
        if play.hang:
            handler.connection.recv(1)
            handler.close_connection = True
        elif play.status != 200:
            named = {"x-amzn-errortype": f"{play.kind}:http://internal", **play.headers}
            self.answer(handler, play.status, {"message": play.message}, named, play.cut)
        elif action == "converse":
            self.answer(handler, 200, whole(play), {}, play.cut)
        else:
            self._stream(handler, play)

    def answer(
        self, handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any], headers: dict[str, str], cut: int | None = None
    ) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[:cut])
        if cut is not None:
            handler.close_connection = True

    def _stream(self, handler: BaseHTTPRequestHandler, play: Play) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/vnd.amazon.eventstream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        if play.cut is not None:
            data = b"".join(frames(play))[: play.cut]
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            handler.close_connection = True
            return
        try:
            for data in frames(play):
                handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                time.sleep(play.pause)
            if play.reset:
                handler.close_connection = True
                handler.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
                handler.connection.close()
                return
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.left.set()
            handler.close_connection = True
