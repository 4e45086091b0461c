"""What changes in prompts is taken out or moved by a team's rules; everything else is passed on as it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.patterns import LONGEST
from gateway.prefix import prints, shared
from gateway.request import ChatRequest
from gateway.teams import TeamRow, VolatileRow
from gateway.volatile import LOOKED, extent
from gateway.volatile import settle as settled

DATE, BILLING = VolatileRow(line="date"), VolatileRow(line="claude-code-billing")
MOVED = VolatileRow(line="date", do="move")
SORTED = VolatileRow(tools="sort")
CLOCK = "Current time: 2026-11-21 12:03:44"
HEADER = "x-anthropic-billing-header: cc_version=2.1.197.3fa; cc_entrypoint=sdk-cli;"
RULES = "You are careful.\nAnswer in one line."
Message = dict[str, Any]


def request(*messages: Message, tools: Any = None) -> ChatRequest:
    body: dict[str, Any] = {"model": "m", "messages": list(messages)} | ({} if tools is None else {"tools": tools})
    return ChatRequest("r", "m", body, False, False, False, 1000, edits=("restore_reasoning=1",))


def settle(asked: ChatRequest, rules: tuple[VolatileRow, ...]) -> ChatRequest:
    return settled(asked, rules).request


def system(text: Any) -> Message:
    return {"role": "system", "content": text}


def user(text: Any) -> Message:
    return {"role": "user", "content": text}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def tool(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"does {name}"}}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "17"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}

# The rules, the messages, what is left of them, the edits.
CASES: dict[str, tuple[tuple[VolatileRow, ...], list[Message], list[Message], tuple[str, ...]]] = {
    "a clock before the rules": ((DATE,), [system(f"{CLOCK}\n{RULES}"), user("Hi")], [system(RULES), user("Hi")], ("drop_volatile=1",)),
    "a clock among them": (
        (DATE,),
        [system(f"You are careful.\n{CLOCK}\nAnswer in one line."), user("Hi")],
        [system(RULES), user("Hi")],
        ("drop_volatile=1",),
    ),
    "a clock alone in its message": (
        (DATE,),
        [system(CLOCK), system(RULES), user("Hi")],
        [system(RULES), user("Hi")],
        ("drop_volatile=1",),
    ),
    "developers too": (
        (DATE,),
        [{"role": "developer", "content": f"{CLOCK}\nx"}, user("Hi")],
        [{"role": "developer", "content": "x"}, user("Hi")],
        ("drop_volatile=1",),
    ),
    "the block of claude code": (
        (BILLING,),
        [system([text(HEADER), text("You are Claude Code.")]), user("Hi")],
        [system([text("You are Claude Code.")]), user("Hi")],
        ("drop_volatile=1",),
    ),
    "what a block has beside its text stays": (
        (BILLING,),
        [system([{**text(f"{HEADER}\nx"), "cache_control": {"type": "ephemeral"}}]), user("Hi")],
        [system([{**text("x"), "cache_control": {"type": "ephemeral"}}]), user("Hi")],
        ("drop_volatile=1",),
    ),
    "moved behind the question": (
        (MOVED,),
        [system(f"{CLOCK}\n{RULES}"), user("Hi")],
        [system(RULES), user(f"Hi\n\n{CLOCK}")],
        ("move_volatile=1",),
    ),
    "moved behind the last question, and not an earlier one": (
        (MOVED,),
        [system(f"{CLOCK}\n{RULES}"), user("Hi"), {"role": "assistant", "content": "Ho"}, user("And?")],
        [system(RULES), user("Hi"), {"role": "assistant", "content": "Ho"}, user(f"And?\n\n{CLOCK}")],
        ("move_volatile=1",),
    ),
    "moved behind parts": (
        (MOVED,),
        [system(f"{CLOCK}\n{RULES}"), user([text("Hi"), IMAGE])],
        [system(RULES), user([text("Hi"), IMAGE, text(CLOCK)])],
        ("move_volatile=1",),
    ),
    "moved behind what a tool answered": (
        (MOVED,),
        [system(f"{CLOCK}\n{RULES}"), user("Hi"), CALL, RESULT],
        [system(RULES), user("Hi"), CALL, {**RESULT, "content": f"17\n\n{CLOCK}"}],
        ("move_volatile=1",),
    ),
    "two lines moved together": (
        (MOVED, VolatileRow(line=r"Build \w+", do="move")),
        [system(f"{CLOCK}\nBuild 3f9\n{RULES}"), user("Hi")],
        [system(RULES), user(f"Hi\n\n{CLOCK}\nBuild 3f9")],
        ("move_volatile=1",),
    ),
    "one removed and one moved": (
        (BILLING, MOVED),
        [system(f"{HEADER}\n{CLOCK}\n{RULES}"), system(CLOCK), user("Hi")],
        [system(RULES), user(f"Hi\n\n{CLOCK}\n{CLOCK}")],
        ("drop_volatile=1", "move_volatile=2"),
    ),
    "a part of a line": (
        (VolatileRow(line=r"You are careful\.( The time is .*)"),),
        [system("You are careful. The time is 12:03.\nGo."), user("Hi")],
        [system("You are careful.\nGo."), user("Hi")],
        ("drop_volatile=1",),
    ),
    "a part of a line, moved": (
        (VolatileRow(line=r"You are careful\.( The time is .*)", do="move"),),
        [system("You are careful. The time is 12:03."), user("Hi")],
        [system("You are careful."), user("Hi\n\nThe time is 12:03.")],
        ("move_volatile=1",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_does_what_it_says(name: str) -> None:
    rules, before, after, edits = CASES[name]
    asked = request(*before)

    found = settle(asked, rules)

    assert found.messages == after
    assert found.edits == ("restore_reasoning=1", *edits)
    assert found.size >= asked.size
    assert asked.messages == before and all(one is other for one, other in zip(asked.messages, before, strict=True))


# The rules, and messages that they leave alone.
LEFT: dict[str, tuple[tuple[VolatileRow, ...], list[Message]]] = {
    "no rules": ((), [system(CLOCK), user("Hi")]),
    "nothing of the kind": ((DATE, BILLING, MOVED, SORTED), [system(RULES), user("Hi")]),
    "what a user says": ((DATE,), [system(RULES), user(CLOCK)]),
    "a line that only begins so": ((BILLING,), [system(f"The line {HEADER} is known."), user("Hi")]),
    "a line that is longer than any": ((VolatileRow(line="x.*"),), [system("x" * (LONGEST + 1)), user("Hi")]),
    "a clock that stands last": ((MOVED,), [user("Hi"), system(CLOCK)]),
    "nothing to move it behind": ((MOVED,), [system(CLOCK)]),
    "nothing that would be left": ((DATE,), [system(CLOCK)]),
    "contents of other kinds": ((DATE,), [{"role": "system"}, system(None), system([IMAGE, "x", {"text": 3}]), user(None)]),
    "a group that took no part": ((VolatileRow(line="x(y)?z"),), [system("xz"), user("Hi")]),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_no_rule_concerns_is_the_same_object(name: str) -> None:
    rules, messages = LEFT[name]
    asked = request(*messages, tools=[tool("a"), tool("b")])
    assert settle(asked, rules) is asked


def test_only_messages_that_change_are_made_anew() -> None:
    asked = request(system(CLOCK + "\nx"), system(RULES), user("Hi"), user("Ho"))
    found = settle(asked, (MOVED,))
    assert found.messages[1] is asked.messages[1] and found.messages[2] is asked.messages[2]


def test_tools_stand_in_the_order_of_their_names() -> None:
    tools = [tool("c"), tool("a"), tool("b")]
    found = settle(request(user("Hi"), tools=tools), (SORTED,))

    assert found.body["tools"] == [tool("a"), tool("b"), tool("c")]
    assert found.edits[1:] == ("sort_tools",)
    assert tools == [tool("c"), tool("a"), tool("b")]


@pytest.mark.parametrize(
    "tools", [None, [], [tool("b")], [tool("b"), {"type": "web"}], [tool("b"), tool(None)], "x", [tool("a"), tool("a")]]
)
def test_tools_without_an_order_to_bring_them_into_are_left(tools: Any) -> None:
    asked = request(user("Hi"), tools=tools)
    assert settle(asked, (SORTED,)) is asked


def test_a_rule_looks_at_a_long_text_for_a_bounded_time() -> None:
    """The last line would match; by then the steps of one request are spent."""
    costly = VolatileRow(line="a*a*a*x")
    asked = request(system("\n".join(["a" * 250] * 40) + "\nx"), user("Hi"))
    assert settle(asked, (costly,)) is asked
    assert settle(request(system("aaaa\nx"), user("Hi")), (costly,)).messages == [system("aaaa"), user("Hi")]


def test_a_rule_looks_at_the_first_lines_of_what_is_very_long() -> None:
    """What lies behind is left as it is, to the letter, in one text as in many."""
    short, long = "\n".join([CLOCK, "a"]), " \n" * LOOKED + CLOCK + "\n"
    assert settle(request(system(f"{CLOCK}\n{long}"), user("Hi")), (DATE,)).messages == [system(long), user("Hi")]
    asked = request(system(long), user("Hi"), system(short))
    assert settle(asked, (DATE,)) is asked
    many = request(*[system("a")] * LOOKED, system(short))
    assert settle(many, (DATE,)) is many
    parts = request(system([text("a")] * LOOKED + [text(CLOCK)]))
    assert settle(parts, (DATE,)) is parts


def test_how_much_there_is_to_look_at_is_known_before() -> None:
    assert extent(request(user("a" * 1000), {"role": "system"})) == 0
    assert 100 < extent(request(user("a" * 1000), system("b" * 50), system([text("c" * 50), IMAGE, "d"]))) < 150
    assert extent(request(system("b" * 10 * LOOKED))) == extent(request(system([text("b")] * LOOKED))) == LOOKED


heads = st.builds(
    lambda lines, role: {"role": role, "content": "\n".join(lines)},
    st.lists(st.sampled_from([CLOCK, HEADER, "a", " "])),
    st.sampled_from(["system", "user", "tool"]),
)


@given(
    st.lists(heads, min_size=1, max_size=5), st.lists(st.sampled_from([MOVED, DATE, BILLING, VolatileRow(line="a", do="move")]), max_size=3)
)
def test_its_conversation_is_known_without_what_moves(messages: list[Message], rules: list[VolatileRow]) -> None:
    found = settled(request(*messages), tuple(rules))
    removing = [rule.model_copy(update={"do": "remove"}) for rule in rules]
    assert found.steady.messages == settle(request(*messages), tuple(removing)).messages


words = st.text("ab:1 \n", max_size=40)


@given(st.lists(words, min_size=1, max_size=4), words, st.sampled_from([DATE, MOVED]), st.integers(0, 40))
def test_two_prompts_that_differ_by_their_clock_share_all_before_the_last_message(
    heads: list[str], question: str, rule: VolatileRow, at: int
) -> None:
    def asked(clock: str) -> ChatRequest:
        lines = "\n".join(heads).split("\n")
        lines.insert(at % (len(lines) + 1), f"Current time: {clock}")
        return settle(request(system("\n".join(lines)), user("Hi"), user(question + "?")), (rule,))

    one, other = asked("2026-11-21 12:03:44"), asked("2026-11-21 12:04:17")

    assert one.messages[:-1] == other.messages[:-1]
    first, second = prints(None, one.messages, b"x"), prints(None, other.messages, b"x")
    assert shared(first, second) >= second.ends[second.parts[-2]]
    assert settle(one, (rule,)) is one


def problems(*rows: dict[str, Any]) -> list[tuple[Any, str]]:
    return list(TeamRow.model_validate({"team": "t", "routes": ["*"], "volatile": list(rows)}).problems())


def test_a_rule_that_says_nothing_or_two_things_is_refused() -> None:
    assert [path for path, _ in problems({}, {"line": "date", "tools": "sort"}, {"line": "date"}, {"tools": "sort"})] == [
        ("volatile", 0),
        ("volatile", 1),
    ]


def test_a_pattern_that_could_take_long_is_refused_where_it_stands() -> None:
    ((path, words),) = problems({"line": "(a+)+b"})
    assert path == ("volatile", 0, "line")
    assert words == "`(a+)+b` repeats a group: )+. Hint: repeat single characters, such as \\d or [a-f0-9]"
