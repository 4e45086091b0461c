"""Messages: what becomes of reasoning by rule and host, and nothing of the caller's is ever changed. More rows: tests/requests/."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.contracts import Messages, Reasoning
from gateway.edits import header
from gateway.errors import InvalidRequest
from gateway.hosts import Writes
from gateway.messages import Rewriter, check, concerned, forgetful, lacking, missing_reasoning, restored, survey
from tests.asking import at_host, contract

Message = dict[str, Any]

CALL = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
USER: Message = {"role": "user", "content": "q"}
RESULT: Message = {"role": "tool", "tool_call_id": "c", "content": "1"}


def said(text: str | None = "a", **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def rewritten(
    messages: list[Message], rule: str, reads: str = "reasoning_content", tools: bool = True, **messages_rules: Any
) -> tuple[list[Message], str]:
    served = contract(reasoning=Reasoning.model_validate({"send_back": rule}), messages=Messages(**messages_rules))
    rewriter = Rewriter(at_host(served, {"reasoning": reads}), thinking=True, tools=tools)
    return rewriter.rewrite(messages), header(rewriter.edits())


THREE_NAMES = said(reasoning_content="r", reasoning="r", reasoning_details=[{"type": "reasoning.text", "text": "r"}])

ROWS: list[tuple[str, str, Message, dict[str, Any], str]] = [
    # rule, what the host reads, a message, the reasoning fields that are sent, edits
    ("never", "reasoning_content", said(reasoning_content="r"), {}, "drop_reasoning_content=1"),
    ("never", "both", THREE_NAMES, {}, "drop_reasoning_content=1, drop_reasoning=1, drop_reasoning_details=1"),
    ("ignored", "reasoning", said(reasoning_content="r"), {"reasoning_content": "r"}, ""),
    ("always", "reasoning_content", said(reasoning_content="r"), {"reasoning_content": "r"}, ""),
    ("always", "reasoning_content", said(reasoning="r"), {"reasoning_content": "r"}, "rename_reasoning=1"),
    ("always", "reasoning_content", THREE_NAMES, {"reasoning_content": "r"}, "drop_reasoning=1, drop_reasoning_details=1"),
    ("always", "reasoning", said(reasoning_content="r"), {"reasoning": "r"}, "rename_reasoning_content=1"),
    ("always", "reasoning", said(reasoning="r"), {"reasoning": "r"}, ""),
    (
        "always",
        "reasoning",
        said(reasoning_details=[{"text": "r"}]),
        {"reasoning_details": [{"text": "r"}], "reasoning": "r"},
        "rename_reasoning_details=1",
    ),
    ("always", "both", said(reasoning="r"), {"reasoning": "r"}, ""),
    ("always", "both", said(reasoning_details=[{"text": "r"}]), {"reasoning_content": "r"}, "rename_reasoning_details=1"),
    ("always", "none", said(reasoning_content="r"), {}, "drop_reasoning_content=1"),
    ("with_tools", "reasoning", said(reasoning_content="r"), {"reasoning": "r"}, "rename_reasoning_content=1"),
]


@pytest.mark.parametrize(("rule", "reads", "message", "sent", "edits"), ROWS)
def test_reasoning_is_removed_kept_or_renamed(rule: str, reads: str, message: Message, sent: dict[str, Any], edits: str) -> None:
    messages, made = rewritten([USER, message, USER], rule, reads)
    assert messages == [USER, {"role": "assistant", "content": "a", **sent}, USER]
    assert made == edits


def test_without_tools_reasoning_passes_as_it_is() -> None:
    messages = [USER, said(reasoning="r"), USER]
    assert rewritten(messages, "with_tools", tools=False) == (messages, "")


def test_a_turn_without_tool_calls_needs_no_reasoning() -> None:
    messages, edits = rewritten([USER, said(reasoning_content="r")], "within_turn")
    assert (messages, edits) == ([USER, said()], "drop_reasoning_content=1")


LACKING: list[tuple[str, str, bool, list[Message], bool]] = [
    # rule, what the host reads, tools in the request, messages, does something lack?
    ("never", "reasoning_content", True, [USER, said(), USER], False),
    ("ignored", "reasoning_content", True, [USER, said(), USER], False),
    ("with_tools", "reasoning_content", True, [USER], False),
    ("with_tools", "reasoning_content", True, [USER, said(), USER], True),
    ("with_tools", "reasoning_content", True, [USER, said(reasoning_content="r"), USER], False),
    ("with_tools", "reasoning_content", True, [USER, said(reasoning_content=""), USER], False),
    ("with_tools", "reasoning_content", True, [USER, said(reasoning_content=None), USER], True),
    ("with_tools", "reasoning_content", True, [USER, said(reasoning="r"), USER], False),
    ("with_tools", "none", True, [USER, said(reasoning_content="r"), USER], True),
    ("with_tools", "reasoning_content", True, [USER, said(reasoning_content="r"), USER, said(), USER], True),
    ("with_tools", "reasoning_content", False, [USER, said(), USER], False),
    ("with_tools", "reasoning_content", False, [USER, said(None, **CALL), RESULT], True),
    ("with_tools", "reasoning_content", False, [USER, said(None, reasoning_content="r", **CALL), RESULT], False),
    ("with_tools", "reasoning_content", True, [USER, said(prefix=True)], False),
    ("within_turn", "reasoning_content", True, [USER, said(None, **CALL), RESULT], True),
    ("within_turn", "reasoning_content", True, [USER, said(None, **CALL), RESULT, said(), USER], False),
    ("within_turn", "reasoning_content", True, [USER, said(None, reasoning_content="r", **CALL), RESULT], False),
    ("always", "reasoning_content", False, [USER, said(), USER], True),
]


@pytest.mark.parametrize(("rule", "reads", "tools", "messages", "lacks"), LACKING)
def test_lost_reasoning_is_noticed(rule: str, reads: str, tools: bool, messages: list[Message], lacks: bool) -> None:
    served = contract(reasoning=Reasoning.model_validate({"send_back": rule}))
    assert (missing_reasoning(messages, served, reads, tools or survey(messages).tools) is not None) == lacks


SEEN: list[tuple[list[Message], set[str]]] = [
    ([USER, said(), USER], set()),
    ([USER, said(None, **CALL), RESULT], {"tools", "hollow"}),
    ([USER, {"role": "tool", "content": "1"}], {"tools"}),
    ([USER, said(tool_calls=[])], set()),
    ([{"role": "user", "content": [{"type": "text", "text": "q"}]}], {"parts"}),
    ([USER, said(prefix=True)], {"prefix"}),
    ([USER, said(prefix=False)], set()),
    ([USER, said(reasoning=None)], {"reasoning"}),
    ([{"role": "assistant"}], {"hollow"}),
    ([USER, USER], {"successive"}),
]


@pytest.mark.parametrize(("messages", "seen"), SEEN)
def test_one_pass_sees_what_rules_may_be_about(messages: list[Message], seen: set[str]) -> None:
    assert {name for name, there in structs.asdict(survey(messages)).items() if there} == seen


MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
    optional={
        "content": st.sampled_from(["a", None, "<think>\nr\n</think>\nb", [{"type": "text", "text": "q"}]]),
        "reasoning_content": st.sampled_from(["r", None]),
        "reasoning_details": st.just([{"text": "r"}]),
        "tool_calls": st.sampled_from([[], CALL["tool_calls"]]),
        "prefix": st.booleans(),
    },
)


@given(
    st.lists(MESSAGE, min_size=1, max_size=4),
    st.sampled_from(["never", "within_turn", "with_tools", "always", "ignored"]),
    st.sampled_from(["reasoning_content", "reasoning", "both", "none"]),
    st.booleans(),
    st.sampled_from(["auto", "inline"]),
)
def test_messages_that_concern_no_rule_would_not_be_changed(
    messages: list[Message], rule: str, reads: str, merge: bool, writes: str
) -> None:
    served = contract(reasoning=Reasoning.model_validate({"send_back": rule}), messages=Messages(merge_successive=merge))
    target = at_host(served, {"reasoning": reads}, writes=Writes.model_validate({"reasoning": writes}))
    rewriter = Rewriter(target, thinking=True, tools=True)

    sent = rewriter.rewrite(messages)

    assert concerned(survey(messages), target) or (sent is messages and rewriter.edits() == [])


MERGES: list[tuple[list[Message], list[Message], str]] = [
    ([USER, USER], [{"role": "user", "content": "q\n\nq"}], "merge_messages=1"),
    ([USER, said("x"), said("y"), USER], [USER, said("x\n\ny"), USER], "merge_messages=1"),
    ([said("x"), said(None, **CALL), RESULT, RESULT], [said("x"), said(None, **CALL), RESULT, RESULT], ""),
    ([said(None, **CALL), said("x")], [said(None, **CALL), said("x")], ""),
    ([{"role": "system", "content": "s"}] * 2, [{"role": "system", "content": "s"}] * 2, ""),
    (
        [USER, {"role": "user", "content": [{"type": "text", "text": "t"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "t"}]}],
        "merge_messages=1",
    ),
]


@pytest.mark.parametrize(("before", "after", "edits"), MERGES)
def test_successive_messages_of_one_role_are_merged(before: list[Message], after: list[Message], edits: str) -> None:
    assert rewritten(before, "never", merge_successive=True) == (after, edits)
    assert rewritten(before, "never") == (before, "")


def test_a_message_without_content_or_calls_gets_an_empty_content() -> None:
    messages, edits = rewritten([USER, said(None), {"role": "assistant"}, said(None, **CALL)], "never")
    assert [message.get("content") for message in messages] == ["q", "", "", None]
    assert edits == "rename_content=2"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([said(prefix=True), USER], "prefix is for the last message"),
        ([{"role": "user", "content": "q", "prefix": True}], "prefix needs the role assistant"),
        ([USER, said(prefix=True)], "Prefix completion"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "unknown variant `input_audio`"),
    ],
)
def test_what_the_version_does_not_take_is_refused(messages: list[Message], text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check(messages, at_host(contract()))
    assert text in refusal.value.message
    assert refusal.value.param == "messages"


def test_prefix_completion_needs_the_version_and_a_beta_address() -> None:
    served = contract(messages=Messages(prefix=True))
    assert check([USER, said(prefix=True)], at_host(served, beta_url="/beta")) is True
    assert check([USER, said(prefix=False)], at_host(served)) is False
    with pytest.raises(InvalidRequest):
        check([USER, said(prefix=True)], at_host(served))


MESSAGE = st.sampled_from(
    [USER, said(), said(reasoning_content="r"), said(reasoning="r"), said(None), said(None, reasoning_content="r", **CALL), RESULT]
)


@given(
    st.lists(MESSAGE, min_size=1, max_size=8),
    st.sampled_from(["never", "within_turn", "with_tools", "always", "ignored"]),
    st.sampled_from(["reasoning_content", "reasoning", "both", "none"]),
    st.booleans(),
)
def test_the_callers_messages_are_never_changed_and_no_edit_means_the_same_list(
    messages: list[Message], rule: str, reads: str, merge: bool
) -> None:
    before = copy.deepcopy(messages)
    after, edits = rewritten(messages, rule, reads, merge_successive=merge)

    assert messages == before
    assert (after is messages) == (edits == "")
    assert [m["role"] for m in after if m["role"] == "tool"] == [m["role"] for m in before if m["role"] == "tool"]
    if rule == "never":
        assert not any("reasoning" in key for message in after for key in message)


# ---- reasoning that was lost

LOST: list[tuple[Message, bool]] = [
    (said(), True),
    (said(reasoning_content=None), True),
    (said(reasoning_content=""), True),
    (said(reasoning_content=" "), True),
    (said(reasoning_content="r"), False),
    (said(reasoning="r"), False),
    (said(reasoning_details=[{"text": "r"}]), False),
    (said(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]), True),
    (said(prefix=True), False),
    (USER, False),
    (RESULT, False),
]


@pytest.mark.parametrize(("message", "lacks"), LOST)
def test_a_message_without_reasoning_or_with_a_blank_lacks_it(message: Message, lacks: bool) -> None:
    assert lacking(message) == lacks


@pytest.mark.parametrize(
    ("messages", "tools", "always", "worth"),
    [
        ([USER], True, True, False),
        ([USER, said(), USER], False, False, False),
        ([USER, said(), USER], False, True, True),
        ([USER, said(), USER], True, False, True),
        ([USER, said(reasoning_content="r"), USER], True, True, False),
        ([USER, said(None, **CALL), RESULT], False, False, True),
        ([USER, said(None, reasoning_content="r", **CALL), RESULT], False, False, False),
        ([USER, said(), RESULT], False, False, True),
        ([USER, said(), USER, said(None, reasoning_content="r", **CALL), RESULT], False, False, True),
    ],
)
def test_looking_is_worth_it_only_where_reasoning_may_be_demanded(messages: list[Message], tools: bool, always: bool, worth: bool) -> None:
    assert forgetful({"messages": messages, **({"tools": [{}]} if tools else {})}, always) == worth


@pytest.mark.parametrize(
    ("rule", "reads", "name"),
    [
        ("with_tools", "reasoning_content", "reasoning_content"),
        ("always", "reasoning", "reasoning"),
        ("with_tools", "both", "reasoning_content"),
        ("always", "none", None),
    ],
)
def test_what_is_remembered_stands_under_the_name_that_the_host_reads(rule: str, reads: str, name: str | None) -> None:
    target = at_host(contract(reasoning=Reasoning.model_validate({"send_back": rule})), {"reasoning": reads})
    own = said("b", reasoning_content="own")
    messages = [USER, said(reasoning=None, reasoning_content=" "), USER, own, USER, said("c"), USER]
    before = copy.deepcopy(messages)
    filled, count = restored(messages, {1: "r", 3: "never this", 4: "nor this"}, target)
    assert messages == before
    if name is None:
        assert (filled, count) == (messages, 0)
        return
    assert count == 1
    assert filled == [USER, {**said(), name: "r"}, *messages[2:]]
    assert filled[3] is own


def test_within_a_turn_only_its_own_calls_are_restored() -> None:
    target = at_host(contract(reasoning=Reasoning(send_back="within_turn")))
    messages = [USER, said(None, **CALL), RESULT, said(), USER, said(None, **CALL), RESULT]
    filled, count = restored(messages, dict.fromkeys(range(7), "r"), target)
    assert [at for at, message in enumerate(filled) if "reasoning_content" in message] == [5] and count == 1
