"""Relay: upstream bytes to the client, read on the side; back-pressure is the client's own pace.

Reading stops while a send waits, so what is in flight is bounded by the two sockets' buffers and one read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.dialects import Choice, Delta, call_text, detail_text, good_finish, read_chunk
from gateway.errors import UpstreamError
from gateway.meter import Meter
from gateway.shape import NULL, StreamShape
from gateway.sse import BadStream, Splitter, data_of
from gateway.upstream.port import Answer
from gateway.watch import Watch

# A whole answer larger than this is no chat completion.
WHOLE_LIMIT = 64 * 1024 * 1024

Send = Callable[[bytes], Awaitable[None]]
"""Where shaped bytes go: the client, or the assembler of a whole answer."""
More = Callable[[], Awaitable[None]]


async def pump(answer: Answer, shape: StreamShape, sink: Send, watch: Watch, more: More | None = None) -> None:
    """Read until the stream has ended, failed or was stopped; `shape` knows which. Raises UpstreamError or ClientGone.

    `more` asks for the money that the shape waits for; nothing is read or passed on meanwhile, and no departure interrupts it.
    """
    while not shape.over:
        data = await watch.guard(answer.read())
        if data:
            out = shape.feed(data)
        else:
            shape.end()
            out = b""
        if shape.produced:
            watch.content_seen()
        if out:
            await watch.deliver(sink(out))
        if more is not None:
            await _pay(shape, sink, watch, more)
        if not data:
            return


async def _pay(shape: StreamShape, sink: Send, watch: Watch, more: More) -> None:
    """Go on as long as chunks wait for money."""
    while shape.unpaid:
        await more()
        out = shape.resume()
        if out:
            await watch.deliver(sink(out))


async def hear_out(answer: Answer, unheard: bytes, meter: Meter, watch: Watch, tell: More) -> None:
    """Read a stream that was ended for the client to the host's own end, for its bill alone; where it breaks off, what came is counted.

    `tell` lets the client know that there is life. Whatever becomes of the host, the answer is good and is given next.
    """
    splitter, data = Splitter(), unheard
    with suppress(UpstreamError, BadStream):
        while not any([_overhear(event, meter) for event in splitter.feed(data)]):
            await tell()
            if not (data := await watch.guard(answer.read())):
                return
    watch.forgive()


def _overhear(event: bytes, meter: Meter) -> bool:
    """Take the text and the usage of an event; whether it is the last one."""
    data = data_of(event) or b""
    with suppress(ValueError):
        chunk = read_chunk(data)
        for choice in chunk.choices or ():
            _count(choice, meter)
            meter.finish = meter.finish or good_finish(choice.finish_reason)
        if chunk.usage and chunk.usage != NULL:
            meter.report(chunk.usage, chunk.timings, final=meter.finish is not None)
    return data.strip() == b"[DONE]"


def _count(choice: Choice, meter: Meter) -> None:
    """The host bills this text, although nobody gets it."""
    delta = choice.delta or Delta()
    if reasoning := delta.reasoning_content or delta.reasoning or detail_text(delta.reasoning_details):
        meter.reasoning.add(reasoning)
    if delta.content:
        meter.answer.add(delta.content)
    if calls := call_text(delta):
        meter.answer.add_calls(calls, beside=bool(delta.content))


async def collect(answer: Answer, watch: Watch, limit: int = WHOLE_LIMIT, blanks: Send | None = None) -> bytes:
    """A whole body of at most `limit` bytes; raises UpstreamError or ClientGone.

    With `blanks`, what comes before the body to keep the connection alive goes there as it comes, and is not in the result.
    """
    pieces: list[bytes] = []
    size = 0
    # Most answers end with what was read last: they say so, and nothing is awaited for it.
    while not answer.ended:
        data = await watch.guard(answer.read())
        if not data:
            break
        size += len(data)
        if size > limit:
            raise UpstreamError(f"The host's answer is larger than {limit} bytes.", dispatched=True)
        if blanks is not None and not pieces and data.isspace():
            await watch.deliver(blanks(data))
            continue
        watch.content_seen()
        pieces.append(data)
    return b"".join(pieces)


async def glimpse(answer: Answer, watch: Watch, limit: int) -> bytes:
    """The beginning of a refusal's body; one that is too long or breaks is just cut, and then its status alone decides."""
    pieces: list[bytes] = []
    with suppress(UpstreamError):
        while sum(map(len, pieces)) < limit and not answer.ended:
            data = await watch.guard(answer.read())
            if not data:
                break
            pieces.append(data)
    return b"".join(pieces)[:limit]
