"""The upstream client against raw sockets: what is sent and what never is, and how foreign errors are told."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from gateway.errors import UpstreamError
from gateway.hosts import Deployment
from gateway.policies import default_folder, load
from gateway.upstream.accounts import Account, Accounts
from gateway.upstream.port import Call
from tests.upstream_peer import CHUNKED, OK, WHOLE, Peer, Wire, answers, ask, body_of, call, client, on_both_loops


@on_both_loops
async def test_an_answer_is_read_to_its_end() -> None:
    async with Peer(answers(OK + b"content-length: 4\r\n\r\n{}\n\n")) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert (answer.status, answer.content_type, answer.retry_after) == (200, "application/json", None)
        body = b""
        while not answer.ended:
            body += await answer.read()
        assert body == b"{}\n\n"
        assert await body_of(answer) == b""
        await upstream.close()


@on_both_loops
async def test_a_request_is_what_was_given_and_the_framing() -> None:
    async with Peer(answers(WHOLE)) as peer:
        upstream = client()
        assert await ask(upstream, peer.url + "?v=1", b'{"a":1}') == b"{}"
        await upstream.close()
    port = b"%d" % peer.port
    assert peer.requests == [
        b"POST /v1/chat/completions?v=1 HTTP/1.1\r\nhost: 127.0.0.1:" + port + b"\r\nauthorization: Bearer k\r\n"
        b'content-length: 7\r\n\r\n{"a":1}'
    ]


@on_both_loops
async def test_what_the_caller_must_know_of_a_refusal_is_told() -> None:
    head = b"HTTP/1.1 429 Too Many\r\nRETRY-AFTER: 7 \r\nContent-Type: Text/Plain; charset=utf-8\r\nset-cookie: a=b\r\n"
    refusal = head + b"content-length: 4\r\n\r\nslow"
    async with Peer(answers(refusal)) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert (answer.status, answer.content_type, answer.retry_after) == (429, "text/plain", "7")
        assert await body_of(answer) == b"slow"
        await upstream.close()


@on_both_loops
async def test_a_host_that_cannot_be_reached_was_sent_nothing() -> None:
    upstream = client()
    with pytest.raises(UpstreamError) as caught:
        await upstream.open(Call("http://127.0.0.1:1/v1", {}, b"{}"))
    assert not caught.value.dispatched
    assert not caught.value.billed
    assert caught.value.retry
    await upstream.close()


@on_both_loops
async def test_a_connection_broken_after_the_request_may_have_been_billed() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()

    async with Peer(script) as peer:
        upstream = client()
        with pytest.raises(UpstreamError) as caught:
            await ask(upstream, peer.url)
        assert caught.value.billed
        assert not caught.value.retry
        assert len(peer.requests) == peer.opened == 1, "a request that may be billed is never sent twice"
        await upstream.close()


@on_both_loops
async def test_a_reset_connection_may_have_been_billed() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        wire.writer.transport.abort()

    async with Peer(script) as peer:
        upstream = client()
        with pytest.raises(UpstreamError) as caught:
            await ask(upstream, peer.url)
        assert caught.value.billed
        await upstream.close()


@on_both_loops
async def test_a_redirect_is_not_followed() -> None:
    async with Peer(answers(WHOLE)) as target:
        redirect = b"HTTP/1.1 302 Found\r\nlocation: " + target.url.encode() + b"\r\ncontent-length: 0\r\n\r\n"
        async with Peer(answers(redirect)) as peer:
            upstream = client()
            answer = await upstream.open(call(peer.url))
            assert answer.status == 302
            assert await body_of(answer) == b""
            await upstream.close()
        assert target.opened == 0


@on_both_loops
async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Peer(answers(WHOLE)) as proxy, Peer(answers(WHOLE)) as peer:
        monkeypatch.setenv("http_proxy", proxy.url)
        upstream = client()
        assert await ask(upstream, peer.url) == b"{}"
        assert proxy.opened == 0
        await upstream.close()


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\n", "a\r", "a\0b", "ключ"])
@on_both_loops
async def test_a_header_that_would_be_more_than_one_line_is_refused(value: str) -> None:
    async with Peer(answers(WHOLE)) as peer:
        upstream = client()
        with pytest.raises(ValueError, match="header") as caught:
            await upstream.open(call(peer.url, authorization=value))
        assert value not in str(caught.value), "the key is not shown"
        with pytest.raises(ValueError, match="header"):
            await upstream.open(Call(peer.url, {value: "x"}, b"{}"))
        assert peer.opened == 0
        await upstream.close()


BAD_URLS = (
    "", "api.example.com/v1", "ftp://127.0.0.1/v1", "http:///v1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/",
    "http://user:secret@127.0.0.1/", "http://127.0.0.1/a b", "http://127.0.0.1/\r\nx-evil: 1", "http://127.0.0.1/é", "http://[::1/",
)  # fmt: skip


@pytest.mark.parametrize("url", [*BAD_URLS, "http://a..b/", "http://no-such-name.invalid/"])
@on_both_loops
async def test_a_url_that_cannot_be_posted_to_was_sent_nothing(url: str) -> None:
    upstream = client()
    with pytest.raises(UpstreamError) as caught:
        await upstream.open(call(url))
    assert not caught.value.dispatched
    assert ("URL" in caught.value.message) == (url in BAD_URLS)
    assert "secret" not in caught.value.message
    await upstream.close()


@on_both_loops
async def test_a_large_body_arrives_whole_at_a_host_that_reads_slowly() -> None:
    body = bytes(range(256)) * (32 * 1024)

    async def script(wire: Wire) -> None:
        await asyncio.sleep(0)
        assert (await wire.request()).endswith(b"\r\n\r\n" + body)
        await wire.send(WHOLE)
        await wire.request()
        await wire.send(WHOLE)

    async with Peer(script) as peer:
        upstream = client()
        assert await ask(upstream, peer.url, body) == b"{}"
        assert await ask(upstream, peer.url) == b"{}"
        assert peer.opened == 1
        await upstream.close()


@on_both_loops
async def test_an_answer_that_comes_before_the_body_has_gone_is_given_and_the_connection_is_not_used_again() -> None:
    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url, b"x" * (32 << 20)))
        assert answer.status == 413
        assert await body_of(answer) == b"big"
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_closing_early_is_seen_by_the_host() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED + b"5\r\nhello\r\n")
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert await answer.read() == b"hello"
        answer.close()
        await peer.lefts.acquire()
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
