"""The relay: reads until the shape has enough, waits for a slow client, stops at limits and departures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.meter import Meter
from gateway.relay import collect, hear_out, pump
from gateway.shape import StreamShape
from gateway.upstream.port import Deadlines
from gateway.watch import ClientGone, Watch
from tests.answers import deployment

PATIENT = Deadlines(5, 5, 5, 5)
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi","reasoning_content":null},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def silent() -> None:
    """Nothing is told."""


class Script:
    """An answer that gives these pieces, then waits for ever or ends."""

    status = 200
    content_type = "text/event-stream"
    retry_after: str | None = None

    def __init__(self, pieces: Iterable[bytes], ends: bool = True, tells: bool = False) -> None:
        self._pieces = list(pieces)
        self._ends = ends
        self._tells = tells
        self.reads = 0

    @property
    def ended(self) -> bool:
        return self._tells and not self._pieces

    async def read(self) -> bytes:
        self.reads += 1
        if self._pieces:
            return self._pieces.pop(0)
        if not self._ends:
            await asyncio.Event().wait()
        return b""

    def close(self) -> None: ...


def shape() -> StreamShape:
    target = deployment()
    return StreamShape(target, include_usage=False, stop=None, meter=Meter(target, 7))


class Client:
    """Takes what is sent; `gate` closed: it is slow."""

    def __init__(self) -> None:
        self.data = b""
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, data: bytes) -> None:
        await self.gate.wait()
        self.data += data


async def test_everything_before_the_finish_is_sent_and_nothing_is_read_after_done() -> None:
    answer, client, found = Script([CHUNK, CHUNK + END, CHUNK]), Client(), shape()
    watch = Watch(PATIENT)
    await pump(answer, found, client, watch)
    watch.close()
    assert client.data == CHUNK + CHUNK
    assert (answer.reads, found.done, found.failure) == (2, True, None)
    assert watch.first_content is not None


async def test_an_early_end_is_the_shapes_to_judge() -> None:
    found, watch = shape(), Watch(PATIENT)
    await pump(Script([CHUNK]), found, Client(), watch)
    watch.close()
    assert found.failure is not None
    assert found.failure.kind == "no_finish"


async def test_a_slow_client_stops_the_reading() -> None:
    answer, client = Script([CHUNK] * 100 + [END]), Client()
    client.gate.clear()
    # The watch belongs to the task that reads.
    watches: list[Watch] = []

    async def course() -> None:
        watches.append(Watch(PATIENT))
        await pump(answer, shape(), client, watches[0])

    task = asyncio.create_task(course())
    for _ in range(20):
        await asyncio.sleep(0)
    assert answer.reads == 1
    client.gate.set()
    await task
    watches[0].close()
    assert answer.reads == 101
    assert client.data == CHUNK * 100


async def test_a_departure_ends_the_waiting_at_once() -> None:
    watch = Watch(PATIENT)
    asyncio.get_running_loop().call_soon(watch.client_left)
    with pytest.raises(ClientGone):
        await pump(Script([CHUNK], ends=False), shape(), Client(), watch)
    watch.close()


async def test_a_silent_host_ends_at_the_limit() -> None:
    watch = Watch(Deadlines(5, 5, 0.05, 5))
    watch.opened()
    with pytest.raises(UpstreamTimeout, match="between two reads"):
        await pump(Script([CHUNK], ends=False), shape(), Client(), watch)
    watch.close()


async def test_a_whole_body_is_collected_up_to_its_limit() -> None:
    watch = Watch(PATIENT)
    assert await collect(Script([b'{"a"', b":1}"]), watch) == b'{"a":1}'
    assert len(await collect(Script([b"x" * 10]), watch, limit=10)) == 10
    with pytest.raises(UpstreamError, match="larger than 10 bytes"):
        await collect(Script([b"x" * 6, b"x" * 5]), watch, limit=10)
    watch.close()


async def test_an_answer_that_says_that_it_has_ended_is_not_read_again() -> None:
    watch, told = Watch(PATIENT), Script([b'{"a"', b":1}"], ends=False, tells=True)
    assert await collect(told, watch) == b'{"a":1}'
    assert told.reads == 2
    watch.close()


async def test_blank_lines_before_a_whole_body_keep_the_client_waiting_and_are_no_content() -> None:
    watch, client = Watch(PATIENT), Client()
    assert await collect(Script([b"\n", b"\n\n", b'{"a":1}', b"\n"]), watch, blanks=client) == b'{"a":1}\n'
    watch.close()
    assert client.data == b"\n\n\n"


FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
# A host that has usage in every chunk, and fills it in the last.
ZEROES = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n'
BILL = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":40}}\n\n'


@pytest.mark.parametrize("cut", range(0, len(BILL), 9))
async def test_the_bill_of_a_stream_that_we_ended_is_heard_however_it_comes(cut: int) -> None:
    meter, rest = Meter(deployment(), 7), CHUNK[9:] + ZEROES + FINISH + BILL[:cut]
    watch = Watch(PATIENT)
    # A host that leaves its connection open after [DONE] is not waited for.
    await hear_out(Script([BILL[cut:] + END], ends=False), rest, meter, watch, silent)
    watch.close()
    assert watch.reason is None
    usage = meter.billed()
    assert usage is not None
    assert (usage.prompt, usage.output) == (7, 40)


@pytest.mark.parametrize("begun", [CHUNK, ZEROES, CHUNK + ZEROES])
async def test_a_stream_that_breaks_after_we_ended_it_has_no_bill(begun: bytes) -> None:
    class Broken(Script):
        async def read(self) -> bytes:
            raise UpstreamError("reset", dispatched=True)

    meter, watch = Meter(deployment(), 7), Watch(PATIENT)
    await hear_out(Broken([]), begun, meter, watch, silent)
    watch.close()
    assert meter.billed() is None
    assert meter.produced


async def test_a_host_that_hangs_after_we_ended_it_spoils_nothing_and_the_client_hears_of_us_meanwhile() -> None:
    told = []

    async def tell() -> None:
        told.append(meter.output)

    meter, watch = Meter(deployment(), 7), Watch(Deadlines(5, 5, 0.05, 5))
    watch.opened()
    await hear_out(Script([CHUNK, CHUNK], ends=False), CHUNK, meter, watch, tell)
    assert watch.reason is None
    assert told == [1, 2, 3]
    # The next wait has limits of its own.
    with pytest.raises(ClientGone):
        await watch.deliver(asyncio.Event().wait())
    watch.close()
