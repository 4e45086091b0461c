"""Ways in which an answer could have become free, or dear: each one was possible once."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.harness import KEY, LiveGateway, post

ASK = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 500}
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "one two three four"}, "finish_reason": "stop"}
WHOLE = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}


def event(delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body | ({"usage": usage} if usage else {})).encode() + b"\n\n"


class Host(BaseHTTPRequestHandler):
    """Answers every request with the next scripted status, content type and body."""

    protocol_version = "HTTP/1.1"
    script: ClassVar[list[tuple[int, str, bytes]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, kind, body = self.script.pop(0)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    urls = {"deepseek": f"http://127.0.0.1:{server.server_address[1]}"}
    with LiveGateway(tmp_path_factory.mktemp("money"), hosts=(), urls=urls) as live:
        yield live
    server.shutdown()
    server.server_close()


def row_of(gateway: LiveGateway, answer: tuple[int, str, bytes], **more: Any) -> tuple[int, dict[str, Any]]:
    Host.script.append(answer)
    status, headers, _ = gateway.chat(ASK | more)
    return status, gateway.row(headers["x-request-id"])


JSON, STREAM = "application/json", "text/event-stream"


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        pytest.param(True, (200, JSON, json.dumps(WHOLE | {"usage": USAGE}).encode()), id="a whole answer where a stream was asked for"),
        pytest.param(False, (200, JSON, json.dumps(WHOLE).encode()[:-9]), id="JSON that breaks off"),
        pytest.param(
            False,
            (200, JSON, json.dumps(WHOLE | {"choices": [CHOICE | {"finish_reason": "insufficient_system_resource"}]}).encode()),
            id="an answer that the host gave up",
        ),
        pytest.param(False, (200, STREAM, event({"content": "one two"}, "stop")), id="a stream where a whole answer was asked for"),
    ],
)
def test_a_broken_answer_is_counted(gateway: LiveGateway, stream: bool, answer: tuple[int, str, bytes]) -> None:
    status, row = row_of(gateway, answer, stream=stream)
    assert status == 502
    assert row["nano"] > 0
    assert row["status"] == "upstream_error"


def test_usage_of_zero_in_every_chunk_and_none_at_the_end_is_counted(gateway: LiveGateway) -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    body = b"".join(event({"content": f" word{n}"}, usage=zero) for n in range(50)) + event({}, "stop") + b"data: [DONE]\n\n"
    status, row = row_of(gateway, (200, STREAM, body), stream=True)
    assert status == 200
    assert row["usage"]["output"] >= 50
    assert row["usage"]["sources"]["output"] == "counted"
    assert row["nano"] > 0


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_a_stream_under_another_name_is_a_stream(gateway: LiveGateway, kind: str) -> None:
    body = event({"content": " one"}) + event({}, "stop", USAGE) + b"data: [DONE]\n\n"
    status, row = row_of(gateway, (200, kind, body), stream=True)
    assert (status, row["usage"]["output"], row["status"]) == (200, 20, "ok")


@pytest.mark.parametrize("status", [500, 429])
def test_a_refusal_is_free_however_long_its_page(gateway: LiveGateway, status: int) -> None:
    seen, row = row_of(gateway, (status, "text/html", b"<p>" + b"x" * 300_000))
    assert seen == (502 if status == 500 else 429)
    assert (row["nano"], row["attempts"][0]["billed"]) == (0, "none")


def test_a_page_of_a_proxy_is_free(gateway: LiveGateway) -> None:
    _, row = row_of(gateway, (200, "text/html", b"<html>busy</html>"))
    assert row["nano"] == 0


def test_a_client_that_leaves_before_anything_was_sent_pays_nothing(tmp_path: Path) -> None:
    # A port that accepts and then says nothing: over TLS, the request can never be sent.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = {"deepseek": f"https://127.0.0.1:{silent.getsockname()[1]}"}
        with LiveGateway(tmp_path, hosts=(), urls=urls, settings={"FAREGATE_TIMEOUT_CONNECT": "30"}) as gateway:
            address = gateway.root.removeprefix("http://").split(":")
            client = socket.create_connection((address[0], int(address[1])))
            body = json.dumps(ASK).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            with silent.accept()[0]:
                client.close()
                row = _the_row(gateway)
    assert (row["status"], row["nano"], row["attempts"][0]["billed"]) == ("client_gone", 0, "none")


def _the_row(gateway: LiveGateway) -> dict[str, Any]:
    for _ in range(500):
        rows = gateway.rows()
        if rows:
            return rows[0]
    raise AssertionError("the request was never settled")


@pytest.mark.parametrize("signals", [1, 2])
def test_streams_that_the_drain_cuts_are_settled_before_the_ledger_closes(tmp_path: Path, signals: int) -> None:
    gateway = LiveGateway(tmp_path, settings={"FAREGATE_DRAIN": "1" if signals == 1 else "600"})
    ask = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "[[answer=4000 pace=20]]"}], "stream": True}

    def read() -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": JSON}
        with suppress(HTTPException, OSError):
            post(gateway.base_url + "/chat/completions", json.dumps(ask).encode(), headers)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    while len(gateway.hosts["deepseek"].requests()) < 4:
        pass
    gateway.terminate()
    if signals == 2:
        # Two signals at once are one: the second has to come after the first was heard.
        while "draining" not in gateway.log:
            pass
        gateway.terminate()
    for reader in readers:
        reader.join(30)
    gateway.close()

    with sqlite3.connect(gateway.ledger) as ledger:
        assert ledger.execute("SELECT count(*) FROM hold WHERE state = 'held'").fetchone() == (0,)
        settled = ledger.execute("SELECT nano FROM request").fetchall()
    assert len(settled) == 4
    assert all(nano > 0 for (nano,) in settled)
