"""The server: both planes in one process and one loop, with their own sockets, and an end that breaks no stream.

The first SIGTERM or SIGINT: readiness falls at once, no new connection is taken, streams have DRAIN seconds to finish; the
admin plane answers until they have. The second one ends at once. SIGHUP calls `on_hup`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvicorn
import uvloop

from gateway.front.app import Front
from gateway.front.guard import Guard
from gateway.front.protocol import protocol_with
from gateway.front.wire import App
from gateway.settings import Settings, SettingsError

log = logging.getLogger(__name__)

# Longer than the pools of common clients keep a connection: the client closes first, so no request meets a closing one.
KEEP_ALIVE = 75
# A client that takes nothing of its answer for so long counts as gone.
WRITE_STALL = 120
BACKLOG = 2048

Address = tuple[str, int]
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run the process's one coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def listen(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket; raises SettingsError that names the variable when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingsError(f"cannot listen on {host}:{port} ({error.strerror}). Remedy: set {variable} to a free port.") from None
    return sock


class Plane:
    """One ASGI app on one listening socket."""

    def __init__(
        self,
        app: App,
        sock: socket.socket,
        *,
        receive_seconds: float,
        drain_seconds: int,
        write_seconds: float = WRITE_STALL,
        keep_alive_seconds: float = KEEP_ALIVE,
    ) -> None:
        self.address: Address = sock.getsockname()[:2]
        self._sock = sock
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol_with(receive_seconds, keep_alive_seconds, write_seconds),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=drain_seconds,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve; returns when the socket is being answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        while not self._server.started:
            await asyncio.sleep(0)
            if self._task.done():
                self._task.result()

    def stop(self, *, now: bool = False) -> None:
        """Take no new connection and let the rest finish within the drain time; `now`: do not wait for them."""
        self._server.force_exit = self._server.force_exit or now
        self._server.leave()

    async def ended(self) -> None:
        """Wait until everything has been served, or given up."""
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """Uvicorn's server without its signal handlers (one pair serves both planes), and idle while nothing happens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)

    async def main_loop(self) -> None:
        # A tick a second keeps the Date header true.
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(1):
                    await self._leaving.wait()
            except TimeoutError:
                pass


async def serve(
    front: Front,
    admin: App,
    settings: Settings,
    *,
    on_hup: Callable[[], object],
    on_started: Callable[[Address, Address], object],
) -> None:
    """Serve both planes until a signal; `on_started` gets the data plane's and the admin plane's address."""
    options: dict[str, Any] = {
        "receive_seconds": settings.timeout_receive,
        "drain_seconds": settings.drain,
        "write_seconds": settings.timeout_idle,
    }
    sock = listen(settings.host, settings.port, "FAREGATE_PORT")
    try:
        admin_sock = listen(settings.admin_host, settings.admin_port, "FAREGATE_ADMIN_PORT")
    except SettingsError:
        sock.close()
        raise
    data, control = Plane(front, sock, **options), Plane(Guard(admin), admin_sock, **options)
    await data.start()
    await control.start()
    _on_signals(front, (data, control), on_hup)
    on_started(data.address, control.address)
    await data.ended()
    control.stop()
    await control.ended()


def _on_signals(front: Front, planes: tuple[Plane, Plane], on_hup: Callable[[], object]) -> None:
    def stop() -> None:
        second, front.draining = front.draining, True
        log.info("ending at once" if second else "draining: open streams may finish")
        for plane in planes if second else planes[:1]:
            plane.stop(now=second)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, on_hup)
