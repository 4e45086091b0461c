"""A host whose answers are written by the test, piece by piece: it waits wherever a piece is a gate, until the test opens that."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

# No step of a test on loopback takes this long unless it has failed.
PATIENCE = 30.0
JSON, STREAM = "application/json", "text/event-stream"
DONE = b"data: [DONE]\n\n"


class Script(NamedTuple):
    """One answer: its status and type, and its body as pieces; a gate among them is waited for, before the head where it stands first.

    Status 0: the connection is closed without an answer, once the request has come.
    """

    pieces: Sequence[bytes | threading.Event]
    kind: str = STREAM
    status: int = 200


def chunk(text: str = "", finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    body: dict[str, Any] = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body | ({"usage": usage} if usage else {})).encode() + b"\n\n"


def usage(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **more}


def whole(text: str, used: dict[str, Any] | None) -> Script:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Script([json.dumps(body | ({"usage": used} if used else {})).encode()], JSON)


DROP = Script([], status=0)


def gated(gate: threading.Event, used: dict[str, Any] | None, text: str = " one") -> Script:
    """A stream that begins at once, and ends when the gate is opened."""
    return Script([chunk(text), gate, chunk(finish="stop", usage=used), DONE])


class ScriptedHost:
    """One host on a port of its own; each request is answered by the next script."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._scripts: list[Script] = []
        self._turn = threading.Condition()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                host._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A gateway that leaves is no error."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def play(self, *scripts: Script) -> None:
        """The answers to the next requests."""
        with self._turn:
            self._scripts += scripts

    def forget(self) -> None:
        """Nothing of what was to be played."""
        with self._turn:
            self._scripts.clear()

    def received(self, count: int) -> list[dict[str, Any]]:
        """The bodies that came, once there are so many."""
        with self._turn:
            assert self._turn.wait_for(lambda: len(self.bodies) >= count, PATIENCE), f"{len(self.bodies)} of {count} requests came"
            return list(self.bodies)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._turn:
            self.bodies.append(body)
            script = self._scripts.pop(0) if self._scripts else Script([b"{}"], JSON, 500)
            self._turn.notify_all()
        pieces = list(script.pieces)
        while pieces and isinstance(pieces[0], threading.Event):
            _wait(pieces.pop(0))
        if not script.status:
            handler.close_connection = True
            return
        handler.send_response(script.status)
        handler.send_header("content-type", script.kind)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            if isinstance(piece, threading.Event):
                _wait(piece)
            else:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")


def _wait(gate: Any) -> None:
    assert gate.wait(PATIENCE), "nobody opened the gate"


def until(what: str, is_so: Any) -> Any:
    """The first true answer of `is_so`, asked again until the deadline."""
    deadline = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
    return found
