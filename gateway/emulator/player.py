"""Plays an answer on the wire: events in bursts or paced, whole answers in their time, connections cut on purpose."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

from gateway.emulator.job import Job
from gateway.emulator.shapes import Step

BURST = 16_384


class Player:
    """Plays the steps of one stream: bursts where no pause is asked for, one write an event otherwise."""

    def __init__(self, request: web.Request, response: web.StreamResponse, job: Job, slice_size: int) -> None:
        self._request, self._response, self._job, self._slice = request, response, job, slice_size
        self._waiting: list[bytes] = []
        self._size = 0

    async def run(self, steps: Iterator[Step]) -> None:
        for step in steps:
            if step.pause:
                await self._flush()
                await asyncio.sleep(step.pause)
            self._job.produce(step.output, step.reasoning)
            self._waiting.append(step.data)
            self._size += len(step.data)
            if step.kind == "error":
                self._job.close("cut" if step.act else "error")
            if step.pause or self._size > BURST:
                await self._flush()
            if step.act:
                await self._flush()
                await hang_up(self._request, step.act)
                return
        await self._flush()
        await self._response.write_eof()

    async def _flush(self) -> None:
        data, self._size = b"".join(self._waiting), 0
        self._waiting.clear()
        if data:
            await write(self._response, data, self._slice)


async def write(response: web.StreamResponse, data: bytes, slice_size: int) -> None:
    if not slice_size:
        await response.write(data)
        return
    for start in range(0, len(data), slice_size):
        await response.write(data[start : start + slice_size])
        await asyncio.sleep(0)


async def produce(job: Job, pace: float) -> None:
    """Works on a whole answer for as long as its tokens take; a caller who leaves is billed for those produced by then."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    if pace:
        try:
            await asyncio.sleep(job.planned * pace)
        except asyncio.CancelledError:
            job.produce_until(int((loop.time() - started) / pace))
            raise
    job.produce_rest()


async def hang_up(request: web.Request, how: str) -> None:
    """Ends the connection in the middle: FIN after what was written, or RST."""
    transport = request.transport
    if transport is None:
        return
    if how == "rst":
        await asyncio.sleep(0.01)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
