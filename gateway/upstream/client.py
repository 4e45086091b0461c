"""The upstream client: HTTP/1.1 over kept connections, and nothing besides.

No redirects, cookies, proxies, decompression or retries: a request is written once. Foreign errors are translated here:
before the first byte was written nothing can have been billed, after it everything may have been.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool
from gateway.upstream.port import Call

KEEP_IDLE = 15.0

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """What one URL means: where to connect, and how each request to it begins."""

    secure: bool
    host: str
    port: int
    head: str


class HttpAnswer:
    """One answer on its connection; see port.Answer."""

    __slots__ = ("_connection", "_pool", "content_type", "retry_after", "status")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        fields = connection.fields
        self.status = connection.status
        self.content_type = fields.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        retry = fields.get(b"retry-after")
        self.retry_after = None if retry is None else retry.decode("latin-1").strip()

    def read(self) -> Coroutine[Any, Any, bytes]:
        if self._connection is None:
            raise RuntimeError("the answer was closed")
        return self._connection.read()

    @property
    def ended(self) -> bool:
        return self._connection is not None and self._connection.drained()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.finished():
            self._pool.put(connection)
        else:
            connection.abort()


class HttpUpstream:
    """The one client of a process; make it inside the running loop.

    `connect` limits, in seconds, name, socket and TLS together. `idle`: how long a connection is kept for the next request.
    """

    def __init__(self, connect: float, *, idle: float = KEEP_IDLE, context: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_seconds = connect
        self._idle = idle
        self._context = context or ssl.create_default_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._targets: dict[str, tuple[Target, Pool]] = {}
        self._pools: dict[tuple[bool, str, int], Pool] = {}

    async def open(self, call: Call) -> HttpAnswer:
        """Raises ValueError, with nothing sent, when a header cannot be written as one line of ASCII."""
        target, pool = self._targets.get(call.url) or self._resolve(call.url)
        request = _request(target, call)
        connection = pool.take() or await self._connect(target)
        call.sent = True
        await connection.ask(request)
        return HttpAnswer(connection, pool)

    async def close(self) -> None:
        """Close the idle connections; answers under way are their readers'."""
        for pool in self._pools.values():
            pool.close()
        # The sockets themselves are closed in the loop's next turn.
        await asyncio.sleep(0)

    def _resolve(self, url: str) -> tuple[Target, Pool]:
        target = _target(url)
        origin = (target.secure, target.host, target.port)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(self._idle)
        self._targets[url] = target, pool
        return target, pool

    async def _connect(self, target: Target) -> Connection:
        context, name = (self._context, target.host) if target.secure else (None, None)
        try:
            async with asyncio.timeout(self._connect_seconds):
                made = await self._loop.create_connection(Connection, target.host, target.port, ssl=context, server_hostname=name)
        except TimeoutError as error:
            raise UpstreamTimeout("The host could not be reached in time; nothing was sent.", dispatched=False) from error
        except ssl.SSLError as error:
            raise UpstreamError("The host could not be reached securely (TLS); nothing was sent.", dispatched=False) from error
        except (OSError, UnicodeError) as error:
            raise UpstreamError("The host could not be reached; nothing was sent.", dispatched=False) from error
        return made[1]


def _target(url: str) -> Target:
    """Read a URL; raises UpstreamError for one that cannot be posted to."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _unusable() from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise _unusable()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    return Target(parts.scheme == "https", parts.hostname, port or _PORTS[parts.scheme], head)


def _unusable() -> UpstreamError:
    return UpstreamError("The host's URL is not http(s)://name[:port]/path in ASCII; nothing was sent.", dispatched=False)


def _request(target: Target, call: Call) -> bytes:
    """The bytes of a request. A line break inside a header would be a header of its own, so the breaks are counted."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in call.headers.items()])
    count = len(call.headers)
    if lines.count("\r") != count or lines.count("\n") != count or "\0" in lines or not lines.isascii():
        raise ValueError("a header for the host holds a line break, NUL or a character beyond ASCII")
    return f"{target.head}{lines}content-length: {len(call.body)}\r\n\r\n".encode("ascii") + call.body
