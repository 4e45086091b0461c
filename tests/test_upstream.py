"""The upstream client against raw sockets: what is never sent twice, never followed, and how foreign errors are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest

from gateway.errors import UpstreamError
from gateway.hosts import Deployment
from gateway.policies import default_folder, load
from gateway.upstream.accounts import Account, Accounts
from gateway.upstream.client import HttpUpstream
from gateway.upstream.port import Call

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Peer:
    """A loopback server that plays one script for each connection and remembers the requests."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.heads: list[bytes] = []

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:%d/v1/chat/completions" % self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


async def read_all(url: str) -> bytes:
    upstream = HttpUpstream(connect=2)
    try:
        answer = await upstream.open(Call(url, {"authorization": "Bearer k"}, b"{}"))
        data = b""
        while piece := await answer.read():
            data += piece
        answer.close()
        return data
    finally:
        await upstream.close()


async def test_an_answer_is_read_to_its_end() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 4\r\n\r\n{}\n\n")

    async with Peer(script) as peer:
        assert await read_all(peer.url) == b"{}\n\n"
        assert b"authorization: bearer k" in peer.heads[0].lower()


async def test_a_host_that_cannot_be_reached_was_sent_nothing() -> None:
    upstream = HttpUpstream(connect=2)
    with pytest.raises(UpstreamError) as caught:
        await upstream.open(Call("http://127.0.0.1:1/v1", {}, b"{}"))
    assert not caught.value.dispatched
    assert not caught.value.billed
    assert caught.value.retry
    await upstream.close()


async def test_a_connection_broken_after_the_request_may_have_been_billed() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)

    async with Peer(script) as peer:
        with pytest.raises(UpstreamError) as caught:
            await read_all(peer.url)
        assert caught.value.billed
        assert not caught.value.retry
        assert len(peer.heads) == 1, "a request that may be billed is never sent twice"


async def test_a_truncated_body_is_an_error_not_an_end() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()

    async with Peer(script) as peer:
        with pytest.raises(UpstreamError):
            await read_all(peer.url)


async def test_a_redirect_is_not_followed() -> None:
    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 2\r\n\r\n{}")

    async with Peer(canary) as target:

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: " + target.url.encode() + b"\r\ncontent-length: 0\r\n\r\n")

        async with Peer(script) as peer:
            upstream = HttpUpstream(connect=2)
            answer = await upstream.open(Call(peer.url, {}, b"{}"))
            assert answer.status == 302
            answer.close()
            await upstream.close()
        assert target.heads == []


async def test_a_compressed_answer_is_refused() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}")

    async with Peer(script) as peer:
        with pytest.raises(UpstreamError, match="compressed"):
            await read_all(peer.url)


async def test_closing_early_is_seen_by_the_host() -> None:
    left = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await reader.readexactly(2)
        assert await reader.read() == b""
        left.set()

    async with Peer(script) as peer:
        upstream = HttpUpstream(connect=2)
        answer = await upstream.open(Call(peer.url, {}, b"{}"))
        assert await answer.read() == b"hello"
        answer.close()
        await asyncio.wait_for(left.wait(), 2)
        await upstream.close()


def deployment(host: str, model: str, instant: str) -> Deployment:
    found = load(default_folder()).deployment(host, model, datetime.fromisoformat(instant))
    assert found is not None
    return found


def test_an_account_never_shows_its_key_and_knows_its_beta_url() -> None:
    account = Account("deepseek", "https://api.example.com/", "USD", "https://api.example.com/beta", "sk-secret-0001")
    assert "secret" not in repr(account)
    assert account.url(beta=False) == "https://api.example.com/chat/completions"
    assert account.url(beta=True) == "https://api.example.com/beta/chat/completions"
    assert account.headers("req-1", stream=True)["authorization"] == "Bearer sk-secret-0001"


def test_a_host_without_an_account_is_not_configured() -> None:
    accounts = Accounts({"deepseek": Account("deepseek", "https://api.example.com", "CNY")})
    assert "deepseek" in accounts
    assert "novita" not in accounts
    assert accounts.currencies == {"deepseek": "CNY"}
    assert accounts.of(deployment("deepseek", "deepseek-v4-pro", "2026-11-01T00:00:00+00:00")).currency == "CNY"
