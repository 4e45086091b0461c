"""Messages made valid for one deployment: reasoning sent back or removed, successive turns merged, null contents filled.

Messages that need no change are the caller's own objects; none is ever changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.contracts import Contract
from gateway.edits import Edit, dropped, renamed, safe
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.reasoning import FIELDS, field_of, split, text_of

Message = Mapping[str, Any]
MISSING_IN_TURN = (
    "Missing `reasoning_content` field in the assistant message at message index {index}. For more information, please refer to "
    "https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
)
MISSING_WITH_TOOLS = "The `reasoning_content` in the thinking mode must be passed back to the API."
_ANY_REASONING = frozenset(FIELDS)


class Survey(Struct, frozen=True):
    """What there is in the messages of a request that any rule could be about."""

    tools: bool
    """A tool call or a tool's result."""
    parts: bool
    """Contents in parts."""
    prefix: bool
    reasoning: bool
    """Earlier reasoning, under any name."""
    hollow: bool
    """Contents of the assistant that are null or missing."""
    successive: bool
    """Neighbours of one role."""


def survey(messages: Sequence[Message]) -> Survey:
    """One pass over the messages, so that a rule without any case in them costs no other."""
    tools = parts = prefix = reasoning = hollow = successive = False
    before = None
    for message in messages:
        role, content = message.get("role"), message.get("content")
        successive = successive or role == before
        before = role
        tools = tools or role == "tool"
        if len(message) == 2 and role and type(content) is str:
            # A role, a text and nothing else: what most messages are.
            continue
        parts = parts or isinstance(content, list)
        hollow = hollow or (content is None and role == "assistant")
        tools = tools or bool(message.get("tool_calls"))
        prefix = prefix or message.get("prefix") is True
        reasoning = reasoning or not _ANY_REASONING.isdisjoint(message)
    return Survey(tools, parts, prefix, reasoning, hollow, successive)


def check(messages: Sequence[Message], target: Deployment) -> bool:
    """Whether the request is a prefix completion; raises InvalidRequest for a prefix or a content part this version does not take."""
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and not target.contract.messages.images:
            _check_parts(index, content)
        if message.get("prefix") is True and index != len(messages) - 1:
            raise InvalidRequest(f"messages[{index}]: prefix is for the last message only.", param="messages")
    last = messages[-1]
    if last.get("prefix") is not True:
        return False
    if last.get("role") != "assistant":
        raise InvalidRequest(f"messages[{len(messages) - 1}]: prefix needs the role assistant.", param="messages")
    if not target.contract.messages.prefix or target.host.beta_url is None:
        raise InvalidRequest(f"Prefix completion (prefix: true in the last message) is not available at {target.name}.", param="messages")
    return True


def _check_parts(index: int, parts: Iterable[Any]) -> None:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            where = f"messages[{index}]: unknown variant `{safe(kind)}`, expected `text`"
            raise InvalidRequest(f"Failed to deserialize the JSON body into the target type: {where}", param="messages")


def missing_reasoning(messages: Sequence[Message], contract: Contract, host_reads: str, tools: bool) -> str | None:
    """The vendor's refusal where thinking needs earlier reasoning that a message lacks, or that the host cannot read; else None.

    `tools`: the request carries tools, or a call or a result stands in its messages.
    """
    rule = contract.reasoning.send_back
    if rule not in (("within_turn", "with_tools", "always") if tools else ("always",)):
        return None
    for index in _needing(messages, rule):
        if host_reads == "none" or text_of(messages[index]) is None:
            return (MISSING_IN_TURN if rule == "within_turn" else MISSING_WITH_TOOLS).format(index=index)
    return None


def lacking(message: Message) -> bool:
    """Whether an assistant's message comes without its reasoning, or with a blank that a client put in its place."""
    if message.get("role") != "assistant" or message.get("prefix") is True:
        return False
    text = text_of(message)
    return text is None or not text or text.isspace()


def forgetful(body: Mapping[str, Any], always: bool = False) -> bool:
    """Whether earlier reasoning is missing that a contract may demand: only then is it worth looking for.

    `always`: a contract in force demands it without tools too.
    """
    lacks, tools = False, always or bool(body.get("tools"))
    for message in body["messages"]:
        role = message.get("role")
        if role == "assistant":
            lacks = lacks or lacking(message)
            tools = tools or bool(message.get("tool_calls"))
        elif role == "tool":
            tools = True
    return lacks and tools


def restored(messages: list[dict[str, Any]], recalled: Mapping[int, str], target: Deployment) -> tuple[list[dict[str, Any]], int]:
    """The messages with remembered reasoning under the name that the host reads, where this version demands it and it is missing;
    and in how many messages.
    """
    reads = target.host.reads.reasoning
    if reads == "none":
        return messages, 0
    name = "reasoning_content" if reads == "both" else reads
    filled = list(messages)
    count = 0
    for index in _needing(messages, target.send_back):
        text = recalled.get(index)
        if text is not None and lacking(messages[index]):
            filled[index] = {**{key: value for key, value in messages[index].items() if key not in _ANY_REASONING}, name: text}
            count += 1
    return (filled, count) if count else (messages, 0)


def _needing(messages: Sequence[Message], rule: str) -> Iterable[int]:
    """Positions of the assistant messages that must carry their reasoning."""
    if rule == "within_turn":
        return (at for at in range(_turn_start(messages), len(messages)) if messages[at].get("tool_calls"))
    return (at for at, message in enumerate(messages) if message.get("role") == "assistant" and message.get("prefix") is not True)


def _turn_start(messages: Sequence[Message]) -> int:
    """The position after the last user message."""
    return next((at + 1 for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "user"), 0)


def _uses_tools(messages: Iterable[Message]) -> bool:
    return any(message.get("tool_calls") or message.get("role") == "tool" for message in messages)


def concerned(seen: Survey, target: Deployment) -> bool:
    """Whether messages in which this was seen may need a change for this deployment."""
    return seen.reasoning or seen.hollow or (seen.successive and target.contract.messages.merge_successive) or target.inline


class Rewriter:
    """Rewrites the messages of one request for one deployment; counts what it changes."""

    def __init__(self, target: Deployment, thinking: bool, tools: bool) -> None:
        host, contract = target.host, target.contract
        self._rule = target.send_back
        self._reads = host.reads.reasoning
        self._inline = target.inline
        self._merges = contract.messages.merge_successive
        # Whether kept reasoning is really read, so that its name matters.
        self._sends_back = self._rule == "within_turn" or (thinking and (self._rule == "always" or (self._rule == "with_tools" and tools)))
        self._dropped: dict[str, int] = {}
        self._renamed: dict[str, int] = {}
        self._merged = 0

    def rewrite(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages to send: the same list where nothing had to change."""
        keep = self._kept_from(messages)
        rewritten = [self._message(message, at >= keep) for at, message in enumerate(messages)]
        if self._merges:
            rewritten = self._merge(rewritten)
        return rewritten if self.edits() else messages

    def edits(self) -> list[Edit]:
        merged = [Edit("merge_messages", str(self._merged))] if self._merged else []
        return [
            *(dropped(field, count) for field, count in self._dropped.items()),
            *(renamed(field, count) for field, count in self._renamed.items()),
            *merged,
        ]

    def _kept_from(self, messages: list[dict[str, Any]]) -> int:
        """The position from which reasoning stays; before it, it is removed."""
        if self._rule == "never":
            return len(messages)
        if self._rule == "within_turn":
            start = _turn_start(messages)
            return start if _uses_tools(messages[start:]) else len(messages)
        return 0

    def _message(self, message: dict[str, Any], keep: bool) -> dict[str, Any]:
        if message.get("role") != "assistant":
            return self._without_reasoning(message) if not keep else message
        changed = self._reasoning(message, keep)
        if message.get("content") is None and not message.get("tool_calls") and not message.get("function_call"):
            _count(self._renamed, "content")
            changed = {**changed, "content": ""}
        return changed

    def _reasoning(self, message: dict[str, Any], keep: bool) -> dict[str, Any]:
        if message.get("prefix") is True and self._reads == "reasoning_content":
            # Prefix completion takes the beginning of the thinking here.
            return message
        if not keep or (self._reads == "none" and self._sends_back):
            return self._without_inline(self._without_reasoning(message))
        return self._named(message, self._reads) if self._sends_back else message

    def _without_reasoning(self, message: dict[str, Any]) -> dict[str, Any]:
        if _ANY_REASONING.isdisjoint(message):
            return message
        found = [field for field in FIELDS if field in message]
        _count(self._dropped, *found)
        return {key: value for key, value in message.items() if key not in found}

    def _without_inline(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if not self._inline or not isinstance(content, str):
            return message
        reasoning, answer = split(content)
        if not reasoning:
            return message
        _count(self._dropped, "think")
        return {**message, "content": answer}

    def _named(self, message: dict[str, Any], reads: str) -> dict[str, Any]:
        """The message with its reasoning under the name that the host reads; reasoning_details stay beside `reasoning`."""
        source = field_of(message)
        if source is None or (reads == "both" and source != "reasoning_details"):
            return message
        name = "reasoning_content" if reads == "both" else reads
        extra = [field for field in FIELDS if field in message and field != name and (field != "reasoning_details" or name != "reasoning")]
        if source == name and not extra:
            return message
        if source != name:
            _count(self._renamed, source)
        _count(self._dropped, *(field for field in extra if field != source))
        kept = {key: value for key, value in message.items() if key not in extra}
        return {**kept, name: text_of(message)}

    def _merge(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        runs: list[list[dict[str, Any]]] = []
        for message in messages:
            if runs and _mergeable(runs[-1][-1], message):
                runs[-1].append(message)
                self._merged += 1
            else:
                runs.append([message])
        return [run[0] if len(run) == 1 else _joined(run) for run in runs]


def _count(counts: dict[str, int], *fields: str) -> None:
    for field in fields:
        counts[field] = counts.get(field, 0) + 1


def _mergeable(first: Message, second: Message) -> bool:
    role = first.get("role")
    return role in ("user", "assistant") and role == second.get("role") and not first.get("tool_calls") and not second.get("tool_calls")


def _joined(run: list[dict[str, Any]]) -> dict[str, Any]:
    """Successive messages of one role as one; each run is joined at once, however long it is."""
    contents = [message.get("content") for message in run]
    merged = {key: value for message in run for key, value in message.items()}
    if any(isinstance(content, list) for content in contents):
        return {**merged, "content": [part for content in contents for part in _parts(content)]}
    return {**merged, "content": "\n\n".join(content or "" for content in contents)}


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
