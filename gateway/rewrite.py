"""Rewrite: changes to one event of a stream: keys put in as bytes where that is safe, else the chunk is written anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from gateway.dialects import Choice, Delta, read_json, write_json
from gateway.sse import data_of, event_of

_NULLS = (b'"content":null', b'"content": null')
_DELTAS = (b'"delta":{', b'"delta": {')
_CALLS = ("tool_calls", "function_call")


@dataclass(slots=True)
class Part:
    """What one chunk adds to one choice, as the client is to see it."""

    reasoning: str
    content: str
    finish: str | None
    tools: bool = True
    stopped: bool = False
    late: bool = False
    cut: bool = False
    """Whether text was taken off its end."""

    @property
    def empty(self) -> bool:
        """Whether nothing is left of what was cut."""
        return self.cut and not (self.reasoning or self.content or self.finish)

    def same(self, choice: Choice) -> bool:
        """Whether the host's own words say just this."""
        delta = choice.delta
        if delta is None or self.stopped or self.cut or (self.reasoning and self.content) or self.finish != (choice.finish_reason or None):
            return False
        return self.content == (delta.content or "") and self.reasoning == (delta.reasoning_content or delta.reasoning or "")


def patch(event: bytes, delta: Delta) -> bytes | None:
    """The event with the missing keys of its one delta put in; the same object where none is missing, None where bytes do not do.

    `"delta":{` stands nowhere in JSON but as the key itself: inside a string its quotes would be escaped.
    """
    reasoning = delta.reasoning_content or delta.reasoning
    missing = b""
    if delta.reasoning_content is UNSET and delta.reasoning is not UNSET:
        if event.count(b'"reasoning":') != 1:
            return None
        event = event.replace(b'"reasoning":', b'"reasoning_content":')
    elif delta.reasoning and not delta.reasoning_content:
        return None
    elif delta.reasoning_content is UNSET:
        missing = b'"reasoning_content":null,'
    if delta.content is UNSET:
        missing += b'"content":null,' if reasoning else b'"content":"",'
    elif delta.content is None and not reasoning:
        null = next((null for null in _NULLS if event.count(null) == 1), None)
        if null is None:
            return None
        event = event.replace(null, null.replace(b"null", b'""'))
    return _inserted(event, missing) if missing else event


def _inserted(event: bytes, keys: bytes) -> bytes | None:
    mark = next((mark for mark in _DELTAS if event.count(mark) == 1), None)
    if mark is None:
        return None
    before, _, after = event.partition(mark)
    return before + mark + (keys[:-1] if after.lstrip()[:1] == b"}" else keys) + after


def rewrite(body: dict[str, Any], parts: list[Part]) -> list[bytes]:
    """A chunk written anew from its parts. Reasoning and content at once become two events: clients read one or the other."""
    if any(part.stopped for part in parts):
        body["faregate"] = {"stopped": "limit"}
    pairs = list(zip(body["choices"], parts, strict=True))
    events = []
    if any(part.reasoning and part.content for part in parts):
        thoughts = {key: value for key, value in body.items() if key not in ("usage", "faregate")}
        thoughts["choices"] = [_thought(choice, part) for choice, part in pairs if part.reasoning]
        events.append(event_of(write_json(thoughts)))
        for choice, part in pairs:
            (choice.get("delta") or {}).pop("reasoning_details", None)
            part.reasoning = ""
    body["choices"] = [_choice(choice, part) for choice, part in pairs]
    return [*events, event_of(write_json(body))]


def _thought(choice: dict[str, Any], part: Part) -> dict[str, Any]:
    kept = {key: value for key, value in choice.items() if key not in ("logprobs", "native_finish_reason")}
    delta = {key: value for key, value in (choice.get("delta") or {}).items() if key not in (*_CALLS, "reasoning")}
    return {**kept, "delta": {**delta, "content": None, "reasoning_content": part.reasoning}, "finish_reason": None}


def _choice(choice: dict[str, Any], part: Part) -> dict[str, Any]:
    delta = {key: value for key, value in (choice.get("delta") or {}).items() if key != "reasoning" and (part.tools or key not in _CALLS)}
    delta["content"] = part.content or (None if part.reasoning else "")
    own = delta.get("reasoning_content")
    delta["reasoning_content"] = part.reasoning or (own if own == "" else None)
    return {**choice, "delta": delta, "finish_reason": part.finish}


def set_usage(event: bytes, old: bytes, usage: dict[str, Any] | None) -> bytes:
    """The event with its usage (`old`: the bytes of its value) replaced, or taken out where `usage` is None."""
    pair = b'"usage":' + old
    if event.count(pair) == 1:
        if usage is not None:
            return event.replace(pair, b'"usage":' + write_json(usage))
        for found in (b"," + pair, pair + b","):
            if found in event:
                return event.replace(found, b"")
    body = read_json(data_of(event) or b"")
    if usage is None:
        body.pop("usage", None)
    else:
        body["usage"] = usage
    return event_of(write_json(body))
