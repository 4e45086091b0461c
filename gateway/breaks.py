"""Breaks: where a prompt leaves the one before it in its conversation, so that a cache cannot serve what it holds of it.

Pure; memory is bounded, and no text is kept: digests of the last prompts, and the sizes of their parts. A prompt that goes on where the
last one ended, repeats it, or asks its last question in other words breaks nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final, NamedTuple

from msgspec.json import Encoder

from gateway.money import Rates, cost
from gateway.outcome import Break
from gateway.prefix import APART, Prints
from gateway.request import ChatRequest

_encode = Encoder().encode
# Digests that are kept in all: some 16 bytes each.
MOST: Final = 500_000
# Bytes of a prompt of which hosts cache nothing, so that nothing of it can be lost: less than 64 tokens.
LEAST: Final = 200
# What a prompt counts beside its digests, threads of one session (agents talk side by side), lists of tools that are remembered.
_BESIDE, _THREADS, _TOOLS = 40, 4, 512
# Tools of one request beyond which none of them is looked at.
_MANY_TOOLS: Final = 1024
# Parts of equal size that show two prompts to be of one conversation: so many, or so many bytes of them.
_ALIKE, _ALIKE_BYTES = 2, 96
_HEADS: Final = ("system", "developer")
_ROLES: Final = frozenset((*_HEADS, "user", "assistant", "tool", "function"))
# Characters of a question at its beginning and its end that tell it from another.
_TELLING: Final = 512

# What may be done about a break of each kind, in words.
REMEDIES: Final = {
    "tools_order": "the tools come in another order each time: sort them in the app, or by policy",
    "tools_changed": "the tools change within a conversation: send the same list with every request",
    "system_changed": "a system message changes: take what changes out of it, or put it behind the last message; in the app, or by policy",
    "question_changed": "the first user message changes: keep what changes, such as a date, for the last message",
    "history_rewritten": "earlier messages come back in other words: send them as they were",
    "truncated": "the oldest messages are left out: cut rarely and much at once, not a little each time",
}
# The lines of a team's file that mend it, where a policy can.
MENDS: Final = {
    "tools_order": "volatile: [{tools: sort}]",
    "system_changed": "volatile: [{line: date, do: move}]   # or a regular expression for the line that changes",
}


class _Last(NamedTuple):
    """The last prompt of a thread. `question` tells its first question from others of a session; `first` and `asked` are the parts of
    the first and the last one."""

    question: int
    ends: array[int]
    digests: array[int]
    parts: array[int]
    tools: bool
    first: int
    asked: int

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def sizes(self) -> list[int]:
        """Bytes of each part."""
        return [end - begin for begin, end in pairwise((0, *(self.ends[part] for part in self.parts)))]


class Breaks:
    """The last prompts of many conversations; the longest unused are forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept = 0
        # Conversation -> the last prompt of each of its threads, the latest last.
        self._talks: dict[int, list[_Last]] = {}
        self._tools: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._talks)

    def look(self, conversation: int, prints: Prints, request: ChatRequest, tokens: int) -> Break | None:
        """Where this prompt breaks with the last one, unpriced; from now on it is the last one itself.

        `prints` are those of the request's own tools and messages, `tokens` its prompt. One of more than APART messages is passed
        over: no conversation has so many. For any other the time is about that of hashing it.
        """
        if prints.size < LEAST or len(request.messages) > APART:
            return None
        new = _made(prints, request)
        if prints.tools:
            self._know(prints, request)
        talk = self._talks.pop(conversation, None)
        if talk is None:
            self._talks[conversation] = [new]
            self._kept += len(new.digests) + _BESIDE
            self._forget()
            return None
        old = next((last for last in reversed(talk) if last.question == new.question), None)
        found = self._between(old, new, request, tokens, kin=False) if old else self._among(talk, new, request, tokens)
        self._keep(conversation, talk, old, new)
        return found

    def _keep(self, conversation: int, talk: list[_Last], old: _Last | None, new: _Last) -> None:
        gone = old or (talk[0] if len(talk) >= _THREADS else None)
        if gone is not None:
            talk.remove(gone)
            self._kept -= len(gone.digests) + _BESIDE
        talk.append(new)
        self._talks[conversation] = talk
        self._kept += len(new.digests) + _BESIDE
        self._forget()

    def _forget(self) -> None:
        while self._kept > self._most and len(self._talks) > 1:
            oldest = self._talks.pop(next(iter(self._talks)))
            self._kept -= sum(len(last.digests) + _BESIDE for last in oldest)

    def _know(self, prints: Prints, request: ChatRequest) -> None:
        """Remember each tool of a list that was not seen before, so that its order can be told from its content."""
        whole = prints.digests[prints.parts[0]]
        if whole in self._tools:
            return
        if len(self._tools) >= _TOOLS:
            del self._tools[next(iter(self._tools))]
        tools = request.body.get("tools")
        few = tools if isinstance(tools, list) and len(tools) <= _MANY_TOOLS else ()
        self._tools[whole] = tuple(sorted(map(_digest, few)))

    def _among(self, talk: list[_Last], new: _Last, request: ChatRequest, tokens: int) -> Break | None:
        """With another first question in the same session: another thread, unless its parts are those of one that is known."""
        for old in reversed(talk):
            found = self._between(old, new, request, tokens, kin=True)
            if found is not None:
                return found
        return None

    def _between(self, old: _Last, new: _Last, request: ChatRequest, tokens: int, *, kin: bool) -> Break | None:
        """The break between two prompts of one conversation; `kin`: only where their parts show that they are of one."""
        common = _common(old, new)
        if common in (len(old.digests), len(new.digests)):
            return None
        part = bisect_left(new.parts, common)
        kind = self._kind(old, new, part, request, kin)
        at = new.ends[common - 1] if common else 0
        lost = tokens * (min(old.size, new.size) - at) // new.size
        if kind is None or not lost:
            return None
        begin = new.ends[new.parts[part - 1]] if part else 0
        within = min(old.ends[common], new.ends[common]) - at
        name = "tools" if kind.startswith("tools") else f"messages[{part - new.tools}] ({_role(new, part, request)})"
        return Break(name, at - begin, within, kind, lost)

    def _kind(self, old: _Last, new: _Last, part: int, request: ChatRequest, kin: bool) -> str | None:
        """What broke, in one word; None where it is another conversation, or only its last question is asked in other words."""
        if old.tools != new.tools or (part == 0 and new.tools):
            return self._tools_kind(old, new) if not kin or _goes_on(old, new, -1) else None
        if _cut(old, new, part) and (not kin or part <= new.first):
            return "truncated"
        goes_on = _goes_on(old, new, part - new.tools)
        if _role(new, part, request) in _HEADS:
            return "system_changed" if goes_on or not kin else None
        if kin:
            return "question_changed" if goes_on and part == new.first else None
        # Who names its session says that it is the same; else two conversations may have begun with the same words.
        return "history_rewritten" if goes_on or (request.session and part < old.asked) else None

    def _tools_kind(self, old: _Last, new: _Last) -> str:
        if not (old.tools and new.tools):
            return "tools_changed"
        before = self._tools.get(old.digests[old.parts[0]])
        return "tools_order" if before and before == self._tools.get(new.digests[new.parts[0]]) else "tools_changed"


def priced(found: Break, rates: Rates) -> Break:
    """The break with what its tokens cost more at these rates than they would from the cache: nano-units of their currency."""
    dearer = max(0, rates.cache_miss - rates.cache_hit)
    return Break(found.part, found.offset, found.within, found.kind, found.tokens, cost(Rates(0, dearer, 0), 0, found.tokens, 0))


def _made(prints: Prints, request: ChatRequest) -> _Last:
    first = asked = -1
    for index, message in enumerate(request.messages):
        if message.get("role") == "user":
            asked = index
            if first < 0:
                first = index
    question = _question(request.messages[first].get("content")) if request.session and first >= 0 else 0
    tools = prints.tools
    return _Last(
        question, array("Q", prints.ends), array("Q", prints.digests), array("I", prints.parts), tools, first + tools, asked + tools
    )


def _question(content: Any) -> int:
    text = content if isinstance(content, str) else _encode(content)
    return hash((len(text), text[:_TELLING], text[-_TELLING:]))


def _digest(tool: Any) -> int:
    return int.from_bytes(blake2b(_encode(tool), digest_size=8).digest(), "big")


def _common(old: _Last, new: _Last) -> int:
    """How many digests two prompts share: each stands for all before it, so that they share a beginning of them."""
    low, high = 0, min(len(old.digests), len(new.digests))
    if high and old.digests[high - 1] == new.digests[high - 1]:
        return high
    while low < high:
        middle = (low + high) // 2
        if old.digests[middle] == new.digests[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def _goes_on(old: _Last, new: _Last, message: int) -> bool:
    """Whether most messages of the two behind this one are of the same sizes, as far as the shorter of them goes."""
    pairs = list(zip(old.sizes()[old.tools + message + 1 :], new.sizes()[new.tools + message + 1 :], strict=False))
    alike = [one for one, other in pairs if one == other]
    return 2 * len(alike) >= len(pairs) and _telling(alike)


def _cut(old: _Last, new: _Last, part: int) -> bool:
    """Whether the new prompt leaves something out here: what follows are parts of the old one, to its end."""
    before, now = old.sizes()[part + 1 :], new.sizes()[part:]
    return _telling(before[len(before) - overlap(before, now) :])


def overlap(before: Sequence[int], now: Sequence[int]) -> int:
    """How many items at the end of the one are the beginning of the other, the most that are; in linear time (Knuth, Morris, Pratt)."""
    now = now[: len(before)]
    # Of each beginning of `now`: the length of its longest end, itself left out, that is a beginning too.
    ends, matched = [0] * len(now), 0
    for at in range(1, len(now)):
        while matched and now[at] != now[matched]:
            matched = ends[matched - 1]
        matched += now[at] == now[matched]
        ends[at] = matched
    matched = 0
    for item in before if now else ():
        while matched and (matched == len(now) or item != now[matched]):
            matched = ends[matched - 1]
        matched += item == now[matched]
    return matched


def _telling(sizes: list[int]) -> bool:
    return len(sizes) >= _ALIKE or sum(sizes) >= _ALIKE_BYTES


def _role(last: _Last, part: int, request: ChatRequest) -> str:
    role = request.messages[part - last.tools].get("role")
    return role if isinstance(role, str) and role in _ROLES else "other"
