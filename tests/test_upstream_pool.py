"""Which connections are used again: counted by the host; and TLS, with a certificate made here."""

from __future__ import annotations

import asyncio
import functools
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.client import HttpUpstream
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool
from tests.upstream_peer import CHUNKED, OK, WHOLE, Peer, Wire, ask, body_of, call, client, forever, on_both_loops

KEPT = {
    "content-length": WHOLE,
    "chunked": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
    "HTTP/1.0 that asks for it": b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    "an error": b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}",
}
NOT_KEPT = {
    "connection: close": OK + b"connection: close\r\ncontent-length: 2\r\n\r\n{}",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "another answer behind": WHOLE + WHOLE,
    "half an answer behind": WHOLE + b"HTTP/1.1 200 OK\r\nx: y",
    "garbage behind": WHOLE + b"garbage",
    "one byte behind": WHOLE + b"H",
    "a body longer than it says": OK + b"content-length: 1\r\n\r\n{}",
}


@pytest.mark.parametrize("name", KEPT)
@on_both_loops
async def test_a_finished_connection_is_used_again(name: str) -> None:
    async with Peer(forever(KEPT[name])) as peer:
        upstream = client()
        for _ in range(3):
            await ask(upstream, peer.url)
            await ask(upstream, peer.url.replace("/v1/", "/beta/"))
        assert (len(peer.requests), peer.opened) == (6, 1)
        await upstream.close()


@pytest.mark.parametrize("name", NOT_KEPT)
@on_both_loops
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(name: str) -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(NOT_KEPT[name])
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        for number in (1, 2):
            await ask(upstream, peer.url)
            await peer.lefts.acquire()
            assert peer.opened == number
        await upstream.close()


@on_both_loops
async def test_an_answer_that_came_whole_need_not_be_read() -> None:
    async with Peer(forever(WHOLE)) as peer:
        upstream = client()
        for _ in range(2):
            answer = await upstream.open(call(peer.url))
            answer.close()
            answer.close()
        assert await ask(upstream, peer.url) == b"{}"
        assert peer.opened == 1
        await upstream.close()


@on_both_loops
async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    together = asyncio.Barrier(5)

    async def script(wire: Wire) -> None:
        while body := (await wire.request())[-1:]:
            await together.wait()
            await wire.send(OK + b"content-length: 1\r\n\r\n" + body)

    async with Peer(script) as peer:
        upstream = client()
        for _ in range(3):
            bodies = [b"%d" % number for number in range(5)]
            assert await asyncio.gather(*(ask(upstream, peer.url, body) for body in bodies)) == bodies
        assert peer.opened == 5
        await upstream.close()


@on_both_loops
async def test_hosts_do_not_share_connections() -> None:
    async with Peer(forever(WHOLE)) as one, Peer(forever(WHOLE)) as other:
        upstream = client()
        for url in (one.url, other.url, one.url.replace("127.0.0.1", "localhost"), one.url):
            assert await ask(upstream, url) == b"{}"
        assert (one.opened, other.opened) == (2, 1)
        await upstream.close()


@pytest.mark.parametrize("unasked", [b"", WHOLE, b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
@on_both_loops
async def test_an_idle_connection_that_ends_or_speaks_is_dropped(unasked: bytes) -> None:
    speak = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(WHOLE)
        await speak.wait()
        if unasked:
            await wire.send(unasked)
        else:
            wire.writer.write_eof()
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        assert await ask(upstream, peer.url) == b"{}"
        speak.set()
        await peer.lefts.acquire()
        assert await ask(upstream, peer.url) == b"{}"
        assert peer.opened == 2
        await upstream.close()


@on_both_loops
async def test_an_end_that_the_loop_has_not_yet_seen_is_seen_before_the_connection_is_used() -> None:
    idle, closed = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(TimeoutError):
            for _ in range(2):
                wire, _ = listener.accept()
                with wire:
                    wire.recv(65536)
                    wire.sendall(WHOLE)
                    idle.wait(5)
                closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        upstream = client()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert await ask(upstream, url) == b"{}"
        idle.set()
        closed.wait(5)
        # The loop had no turn since the host closed.
        assert await ask(upstream, url) == b"{}"
        await upstream.close()
        thread.join()


@on_both_loops
async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(WHOLE)
        await wire.left()

    async with Peer(script) as peer:
        upstream = client(idle=0.02)
        await asyncio.gather(ask(upstream, peer.url), ask(upstream, peer.url))
        for _ in range(2):
            await peer.lefts.acquire()
        assert await ask(upstream, peer.url) == b"{}"
        assert peer.opened == 3
        await upstream.close()


@on_both_loops
async def test_closing_the_client_closes_what_is_idle_and_what_comes_back_later() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(WHOLE)
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert await ask(upstream, peer.url) == b"{}"
        await upstream.close()
        await peer.lefts.acquire()
        assert await body_of(answer) == b"{}"
        await peer.lefts.acquire()


@on_both_loops
async def test_the_last_one_used_goes_out_first() -> None:
    pool = Pool(5)
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    first, second = [(await loop.create_connection(Connection, sock=ours))[1] for ours, _ in pairs]
    pool.put(first)
    pool.put(second)
    assert [pool.take(), pool.take(), pool.take()] == [second, first, None]
    pool.put(first)
    pool.close()
    second.abort()
    await asyncio.sleep(0)
    for _, theirs in pairs:
        assert theirs.recv(1) == b""
        theirs.close()


@on_both_loops
async def test_each_idle_connection_has_its_own_time() -> None:
    pool = Pool(0.03)
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, theirs in pairs:
        theirs.setblocking(False)
        pool.put((await loop.create_connection(Connection, sock=ours))[1])
        await asyncio.sleep(0.01)
    for _, theirs in pairs:
        assert await loop.sock_recv(theirs, 1) == b""
        theirs.close()


# TLS

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")


@functools.cache
def certificate() -> tuple[bytes, bytes]:
    """A certificate for localhost and its key, good for a day."""
    with tempfile.TemporaryDirectory() as folder:
        key, cert = Path(folder, "key"), Path(folder, "cert")
        order = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost -addext"
        subprocess.run(
            ["openssl", *order.split(), "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
            check=True,
            capture_output=True,
        )
        return cert.read_bytes(), key.read_bytes()


@contextmanager
def tls() -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    """The host's context and one that trusts it."""
    cert, key = certificate()
    with tempfile.NamedTemporaryFile() as both:
        both.write(key + cert)
        both.flush()
        host = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        host.load_cert_chain(both.name)
    host.set_alpn_protocols(["h2", "http/1.1"])
    yield host, ssl.create_default_context(cadata=cert.decode())


@needs_openssl
@on_both_loops
async def test_tls_names_the_host_speaks_http_1_1_and_is_kept() -> None:
    names: list[str | None] = []
    protocols: list[str | None] = []

    async def script(wire: Wire) -> None:
        protocols.append(wire.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        while await wire.request():
            await wire.drip(CHUNKED + b"2\r\n{}\r\n0\r\n\r\n")

    with tls() as (host, trusting):
        host.sni_callback = lambda _socket, name, _context: names.append(name)
        async with Peer(script, host) as peer:
            upstream = HttpUpstream(connect=5, context=trusting)
            for _ in range(3):
                assert await ask(upstream, f"https://localhost:{peer.port}/v1", b"x" * 300_000) == b"{}"
            assert (peer.opened, names, protocols) == (1, ["localhost"], ["http/1.1"])
            await upstream.close()


@needs_openssl
@on_both_loops
async def test_a_host_whose_certificate_is_not_trusted_is_sent_nothing() -> None:
    with tls() as (host, trusting):
        async with Peer(forever(WHOLE), host) as peer:
            for context, name in ((None, "localhost"), (trusting, "127.0.0.1")):
                upstream = HttpUpstream(connect=5, context=context)
                with pytest.raises(UpstreamError, match="TLS") as caught:
                    await ask(upstream, f"https://{name}:{peer.port}/v1")
                assert not caught.value.dispatched
                await upstream.close()
            assert peer.requests == []


@needs_openssl
@on_both_loops
async def test_tls_that_breaks_off_in_the_body_is_an_error_and_leaving_is_seen() -> None:
    async def script(wire: Wire) -> None:
        if (await wire.request()).endswith(b"break"):
            await wire.send(CHUNKED + b"5\r\nhello\r\n")
            return
        await wire.send(CHUNKED + b"5\r\nhello\r\n")
        await wire.left()

    with tls() as (host, trusting):
        async with Peer(script, host) as peer:
            upstream = HttpUpstream(connect=5, context=trusting)
            url = f"https://localhost:{peer.port}/v1"
            with pytest.raises(UpstreamError) as caught:
                await ask(upstream, url, b"break")
            assert caught.value.dispatched
            answer = await upstream.open(call(url))
            assert await answer.read() == b"hello"
            answer.close()
            await peer.lefts.acquire()
            await upstream.close()


@on_both_loops
async def test_a_host_that_never_shakes_hands_is_left_in_time_and_was_sent_nothing() -> None:
    async def script(wire: Wire) -> None:
        await wire.left()

    async with Peer(script) as peer:
        upstream = client(connect=0.05)
        with pytest.raises(UpstreamTimeout) as caught:
            await ask(upstream, f"https://127.0.0.1:{peer.port}/v1")
        assert not caught.value.dispatched
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_giving_up_while_connecting_closes_the_connection() -> None:
    reached = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.reader.readexactly(1)
        reached.set()
        await wire.left()

    async with Peer(script) as peer:
        upstream = client(connect=5)
        task = asyncio.create_task(upstream.open(call(f"https://127.0.0.1:{peer.port}/v1")))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_a_host_that_closes_before_it_was_sent_anything_was_sent_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=ours)
    for _ in range(10):
        await asyncio.sleep(0)
    with pytest.raises(UpstreamError) as caught:
        await connection.ask(b"POST / HTTP/1.1\r\n\r\n")
    assert not caught.value.dispatched


@on_both_loops
async def test_a_plain_answer_is_not_taken_over_tls() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(WHOLE)
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        with pytest.raises(UpstreamError) as caught:
            await ask(upstream, f"https://127.0.0.1:{peer.port}/v1")
        assert not caught.value.dispatched
        await upstream.close()
