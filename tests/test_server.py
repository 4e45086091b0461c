"""The server: signals, drain, addresses, and what the planes answer; with a process of its own where signals are sent."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.front.server import listen
from gateway.settings import SettingsError
from tests.raw_http import PATIENCE, FakeExchange, chat, connected, front_with, post, served

PROGRAM = """
import sys
from gateway.front.guard import Guard
from gateway.front.server import run, serve
from gateway.settings import load
from tests.raw_http import FakeExchange, front_with

front = front_with(exchange := FakeExchange(paced=True))
settings = load({"FAREGATE_PORT": "0", "FAREGATE_ADMIN_PORT": "0", "FAREGATE_DRAIN": sys.argv[1]}, None)

async def admin(scope, receive, send):
    status, _ = front.readiness()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

def hup():
    exchange.proceed.release()
    print("hup", flush=True)

run(serve(front, admin, settings, on_hup=hup, on_started=lambda data, control: print(data[1], control[1], flush=True)))
print("ended", flush=True)
"""


class Gateway:
    """A gateway in a process of its own. SIGHUP lets its paced stream send one more piece."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin_port: int) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port

    async def line(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def piece(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        assert await self.line() == "hup"

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def gateway(drain: int = 30) -> AsyncIterator[Gateway]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, str(drain), stdout=asyncio.subprocess.PIPE)
    started = Gateway(process, 0, 0)
    try:
        started.port, started.admin_port = map(int, (await started.line()).split())
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_sigterm_ends_readiness_at_once_and_lets_streams_finish() -> None:
    async with gateway() as server, connected(server.port) as client, connected(server.port) as idle:
        await client.send(post(chat("stream")))
        await server.piece()
        assert (await client.head())[0] == 200

        server.process.send_signal(signal.SIGTERM)
        assert await idle.until_closed() == b""
        async with connected(server.admin_port) as admin:
            await admin.send(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n")
            assert (await admin.answer()).status == 503
        await server.piece()
        await server.piece()

        assert [piece async for piece in client.chunks()] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
        assert await server.line() == "ended"
        assert await server.exit_code() == 0


async def test_no_new_connection_is_taken_while_draining() -> None:
    async with gateway() as server, connected(server.port) as client, connected(server.port) as idle:
        await client.send(post(chat("stream")))
        await server.piece()
        await client.head()
        server.process.send_signal(signal.SIGTERM)
        assert await idle.until_closed() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_second_signal_ends_at_once() -> None:
    async with gateway() as server, connected(server.port) as client, connected(server.port) as idle:
        await client.send(post(chat("stream")))
        await server.piece()
        await client.head()
        server.process.send_signal(signal.SIGTERM)
        await idle.until_closed()
        server.process.send_signal(signal.SIGTERM)
        assert await server.line() == "ended"


async def test_the_drain_time_is_a_bound() -> None:
    async with gateway(drain=0) as server, connected(server.port) as client:
        await client.send(post(chat("stream")))
        await server.piece()
        await client.head()
        server.process.send_signal(signal.SIGTERM)
        assert await server.line() == "ended"


async def test_a_broken_off_answer_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    async with served(front_with(FakeExchange())) as port, connected(port) as client:
        await client.send(post(chat("break")))
        with pytest.raises(asyncio.IncompleteReadError):
            await client.answer()
    assert not caplog.records


async def test_a_client_that_leaves_is_noticed_before_its_answer_began() -> None:
    exchange = FakeExchange()
    async with served(front_with(exchange)) as port:
        async with connected(port) as client:
            await client.send(post(chat("wait")))
            await exchange.begun.wait()
        async with asyncio.timeout(PATIENCE):
            await exchange.left.wait()


async def test_a_stream_waits_for_a_slow_reader() -> None:
    exchange = FakeExchange(chunks=5_000_000)
    async with served(front_with(exchange)) as port, connected(port) as client:
        await client.send(post(chat("stream")))
        await exchange.begun.wait()
        before = -1
        while exchange.sent != before:
            before = exchange.sent
            await asyncio.sleep(0.1)
        assert exchange.sent < exchange.chunks


def test_a_port_in_use_is_refused_with_the_variable_to_change() -> None:
    sock = listen("127.0.0.1", 0, "FAREGATE_PORT")
    with sock, pytest.raises(SettingsError, match="FAREGATE_ADMIN_PORT"):
        listen("127.0.0.1", sock.getsockname()[1], "FAREGATE_ADMIN_PORT")
