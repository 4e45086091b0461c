"""Volatile: parts of prompts that change from request to request, taken out or moved by a team's rules so that the rest is cached.

Pure: the request is never changed, and messages that no rule concerns are passed on as they are. A line that is moved stands
behind the last message: everything before it is what the next request begins with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from gateway.edits import Edit, dropped
from gateway.patterns import LONGEST, Pattern
from gateway.request import ChatRequest
from gateway.teams import VolatileRow

_HEADS: Final = ("system", "developer")
_ENDS: Final = ("user", "tool")
# Steps that the patterns of one request may need: a tenth of a second at most. What lies behind is left as it is.
_MOST: Final = 300_000_000
# Characters of system messages that are looked at in one request, the first ones; what a text counts beside its own.
LOOKED: Final = 256 << 10
_BESIDE: Final = 16
# A pattern that needs no more steps for any line is not counted.
_CHEAP: Final = 5_000
# What a moved line may add to the body, in bytes.
_FRAME: Final = 64


class Settled(NamedTuple):
    """A request as it is sent on, and as its conversation is known by: what moves with the last message is taken out of that one."""

    request: ChatRequest
    steady: ChatRequest


def settle(request: ChatRequest, rules: tuple[VolatileRow, ...]) -> Settled:
    """The request without what these rules name, its edits told; the same object where they concern nothing of it."""
    body = request.body
    changed: dict[str, Any] = {}
    edits: list[Edit] = []
    if any(rule.tools for rule in rules):
        tools = _sorted(body.get("tools"))
        if tools is not None:
            changed["tools"] = tools
            edits.append(Edit("sort_tools"))
    steady = messages = body["messages"]
    lines = [rule for rule in rules if rule.line is not None]
    if lines:
        sweep = _Sweep(lines, messages)
        steady = sweep.steady if not sweep.stays else _Sweep(lines, messages, removes=True).steady
        messages = sweep.messages
        if messages is not body["messages"]:
            changed["messages"] = messages
            edits += sweep.edits()
    if changed:
        size = request.size + _FRAME * len(changed)
        request = replace(request, body={**body, **changed}, size=size, edits=(*request.edits, *map(str, edits)))
    return Settled(request, request if steady is messages else replace(request, body={**request.body, "messages": steady}))


def extent(request: ChatRequest) -> int:
    """Characters of its system messages, as far as they are looked at: so much there is to do."""
    found = 0
    for message in request.messages:
        if message.get("role") in _HEADS:
            for text in _texts(message.get("content")):
                found += _BESIDE + len(text)
                if found >= LOOKED:
                    return LOOKED
    return found


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (text for part in content if (text := _text_of(part)) is not None)


def _sorted(tools: Any) -> list[Any] | None:
    """The tools by name; None where they are so already, or have no names."""
    if not isinstance(tools, list) or len(tools) < 2:
        return None
    names = [_name(tool) for tool in tools]
    known = [name for name in names if name is not None]
    if len(known) < len(names) or all(one <= other for one, other in pairwise(known)):
        return None
    return [tool for _, tool in sorted(zip(known, tools, strict=True), key=lambda pair: pair[0])]


def _name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


class _Look(NamedTuple):
    """One rule, ready for use on many lines."""

    match: Callable[[str], re.Match[str] | None]
    group: int
    moves: bool
    costly: bool
    effort: Callable[[int], int]


def _look(pattern: Pattern, moves: bool) -> _Look:
    expression = pattern.expression
    return _Look(expression.fullmatch, 1 if expression.groups else 0, moves, pattern.effort(LONGEST) > _CHEAP, pattern.effort)


class _Sweep:
    """The messages of one request after the rules; the very list that it was given where none concerns it.

    `steady`: without what was moved too. `stays`: what may move stands behind the last message, and stays there. `removes`: what the
    rules move is taken out, as what they remove.
    """

    def __init__(self, rules: list[VolatileRow], messages: list[dict[str, Any]], *, removes: bool = False) -> None:
        self.messages = self.steady = messages
        self.stays = False
        self._looks = [_look(rule.pattern, rule.do == "move" and not removes) for rule in rules if rule.pattern is not None]
        self._steps = _MOST
        self._room = LOOKED
        self._dropped: set[int] = set()
        self._lifted: set[int] = set()
        self._end = next((index for index in range(len(messages) - 1, -1, -1) if _takes(messages[index])), -1)
        self._moved: list[str] = []
        fresh = [self._swept(index, message) for index, message in enumerate(messages)]
        if self._dropped or self._lifted:
            # A request must say something: one that is nothing but volatile lines is left alone.
            self.messages = self.steady = [message for message in fresh if message is not None] or messages
            if self._moved:
                fresh[self._end] = _followed(messages[self._end], "\n".join(self._moved))
                self.messages = [message for message in fresh if message is not None]

    def edits(self) -> list[Edit]:
        """Counted in messages."""
        moved = [Edit("move_volatile", str(len(self._lifted)))] if self._lifted else []
        return [*([dropped("volatile", len(self._dropped))] if self._dropped else []), *moved]

    def _swept(self, index: int, message: dict[str, Any]) -> dict[str, Any] | None:
        """A message without what is volatile; None where nothing is left of it."""
        if message.get("role") not in _HEADS or self._room <= 0:
            return message
        content = message.get("content")
        if isinstance(content, str):
            text = self._text(index, content)
            return message if text is content else {**message, "content": text} if text else None
        if not isinstance(content, list):
            return message
        parts = [self._part(index, part) for part in content]
        if all(one is other for one, other in zip(parts, content, strict=True)):
            return message
        kept = [part for part in parts if part is not None]
        return {**message, "content": kept} if kept else None

    def _part(self, index: int, part: Any) -> Any:
        text = _text_of(part)
        if text is None or self._room <= 0:
            return part
        left = self._text(index, text)
        return part if left is text else {**part, "text": left} if left else None

    def _text(self, index: int, text: str) -> str:
        """The text without its volatile lines, itself where it has none; "" where nothing but blanks is left."""
        # In whole lines, as far as there is room; `rest` is left as it is.
        cut = len(text) if len(text) <= self._room else max(0, text.rfind("\n", 0, self._room))
        lines, rest = text[:cut].split("\n"), text[cut + 1 :]
        self._room -= _BESIDE + len(text)
        kept: list[str] | None = None
        for number, line in enumerate(lines):
            left: str | None = line
            if 0 < len(line) <= LONGEST:
                for look in self._looks:
                    # Most patterns are quick; those that need not be are counted.
                    if look.costly and self._spent(look, line):
                        continue
                    found = look.match(line)
                    if found is not None:
                        left = self._taken(index, line, look, *found.span(look.group))
                        if left is not line:
                            break
            if left is not line and kept is None:
                kept = lines[:number]
            if kept is not None and left is not None:
                kept.append(left)
        if kept is None:
            return text
        left = "\n".join([*kept, rest] if rest else kept)
        return left if left.strip() else ""

    def _spent(self, look: _Look, line: str) -> bool:
        """Whether there is no time left for this pattern; else the line is counted."""
        if self._steps < 0:
            return True
        self._steps -= look.effort(len(line))
        return False

    def _taken(self, index: int, line: str, look: _Look, begin: int, end: int) -> str | None:
        """What is left of a line without its volatile part: itself where that may stay, None where nothing is."""
        if begin >= end:
            return line
        if not look.moves:
            self._dropped.add(index)
        elif index < self._end:
            self._lifted.add(index)
            self._moved.append(line[begin:end].strip())
        else:
            self.stays = True
            return line  # it stands behind the last message, or nothing comes after it
        return (line[:begin] + line[end:]).rstrip() or None


def _text_of(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else None


def _takes(message: dict[str, Any]) -> bool:
    """Whether a moved line can stand behind a message: what the user said last, or what a tool answered."""
    content = message.get("content")
    return message.get("role") in _ENDS and ((isinstance(content, str) and content != "") or (isinstance(content, list) and bool(content)))


def _followed(message: dict[str, Any], text: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": f"{content}\n\n{text}"}
    return {**message, "content": [*content, {"type": "text", "text": text}]}
