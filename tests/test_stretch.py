"""Holds that stretch: an answer never costs more than is held, asks before it has to, and ends well where no budget has more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.budgets import exceeded
from gateway.clock import parse_instant
from gateway.errors import BudgetExceeded, LedgerUnavailable
from gateway.ledger.port import HoldError
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.money import Rates, cost
from gateway.outcome import BudgetState, Grant, Hold
from gateway.relay import pump
from gateway.shape import StreamShape
from gateway.stretch import FREE, STEP, Patience, Stretch, left_text
from gateway.tokens import TextCounter, vocabulary
from gateway.upstream.port import Deadlines
from gateway.watch import Watch
from tests.answers import deployment

# A prompt of ten tokens at 150 nano, and answers at 600 nano a token.
RATES = Rates(15_000_000, 150_000_000, 600_000_000)
PROMPT = 10
WORST = cost(RATES, 0, PROMPT, 100_000)
WORDS = [" red", " green", " blue", " black", " white"]
HASTE = Patience(ask=5.0, again=0.0, grace=0.0)


def paid(tokens: int) -> int:
    return cost(RATES, 0, PROMPT, tokens)


def hold_of(nano: int) -> Hold:
    names = ("r1", "search", "k", "route", "deepseek", "m", "USD")
    return Hold(*names, nano=nano, expected=nano, worst=WORST, card="c", policies="p", started=parse_instant("2026-11-20T12:00:00Z"))


def state(left: int = 0) -> BudgetState:
    return BudgetState("search", "day", "", "2026-11-20", "USD", 1_000_000, 1_000_000 - left, 0, 1_000_000, 0, None)


REFUSAL = exceeded(state(), 19_200)
Answer = int | BaseException | Callable[[Hold], int]


class Till:
    """A ledger that only stretches: gives the next of these answers (nano in all, or an error), the last of them for ever."""

    def __init__(self, answers: Iterable[Answer], first: int) -> None:
        self._answers = iter(answers)
        self._last: Answer = REFUSAL
        self.held = first
        self.asked: list[Hold] = []

    async def extend(self, hold: Hold) -> Grant:
        assert self.held < hold.least <= hold.nano <= hold.worst
        self.asked.append(hold)
        answer = self._last = next(self._answers, self._last)
        await asyncio.sleep(0)
        if isinstance(answer, BaseException):
            raise answer
        self.held = answer(hold) if callable(answer) else max(hold.least, answer)
        return Grant(self.held, (state(self.held),))


class Pieces:
    """A host's answer in these reads."""

    status = 200
    content_type = "text/event-stream"
    retry_after: str | None = None
    ended = False

    def __init__(self, reads: Iterable[bytes]) -> None:
        self._reads = iter(reads)

    async def read(self) -> bytes:
        return next(self._reads, b"")

    def close(self) -> None: ...


def chunk(text: str = "", index: int = 0, key: str = "content", finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": "", "reasoning_content": None, key: text} | more
    body = {"id": "a", "created": 1, "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass
class Ride:
    """One answer through relay and shape, over a till."""

    till: Till
    first: int
    choices: int = 1
    patience: Patience = HASTE
    stop: StopRule | None = None
    client: bytes = b""
    told: list[tuple[BudgetState, ...]] = field(default_factory=list)
    free: bool = False

    def __post_init__(self) -> None:
        self._thoughts, self._words = TextCounter("deepseek"), TextCounter("deepseek")

    async def __call__(self, reads: Iterable[bytes]) -> Ride:
        target = deployment(contract={"tokenizer": "deepseek"})
        self.meter = Meter(target, PROMPT, self.choices)
        self.stretch = Stretch(self.till, hold_of(self.first), Grant(self.first), RATES, self.told.append, self.patience)  # type: ignore[arg-type]
        purse = self.stretch.purse(self.meter, "deepseek", PROMPT, lambda: (0, PROMPT))
        self.shape = StreamShape(target, include_usage=False, stop=self.stop, meter=self.meter, choices=self.choices, purse=purse)
        watch = Watch(Deadlines(5, 5, 5, 5))
        await pump(Pieces(reads), self.shape, self._sink, watch, self.stretch.more)
        watch.close()
        self.before_tail = self.client
        if self.shape.failure is None:
            self.client += self.shape.tail(None)
        return self

    async def _sink(self, data: bytes) -> None:
        self.client += data
        if not self.free:
            for delta in deltas_of(data):
                self._thoughts.feed(delta.get("reasoning_content") or "")
                self._words.feed(delta["content"] or "")
            passed = self._thoughts.count + self._words.count
            assert paid(passed) <= self.till.held, "more was passed on than is held"

    @property
    def events(self) -> list[dict[str, Any]]:
        return events_of(self.client)

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return deltas_of(self.client)

    @property
    def text(self) -> str:
        return "".join((delta.get("reasoning_content") or "") + (delta["content"] or "") for delta in self.deltas)

    @property
    def tokens(self) -> int:
        """Output tokens that the client has, as a charge would count them."""
        thoughts = "".join(delta.get("reasoning_content") or "" for delta in self.deltas)
        words = "".join(delta["content"] or "" for delta in self.deltas)
        return vocabulary().count(thoughts) + vocabulary().count(words) + bool(thoughts and words)

    @property
    def finishes(self) -> list[tuple[int, str]]:
        found = [(choice["index"], choice["finish_reason"]) for event in self.events for choice in event["choices"]]
        return [(index, finish) for index, finish in found if finish]


def events_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]


def deltas_of(data: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for event in events_of(data) for choice in event["choices"]]


def ride(till: Till, reads: Iterable[bytes], **more: Any) -> Ride:
    """The same in a loop of its own, for tests that draw many cases."""
    return asyncio.run(Ride(till, till.held, **more)(reads))


def words(count: int, size: int = 1, **more: Any) -> list[bytes]:
    """An answer of so many tokens, `size` of them in a chunk."""
    all_words = [WORDS[number % 5] for number in range(count)]
    return [chunk("".join(all_words[at : at + size]), **more) for at in range(0, count, size)]


END = [chunk(finish="stop"), DONE]


async def test_an_answer_that_gets_all_it_asks_for_is_passed_on_whole_and_asks_seldom() -> None:
    till = Till([lambda hold: hold.nano], paid(100))
    made = await Ride(till, till.held)([*words(5000), *END])
    assert made.tokens == 5000
    assert made.finishes == [(0, "stop")] and made.shape.stopped is None
    # Each time half as much again: from 100 tokens to 5,000 in eleven steps, and no more.
    assert len(till.asked) <= 12
    assert made.stretch.budgets == made.told[-1] == (state(till.held),)


@pytest.mark.parametrize("size", [1, 3])
async def test_an_answer_ends_at_the_last_token_that_is_paid_for(size: int) -> None:
    till = Till([REFUSAL], paid(100))
    made = await Ride(till, till.held)([*words(500, size), *END])
    assert made.tokens == 100
    assert made.finishes == [(0, "length")]
    assert (made.shape.stopped, made.shape.edits) == ("budget", {"truncate_output"})
    assert made.events[-1]["faregate"] == {"stopped": "budget"}
    assert made.events[-1]["id"] == "a"
    assert made.client.endswith(DONE)
    # What is charged is what has come: beyond the hold at most the rest of the one chunk in which the money ended.
    assert 100 <= made.meter.output <= 100 + size - 1
    assert made.meter.billed() is None


async def test_a_limit_is_not_reached_sooner_because_the_hold_is_stretched_on_the_way() -> None:
    words = [chunk(WORDS[number % 5]) for number in range(1500)]
    ride = await Ride(Till([lambda hold: hold.nano], paid(60)), paid(60), stop=StopRule("total", 1000))(words)
    assert len(ride.till.asked) > 3
    assert (ride.tokens, ride.shape.stopped) == (1000, "limit")


async def test_a_call_in_the_form_that_came_before_tools_is_paid_for_as_it_streams() -> None:
    calls = [chunk(function_call={"arguments": f" {number}"}) for number in range(500)]
    ride = await Ride(Till([REFUSAL], paid(100)), paid(100), free=True)(calls)
    arguments = "".join(delta.get("function_call", {}).get("arguments", "") for delta in ride.deltas)
    assert 0 < vocabulary().count(arguments) <= 100
    assert (ride.shape.stopped, ride.finishes) == ("budget", [(0, "length")])


async def test_money_that_others_give_back_is_used_and_a_refusal_is_not_asked_for_each_chunk() -> None:
    till = Till([REFUSAL, REFUSAL, REFUSAL, lambda hold: hold.least, REFUSAL], paid(1000))
    made = await Ride(till, till.held)([*words(5000), *END])
    used = [(hold.least - paid(0)) // 600 for hold in till.asked]
    assert made.tokens == 1000 + STEP
    # At 750, 875 and 937 tokens, then granted at 968; then by halves of what is left again.
    assert used[:4] == [1000 + STEP] * 4
    assert len(till.asked) <= 16


async def test_the_worst_case_ends_the_asking() -> None:
    till = Till([lambda hold: hold.worst], paid(50))
    made = await Ride(till, till.held)([*words(2000), *END])
    assert (made.tokens, len(till.asked)) == (2000, 1)
    assert made.stretch.whole


async def test_an_answer_that_is_complete_asks_for_nothing_more() -> None:
    till = Till([REFUSAL], paid(40))
    made = await Ride(till, till.held)([*words(39), chunk(" end", finish="stop"), DONE])
    assert (made.tokens, made.finishes, made.shape.stopped) == (40, [(0, "stop")], None)
    till = Till([REFUSAL], paid(40))
    made = await Ride(till, till.held)([chunk(" red" * 40, finish="stop"), DONE])
    assert (made.tokens, made.finishes, till.asked) == (40, [(0, "stop")], [])


async def test_a_last_chunk_that_is_not_paid_for_is_cut() -> None:
    till = Till([REFUSAL], paid(40))
    made = await Ride(till, till.held)([*words(38), chunk(" red green blue", finish="stop"), DONE])
    assert (made.tokens, made.finishes, made.shape.stopped) == (40, [(0, "length")], "budget")


async def test_thinking_is_paid_for_as_it_streams() -> None:
    till = Till([REFUSAL], paid(100))
    made = await Ride(till, till.held)([*words(300, key="reasoning_content"), *words(20), *END])
    assert (made.tokens, made.finishes) == (100, [(0, "length")])
    assert all(delta["content"] in ("", None) for delta in made.deltas)


async def test_the_end_of_thinking_is_a_token_too() -> None:
    till = Till([REFUSAL], paid(100))
    made = await Ride(till, till.held)([*words(60, key="reasoning_content"), *words(300), *END])
    assert made.meter.output == made.tokens == 100
    assert vocabulary().count(made.text) == 99


async def test_a_tool_call_that_is_not_paid_for_whole_is_left_out() -> None:
    till, call = Till([REFUSAL], paid(50)), {"index": 0, "function": {"name": "f", "arguments": " red green blue" * 20}}
    made = await Ride(till, till.held)([*words(20), chunk(tool_calls=[call]), *END])
    assert made.finishes == [(0, "length")]
    assert not any(delta.get("tool_calls") for delta in made.deltas)
    # It was written, so it is charged.
    assert made.meter.output > 70
    till = Till([REFUSAL], paid(100))
    made = await Ride(till, till.held)([*words(20), chunk(tool_calls=[call]), chunk(finish="tool_calls"), DONE])
    assert made.finishes == [(0, "tool_calls")]
    assert any(delta.get("tool_calls") for delta in made.deltas)


async def test_all_choices_share_the_money_and_end_together() -> None:
    till = Till([REFUSAL], paid(100))
    both = [event for pair in zip(words(200), words(200, index=1), strict=True) for event in pair]
    made = await Ride(till, till.held, choices=3)([*both, *END])
    assert sorted(made.finishes) == [(0, "length"), (1, "length"), (2, "length")]
    assert 95 <= made.tokens <= 100


async def test_a_choice_that_has_ended_keeps_its_own_end() -> None:
    till = Till([REFUSAL], paid(100))
    made = await Ride(till, till.held, choices=2)([*words(10), chunk(finish="stop"), *words(200, index=1), *END])
    assert made.finishes == [(0, "stop"), (1, "length")]
    assert made.events[-1]["choices"][0]["index"] == 1


async def test_a_stream_that_breaks_off_while_it_waits_is_a_failure() -> None:
    for broken, kind in ((chunk(" last" * 60).rstrip(), "no_finish"), (chunk(" last" * 60) + b"data: " + b"x" * (1 << 20), "too_large")):
        till = Till([lambda hold: hold.nano], paid(50))
        made = await Ride(till, till.held)([broken])
        assert made.shape.failure is not None and made.shape.failure.kind == kind
        assert (made.meter.output, len(till.asked)) == (60, 1)


# ---- the ledger away


async def test_while_the_ledger_is_away_an_answer_goes_on_and_ends() -> None:
    till = Till([LedgerUnavailable("away")], paid(100))
    made = await Ride(till, till.held, free=True)([*words(3000), *END])
    assert (made.tokens, made.finishes, made.shape.stopped) == (3000, [(0, "stop")], None)


async def test_a_short_absence_is_waited_for_and_costs_nothing() -> None:
    away = LedgerUnavailable("away")
    till = Till([away] * 9 + [lambda hold: hold.nano], paid(100))
    made = await Ride(till, till.held, patience=Patience(again=0.0, grace=60.0))([*words(3000), *END])
    assert made.tokens == 3000
    assert len(till.asked) > 10


async def test_what_is_held_is_used_up_before_anything_is_waited_for() -> None:
    seen: list[int] = []

    def away(hold: Hold) -> int:
        seen.append(made.tokens)
        raise LedgerUnavailable("away")

    till = Till([away, away, REFUSAL], paid(100))
    made = Ride(till, till.held, patience=Patience(again=0.0, grace=60.0))
    await made([*words(500), *END])
    assert made.tokens == 100
    assert seen[0] < seen[1] < 100


async def test_when_the_ledger_is_back_a_budget_without_room_ends_the_answer() -> None:
    till = Till([LedgerUnavailable("away")] * 20 + [REFUSAL], paid(100))
    made = await Ride(till, till.held, free=True)([*words(30_000), *END])
    assert (made.shape.stopped, made.finishes) == ("budget", [(0, "length")])
    assert 100 < made.tokens <= 100 + 20 * FREE


async def test_a_ledger_that_does_not_answer_is_away() -> None:
    class Silent(Till):
        async def extend(self, hold: Hold) -> Grant:
            self.asked.append(hold)
            await asyncio.Event().wait()
            raise AssertionError

    till = Silent([], paid(100))
    made = await Ride(till, till.held, free=True, patience=Patience(ask=0.0, again=60.0, grace=0.0))([*words(1000), *END])
    assert made.tokens == 1000
    # It is asked once, then left alone for a minute.
    assert len(till.asked) == 1


async def test_a_hold_that_has_ended_is_used_up_and_not_asked_for_again() -> None:
    till = Till([HoldError("expired")], paid(100))
    made = await Ride(till, till.held)([*words(500), *END])
    assert (made.tokens, made.finishes, len(till.asked)) == (100, [(0, "length")], 1)


# ---- whatever is granted


GRANTS = st.lists(st.one_of(st.none(), st.integers(0, 400)), max_size=12)
READS = st.lists(st.integers(1, 2000), min_size=1, max_size=20)


def answers_of(grants: list[int | None]) -> list[Answer]:
    """Grants of so many tokens more than the least, and refusals."""

    def grant(more: int) -> Callable[[Hold], int]:
        return lambda hold: min(hold.worst, max(hold.least, min(hold.nano, hold.least + 600 * more)))

    return [*(REFUSAL if more is None else grant(more) for more in grants), REFUSAL]


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, number = 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        yield data[at : at + size]
        at, number = at + size, number + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), GRANTS, st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 40), READS)
def test_never_is_more_passed_on_than_granted_however_the_stream_is_read(
    first: int, grants: list[int | None], sizes: list[int], thoughts: int, reads: list[int]
) -> None:
    texts = [WORDS[number % 5] * size for number, size in enumerate(sizes * 12)]
    events = [chunk(text, key="reasoning_content" if number < thoughts else "content") for number, text in enumerate(texts)]
    stream = b"".join([*events, *END])
    one, other = (ride(Till(answers_of(grants), paid(first)), way) for way in (cut(stream, reads), [stream]))
    assert one.client == other.client
    assert one.meter.output == other.meter.output
    assert [hold.nano for hold in one.till.asked] == [hold.nano for hold in other.till.asked]
    if one.shape.stopped:
        # To the token: one more would not have been paid for. A cut in a chunk of many tokens may leave one.
        assert paid(one.tokens + 2) > one.till.held
        assert paid(one.meter.output) <= one.till.held + 600 * max(sizes)


def test_single_bytes_are_read_as_the_whole() -> None:
    stream = b"".join([*words(400, 3), *END])
    one, other = (ride(Till([9_000, REFUSAL], paid(60)), reads) for reads in (cut(stream, [1]), [stream]))
    assert one.client == other.client
    assert one.shape.stopped == "budget"


def test_a_refusal_says_what_is_left() -> None:
    assert left_text(exceeded(state(250), 500)) == "day=0.00000025 USD"
    assert left_text(BudgetExceeded("a step", details={"step": 95})) == left_text(LedgerUnavailable("away")) == ""
