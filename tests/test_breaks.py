"""Where prompts break: by place and kind, and silent where a conversation just goes on."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.breaks import Breaks, overlap, priced
from gateway.money import Rates
from gateway.outcome import Break
from gateway.prefix import APART, prints
from gateway.request import ChatRequest

SECRET = b"a team's own"
SYSTEM = {"role": "system", "content": "You are careful. " * 40}
TOOLS = [{"type": "function", "function": {"name": f"tool_{n}", "description": "does " * n, "parameters": {}}} for n in range(6)]
Message = dict[str, Any]


def said(role: str, text: str, times: int = 20) -> Message:
    return {"role": role, "content": f"{text} " * times}


U1, A1, U2, A2, U3 = (
    said("user", "first"),
    said("assistant", "one", 30),
    said("user", "second", 25),
    said("assistant", "two"),
    said("user", "third"),
)


class Watch:
    """One watcher, asked as the gateway asks it: a token for each four bytes."""

    def __init__(self, session: str = "", most: int = 100_000) -> None:
        self.breaks = Breaks(most)
        self.session = session

    def look(self, *messages: Message, tools: list[Any] | None = None, conversation: int = 1) -> Break | None:
        body: dict[str, Any] = {"messages": list(messages)} | ({"tools": tools} if tools else {})
        request = ChatRequest("r", "m", body, False, False, False, 0, session=self.session)
        found = prints(tools, list(messages), SECRET)
        return self.breaks.look(conversation, found, request, found.size // 4)


def test_a_conversation_that_goes_on_breaks_nothing() -> None:
    watch = Watch()
    for end in (2, 2, 4, 6, 4, 6):
        assert watch.look(*[SYSTEM, U1, A1, U2, A2, U3][:end], tools=TOOLS) is None


def clocked(at: str) -> Message:
    return {"role": "system", "content": f"Current time: {at}\n" + SYSTEM["content"]}


SWAPPED = [*TOOLS[3:], *TOOLS[:3]]
FEWER = TOOLS[1:]
# What came before, what comes now: the part, its kind.
CASES: dict[str, tuple[list[Message], list[Any] | None, list[Message], list[Any] | None, tuple[str, str]]] = {
    "a clock at the head": ([clocked("12:00"), U1], None, [clocked("12:01"), U1, A1, U2], None, ("messages[0] (system)", "system_changed")),
    "a system message further down": (
        [SYSTEM, U1, A1, said("system", "old"), U2],
        None,
        [SYSTEM, U1, A1, said("system", "new"), U2, A2, U3],
        None,
        ("messages[3] (system)", "system_changed"),
    ),
    "tools in another order": ([SYSTEM, U1], TOOLS, [SYSTEM, U1, A1, U2], SWAPPED, ("tools", "tools_order")),
    "a tool less": ([SYSTEM, U1], TOOLS, [SYSTEM, U1, A1, U2], FEWER, ("tools", "tools_changed")),
    "tools that come": ([SYSTEM, U1], None, [SYSTEM, U1, A1, U2], TOOLS, ("tools", "tools_changed")),
    "tools that go": ([SYSTEM, U1], TOOLS, [SYSTEM, U1, A1, U2], None, ("tools", "tools_changed")),
    "an answer in other words": (
        [SYSTEM, U1, A1, U2, A2, U3],
        None,
        [SYSTEM, U1, said("assistant", "won"), U2, A2, U3, A2, U2],
        None,
        ("messages[2] (assistant)", "history_rewritten"),
    ),
    "the oldest turn left out": (
        [SYSTEM, U1, A1, U2, A2, U3],
        TOOLS,
        [SYSTEM, U1, U2, A2, U3, A1, U2],
        TOOLS,
        ("messages[2] (user)", "truncated"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_break_is_found_where_it_is(name: str) -> None:
    before, tools_before, now, tools_now, (part, kind) = CASES[name]
    watch = Watch()

    assert watch.look(*before, tools=tools_before) is None
    found = watch.look(*now, tools=tools_now)

    assert found is not None
    assert (found.part, found.kind, found.nano) == (part, kind, 0)


def test_the_place_is_told_to_within_the_bytes_that_are_hashed_at_once() -> None:
    head, tail = "a" * 1000, "b" * 2000
    watch = Watch()
    watch.look({"role": "system", "content": head + "1" + tail}, U1)

    found = watch.look({"role": "system", "content": head + "2" + tail}, U1, A1, U2)

    assert found is not None
    place = len('{"role":"system","content":"') + len(head)
    assert found.offset <= place < found.offset + found.within
    assert found.within <= 256
    # What the two had in common behind it: of 3000 bytes, all but the first thousand.
    assert 2000 <= found.tokens * 4 - len(str(U1)) <= 2300


# Session or not, what came before, what comes now: none of it is a break.
NO_BREAKS: dict[str, tuple[str, list[Message], list[Message]]] = {
    "the last question in other words": ("", [SYSTEM, U1, A1, U2], [SYSTEM, U1, A1, U3]),
    "the only question in other words": ("s", [SYSTEM, U1], [SYSTEM, U2]),
    "the same question to another end": ("", [SYSTEM, U1, A1, U2], [SYSTEM, U1, A2, said("user", "else", 60)]),
    "a title beside a conversation": ("s", [SYSTEM, U1, A1, U2], [said("system", "Write a title."), said("user", "of this")]),
    "the beginning again": ("s", [SYSTEM, U1, A1, U2], [SYSTEM, U1]),
}


@pytest.mark.parametrize("name", NO_BREAKS)
def test_what_is_no_break_is_not_told(name: str) -> None:
    session, before, now = NO_BREAKS[name]
    watch = Watch(session)
    assert watch.look(*before) is None
    assert watch.look(*now) is None


def test_agents_of_one_session_talk_side_by_side() -> None:
    watch = Watch("s")
    main, helper = [SYSTEM, U1, A1, U2, A2, U3], [said("system", "helper", 50), U2, A2, U1, A1, U3]
    for end in (2, 4, 6):
        assert watch.look(*main[:end], tools=TOOLS) is None
        assert watch.look(*helper[:end]) is None


def test_a_session_is_known_again_when_its_first_question_changes() -> None:
    watch = Watch("s")
    watch.look(SYSTEM, said("user", "it is 12:00"), A1, U2)
    found = watch.look(SYSTEM, said("user", "it is 12:01"), A1, U2, A2, U3)
    assert found is not None and (found.part, found.kind) == ("messages[1] (user)", "question_changed")


def test_a_session_is_known_again_when_its_first_turns_are_left_out() -> None:
    watch = Watch("s")
    watch.look(SYSTEM, U1, A1, U2, A2, U3)
    found = watch.look(SYSTEM, U2, A2, U3, A1, U1)
    assert found is not None and (found.part, found.kind) == ("messages[1] (user)", "truncated")


class Counted(int):
    """A size that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


sizes = st.lists(st.integers(0, 1), max_size=12)


@settings(max_examples=1000)
@given(sizes, sizes)
@example([0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0])
def test_the_overlap_is_what_trying_each_start_finds(before: list[int], now: list[int]) -> None:
    ends = [before[start:] for start in range(len(before) + 1)]
    assert overlap(before, now) == len(next(end for end in ends if end == now[: len(end)]))


@pytest.mark.parametrize("tail", [(2,), (), (1,) * 500])
def test_looking_for_what_was_cut_takes_linear_time(tail: tuple[int, ...]) -> None:
    """Thousands of messages of one size, which anybody may send, must not keep all others waiting."""
    before, now = [Counted(1)] * 4000, [*map(Counted, [1] * 3000), *map(Counted, tail)]
    Counted.compared = 0
    assert overlap([*before, Counted(3)], now) == 0
    assert 3000 < Counted.compared < 6 * 8000


def test_prompts_of_more_messages_than_any_conversation_has_are_passed_over() -> None:
    watch = Watch("s")
    many = [said("user", "a", 1)] * (APART + 1)
    for head in ("x", "y", "z"):
        assert watch.look(said("system", head), *many) is None
    assert len(watch.breaks) == 0
    assert watch.look(clocked("12:00"), *many[:-2]) is None
    assert watch.look(clocked("12:01"), *many[:-2]) is not None


def test_of_very_many_tools_the_order_is_not_remembered() -> None:
    watch = Watch()
    many = [{"name": f"{number}"} for number in range(2000)]
    watch.look(SYSTEM, U1, tools=many)
    found = watch.look(SYSTEM, U1, A1, U2, tools=many[::-1])
    assert found is not None and found.kind == "tools_changed"
    assert list(watch.breaks._tools.values()) == [(), ()]


def test_another_conversation_knows_nothing_of_it() -> None:
    watch = Watch()
    watch.look(clocked("12:00"), U1)
    assert watch.look(clocked("12:01"), U1, conversation=2) is None


def test_a_role_that_a_client_made_up_is_not_repeated() -> None:
    watch = Watch("s")
    watch.look(SYSTEM, U1, said("my secret", "x"), U2, A2, U3)
    found = watch.look(SYSTEM, U1, said("my secret", "y"), U2, A2, U3, A1, U1)
    assert found is not None and found.part == "messages[2] (other)"


def test_memory_is_bounded_and_the_longest_unused_is_forgotten() -> None:
    watch = Watch(most=1000)
    for number in range(500):
        watch.look(clocked("12:00"), U1, conversation=number)
        watch.look(clocked("12:01"), U1, conversation=0)
    assert len(watch.breaks) < 25
    assert watch.look(clocked("12:02"), U1, conversation=0) is not None
    assert watch.look(clocked("12:02"), U1, conversation=1) is None


def test_a_session_of_many_threads_is_bounded_too() -> None:
    watch = Watch("s")
    for number in range(100):
        watch.look(SYSTEM, said("user", f"question {number}"))
    assert len(watch.breaks._talks[1]) == 4


@pytest.mark.parametrize(("tokens", "nano"), [(0, 0), (1, 638), (1_000_000, 638_000_000), (17_760, 11_330_880)])
def test_a_break_is_priced_by_what_a_miss_costs_more(tokens: int, nano: int) -> None:
    rates = Rates(22_000_000, 660_000_000, 1_980_000_000)
    assert priced(Break("tools", 0, 256, "tools_order", tokens), rates) == Break("tools", 0, 256, "tools_order", tokens, nano)


def test_where_the_cache_is_not_cheaper_nothing_is_lost() -> None:
    assert priced(Break("tools", 0, 256, "tools_order", 1000), Rates(5, 4, 9)).nano == 0


@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_growing_conversations_never_break_and_a_changed_head_always_does(seed: int, turns: int, session: bool) -> None:
    chance = random.Random(seed)
    watch = Watch("s" if session else "")
    talk = [said("system", "be kind", chance.randrange(1, 400)), said("user", "hello", chance.randrange(1, 400))]
    for _ in range(turns):
        assert watch.look(*talk) is None
        talk += [said(role, f"{chance.random()}", chance.randrange(1, 200)) for role in ("assistant", "user")]
    size = sum(len(one["content"]) for one in talk[:-2])

    found = watch.look(said("system", "be rude", len(talk[0]["content"]) // 8), *talk[1:])

    assert found is not None and (found.part, found.offset, found.kind) == ("messages[0] (system)", 0, "system_changed")
    assert found.tokens * 4 >= size
