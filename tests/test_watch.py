"""Deadlines and departures: which wait is interrupted, with what, and that nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import UpstreamTimeout
from gateway.upstream.port import Deadlines
from gateway.watch import ClientGone, Watch

LONG = 60.0
SHORT = 0.02


async def forever() -> bytes:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    return await never


async def soon(value: bytes) -> bytes:
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize(
    ("deadlines", "opened", "content", "phase"),
    [
        (Deadlines(LONG, SHORT, LONG, LONG), False, False, "to the first token"),
        (Deadlines(LONG, LONG, SHORT, LONG), True, True, "between two reads"),
        (Deadlines(LONG, LONG, LONG, SHORT), True, True, "in all"),
        (Deadlines(LONG, SHORT, LONG, LONG), True, False, "to the first token"),
    ],
)
async def test_a_wait_that_exceeds_its_phase_names_it(deadlines: Deadlines, opened: bool, content: bool, phase: str) -> None:
    watch = Watch(deadlines)
    if opened:
        watch.opened()
    if content:
        watch.content_seen()
    with pytest.raises(UpstreamTimeout, match=phase) as caught:
        await watch.guard(forever())
    assert caught.value.dispatched
    watch.close()


async def test_bytes_restart_the_idle_limit_but_not_the_first_token_limit() -> None:
    watch = Watch(Deadlines(LONG, 0.1, 0.05, LONG))
    watch.opened()
    reads = 0
    with pytest.raises(UpstreamTimeout, match="to the first token"):
        while True:
            await watch.guard(asyncio.sleep(0.02))
            reads += 1
    assert reads >= 3
    watch.close()


async def test_a_client_that_leaves_ends_the_wait_at_once() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    asyncio.get_running_loop().call_soon(watch.client_left)
    with pytest.raises(ClientGone):
        await watch.guard(forever())
    watch.close()


async def test_a_host_that_is_heard_out_has_so_long_after_its_last_word() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    asyncio.get_running_loop().call_soon(watch.hear_out, 0.1)
    # It goes on as long as it says something.
    for _ in range(5):
        await watch.guard(asyncio.sleep(0.05))
    before = watch.elapsed
    with pytest.raises(UpstreamTimeout, match="after the client had left"):
        await watch.guard(forever())
    assert 0.1 <= watch.elapsed - before < LONG
    watch.close()


async def test_nothing_is_heard_out_once_it_is_over() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    watch.close()
    watch.hear_out(0)
    await asyncio.sleep(SHORT)
    assert watch.reason is None


async def test_a_departure_outside_a_wait_is_told_at_the_next_one() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    watch.client_left()
    assert await soon(b"settled") == b"settled"
    with pytest.raises(ClientGone):
        await watch.guard(soon(b"more"))
    watch.close()


async def test_a_slow_client_is_not_an_idle_host() -> None:
    watch = Watch(Deadlines(LONG, LONG, SHORT, LONG))
    watch.opened()
    watch.content_seen()
    await asyncio.sleep(4 * SHORT)
    assert await watch.guard(soon(b"still here")) == b"still here"
    watch.close()


async def test_a_client_that_takes_nothing_counts_as_gone() -> None:
    watch = Watch(Deadlines(LONG, LONG, SHORT, LONG))
    watch.opened()
    watch.content_seen()
    with pytest.raises(ClientGone):
        await watch.deliver(forever())
    watch.close()


async def test_a_slow_client_does_not_make_its_host_late() -> None:
    watch = Watch(Deadlines(LONG, SHORT, LONG, LONG))
    watch.opened()
    await watch.deliver(asyncio.sleep(4 * SHORT))
    watch.content_seen()
    assert await watch.guard(soon(b"more")) == b"more"
    watch.close()


async def test_a_total_that_is_over_while_the_client_reads_is_the_client_s() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, 2 * SHORT))
    watch.opened()
    watch.content_seen()
    with pytest.raises(ClientGone):
        await watch.deliver(forever())
    watch.close()


async def test_a_total_that_went_by_while_the_client_read_is_not_the_host_s() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, 4 * SHORT))
    watch.opened()
    watch.content_seen()
    await watch.deliver(asyncio.sleep(3 * SHORT))
    assert watch.waited_for_client >= 2.9 * SHORT
    assert watch.pace(1000) is None
    with pytest.raises(UpstreamTimeout, match="client read so slowly") as caught:
        await watch.guard(forever())
    assert caught.value.slow_client
    watch.close()


async def test_the_first_content_of_each_dispatch_is_told_once() -> None:
    told: list[bool] = []
    limits = Deadlines(LONG, LONG, LONG, LONG)
    watch = Watch(limits, proved=lambda: told.append(True))
    for count in (1, 2):
        watch.content_seen()
        watch.content_seen()
        assert len(told) == count
        assert watch.again(limits)
    watch.close()


async def test_another_dispatch_has_its_own_first_token_limit_and_the_same_total() -> None:
    watch = Watch(Deadlines(LONG, SHORT, LONG, 50 * SHORT))
    with pytest.raises(UpstreamTimeout, match="to the first token"):
        await watch.guard(forever())
    before = watch.elapsed
    assert watch.again(Deadlines(LONG, LONG, LONG, 50 * SHORT))
    assert watch.elapsed < before
    with pytest.raises(UpstreamTimeout, match="in all"):
        await watch.guard(forever())
    # The total is over: there is no third.
    assert not watch.again(Deadlines(LONG, LONG, LONG, 50 * SHORT))
    watch.close()


async def test_no_dispatch_for_a_client_that_has_left() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    watch.client_left()
    assert not watch.again(Deadlines(LONG, LONG, LONG, LONG))
    watch.close()


async def test_what_a_dispatch_took_is_told_from_what_went_before() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    await watch.guard(asyncio.sleep(4 * SHORT))
    watch.content_seen()
    assert watch.again(Deadlines(LONG, LONG, LONG, LONG))
    before = watch.first_token
    await watch.guard(asyncio.sleep(SHORT))
    watch.content_seen()
    assert before is None
    assert watch.first_token is not None
    assert watch.waited_here >= 0.5 * SHORT
    # What went before is in neither.
    assert watch.waited - watch.waited_here >= 3.9 * SHORT
    watch.close()


async def test_a_host_without_a_word_is_suspected_once_a_dispatch_and_waited_for() -> None:
    suspected: list[float] = []
    limits = Deadlines(LONG, LONG, LONG, LONG)
    watch = Watch(limits, lambda: suspected.append(watch.elapsed), silence=SHORT)
    await watch.guard(asyncio.sleep(4 * SHORT))
    assert len(suspected) == 1 and suspected[0] >= SHORT
    assert watch.again(limits)
    await watch.guard(asyncio.sleep(4 * SHORT))
    assert len(suspected) == 2
    watch.close()


async def test_a_host_that_has_begun_to_answer_is_not_suspected() -> None:
    suspected: list[bool] = []
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG), lambda: suspected.append(True), silence=SHORT)
    watch.opened()
    assert watch.opening is not None
    await watch.guard(asyncio.sleep(4 * SHORT))
    assert suspected == []
    watch.close()


async def test_a_suspicion_does_not_put_off_a_limit() -> None:
    watch = Watch(Deadlines(LONG, 2 * SHORT, LONG, LONG), lambda: None, silence=SHORT)
    with pytest.raises(UpstreamTimeout, match="to the first token"):
        await watch.guard(forever())
    assert watch.elapsed < LONG / 2
    watch.close()


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def ride() -> None:
        watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
        try:
            await watch.guard(forever())
        finally:
            watch.close()

    task = asyncio.create_task(ride())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_time_spent_waiting_is_told_from_our_own() -> None:
    watch = Watch(Deadlines(LONG, LONG, LONG, LONG))
    await watch.guard(asyncio.sleep(SHORT))
    await asyncio.sleep(SHORT)
    assert SHORT * 0.5 <= watch.waited < SHORT * 1.9
    watch.close()
