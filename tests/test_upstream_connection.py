"""How an answer is read off the wire: every framing, every break, in bounded memory, and given up at any moment."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.upstream.connection import BUFFER_LIMIT, HEAD_LIMIT, Connection
from tests.upstream_peer import CHUNKED, OK, WHOLE, Peer, Wire, answers, ask, body_of, call, client, on_both_loops

GOOD: dict[str, tuple[bytes, bytes]] = {
    "content-length": (OK + b"content-length: 5\r\n\r\nhello", b"hello"),
    "chunked": (CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\ncontent-encoding: gzip\r\nx: y\r\n\r\n", b"hello"),
    "capitals": (b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\nContent-Encoding: IDENTITY\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\n\r\n" + WHOLE, b"{}"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
    "no length": (OK + b"\r\nuntil the end", b"until the end"),
    "no length, no body": (OK + b"\r\n", b""),
    "connection: close": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", b"hi"),
    "nothing": (OK + b"content-length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "a surplus": (WHOLE + WHOLE, b"{}"),
    "garbage behind": (WHOLE + b"garbage", b"{}"),
}


@pytest.mark.parametrize("name", GOOD)
@on_both_loops
async def test_every_framing_is_read_to_its_end(name: str) -> None:
    wire_bytes, body = GOOD[name]

    async def dripping(wire: Wire) -> None:
        await wire.request()
        await wire.drip(wire_bytes)

    for script in (answers(wire_bytes), dripping):
        async with Peer(script) as peer:
            upstream = client()
            assert await ask(upstream, peer.url) == body
            await upstream.close()


@on_both_loops
async def test_a_trailer_and_an_interim_answer_never_speak_for_the_answer() -> None:
    spoof = b"content-type: text/html\r\nretry-after: 9\r\n\r\n"
    async with Peer(answers(b"HTTP/1.1 103 Early Hints\r\n" + spoof + CHUNKED + b"2\r\n{}\r\n0\r\n" + spoof)) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert (answer.content_type, answer.retry_after) == ("application/json", None)
        assert await body_of(answer) == b"{}"
        await upstream.close()


MANY = b"".join(b"x-%d: %s\r\n" % (n, b"v" * 100) for n in range(HEAD_LIMIT // 100))
BROKEN: dict[str, bytes] = {
    "nothing at all": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-type: app",
    "an interim answer only": b"HTTP/1.1 100 Continue\r\n\r\n",
    "no terminal chunk": CHUNKED + b"5\r\nhello\r\n",
    "half a terminal chunk": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "half a chunk": CHUNKED + b"5\r\nhel",
    "half a size": CHUNKED + b"5",
    "a short body": OK + b"content-length: 5\r\n\r\nhell",
    "a short body, HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhell",
}
REFUSED: dict[str, bytes] = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a bad size": CHUNKED + b"5\r\nhello\r\nxyz\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\nhello\r\n",
    "a negative length": OK + b"content-length: -1\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length and chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another coding": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another coding on a line of its own": OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "compressed": OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "compressed, said twice": OK + b"content-encoding: gzip\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "another protocol, half said": b"HTTP/1.1 101 Switching\r\n\r\n",
    "NUL in a header": OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    "a line that is no header": OK + b"no colon\r\ncontent-length: 2\r\n\r\n{}",
    "a huge header": OK + b"x: " + b"v" * (HEAD_LIMIT + 1) + b"\r\ncontent-length: 0\r\n\r\n",
    "a huge header without its end": OK + b"x: " + b"v" * (HEAD_LIMIT + 1),
    "many headers": OK + MANY + b"content-length: 0\r\n\r\n",
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * (HEAD_LIMIT // 20),
    "endless trailers": CHUNKED + b"0\r\n" + MANY,
    "an endless chunk extension": CHUNKED + b"5;" + b"x" * (HEAD_LIMIT * 8),
}


@pytest.mark.parametrize("name", BROKEN)
@on_both_loops
async def test_an_answer_that_breaks_off_is_an_error_not_an_end(name: str) -> None:
    async with Peer(answers(BROKEN[name])) as peer:
        upstream = client()
        with pytest.raises(UpstreamError) as caught:
            await ask(upstream, peer.url)
        assert caught.value.dispatched and caught.value.billed
        assert peer.opened == len(peer.requests) == 1
        await upstream.close()


@pytest.mark.parametrize("name", REFUSED)
@on_both_loops
async def test_an_answer_that_cannot_be_trusted_is_left_at_once(name: str) -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(REFUSED[name])
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        with pytest.raises(UpstreamError) as caught:
            await ask(upstream, peer.url)
        assert caught.value.dispatched and caught.value.billed
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_a_compressed_answer_is_named_as_such() -> None:
    async with Peer(answers(REFUSED["compressed"])) as peer:
        upstream = client()
        with pytest.raises(UpstreamError, match="compressed"):
            await upstream.open(call(peer.url))
        await upstream.close()


@on_both_loops
async def test_what_came_before_a_break_is_given_first() -> None:
    async with Peer(answers(BROKEN["no terminal chunk"])) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert await answer.read() == b"hello"
        for _ in range(2):
            with pytest.raises(UpstreamError, match="broke"):
                await answer.read()
        answer.close()
        await upstream.close()


@on_both_loops
async def test_a_long_answer_may_come_in_any_portions() -> None:
    portion = b"x" * (HEAD_LIMIT * 2)
    taken = asyncio.Semaphore(0)

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED)
        for _ in range(3):
            # A size on its own is no body, yet it is no endless header either.
            await wire.send(b"%x;x=y\r\n" % len(portion))
            await asyncio.sleep(0)
            await wire.send(portion + b"\r\n")
            await taken.acquire()
        await wire.send(b"0\r\n\r\n")

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        for _ in range(3):
            size = 0
            while size < len(portion):
                size += len(await answer.read())
            taken.release()
        assert await body_of(answer) == b""
        await upstream.close()


PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def chunked(pieces: list[bytes]) -> bytes:
    return CHUNKED + b"".join(b"%x;e\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nt: v\r\n\r\n"


async def through_a_socket(parts: list[bytes]) -> bytes:
    ours, theirs = socket.socketpair()
    _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=ours)
    asking = asyncio.create_task(connection.ask(b"?"))
    for part in parts:
        theirs.sendall(part)
        await asyncio.sleep(0)
    await asking
    data = b""
    while piece := await connection.read():
        data += piece
    assert connection.finished()
    connection.abort()
    await asyncio.sleep(0)
    theirs.close()
    return data


@settings(max_examples=100, deadline=None)
@given(PIECES, st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_where_the_wire_cuts_does_not_matter(pieces: list[bytes], cuts: list[int], sized: bool) -> None:
    body = b"".join(pieces)
    wire = OK + b"content-length: %d\r\n\r\n%s" % (len(body), body) if sized else chunked(pieces)
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    parts = [wire[start:end] for start, end in pairwise(edges)]
    assert asyncio.run(through_a_socket(parts)) == body


@on_both_loops
async def test_a_reader_that_does_not_read_stops_the_host() -> None:
    piece = b"x" * 65536
    total = 256
    stalled = asyncio.Event()
    sent = 0

    async def script(wire: Wire) -> None:
        nonlocal sent
        await wire.request()
        wire.writer.write(OK + b"content-length: %d\r\n\r\n" % (len(piece) * total))
        for _ in range(total):
            wire.writer.write(piece)
            sent += len(piece)
            try:
                await asyncio.wait_for(wire.writer.drain(), 0.2)
            except TimeoutError:
                stalled.set()
                await wire.writer.drain()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        await stalled.wait()
        assert sent < len(piece) * total, "the two sockets' buffers hold the rest"
        first = await answer.read()
        assert BUFFER_LIMIT - 65536 < len(first) <= 2 * BUFFER_LIMIT
        assert len(first + await body_of(answer)) == len(piece) * total
        await upstream.close()


@on_both_loops
async def test_an_answer_has_one_reader() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED)
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        first = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task"):
            await answer.read()
        answer.close()
        with pytest.raises(UpstreamError):
            await first
        with pytest.raises(RuntimeError, match="closed"):
            await answer.read()
        await upstream.close()


async def given_up(wait: Coroutine[Any, Any, object], reached: Coroutine[Any, Any, object]) -> None:
    """Cancel a wait once the other side has come to that point."""
    task = asyncio.create_task(wait)
    await reached
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncont", b"HTTP/1.1 100 Continue\r\n\r\n"])
@on_both_loops
async def test_giving_up_before_the_head_closes_the_connection(begun: bytes) -> None:
    asked = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(begun)
        asked.set()
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        await given_up(upstream.open(call(peer.url)), asked.wait())
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_giving_up_while_a_large_body_waits_closes_the_connection() -> None:
    asked = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        asked.set()
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        await given_up(upstream.open(call(peer.url, b"x" * (32 << 20))), asked.wait())
        await peer.lefts.acquire()
        await upstream.close()


@on_both_loops
async def test_giving_up_in_the_body_closes_the_connection() -> None:
    async def script(wire: Wire) -> None:
        await wire.request()
        await wire.send(CHUNKED + b"5\r\nhello\r\n")
        await wire.left()

    async with Peer(script) as peer:
        upstream = client()
        answer = await upstream.open(call(peer.url))
        assert await answer.read() == b"hello"
        await given_up(answer.read(), asyncio.sleep(0))
        answer.close()
        await peer.lefts.acquire()
        await upstream.close()
