"""Marks: the names under which an answer's reasoning is kept: keyed digests, from which neither text nor team can be learned.

A conversation is what its messages say: roles, texts, names, calls and results. What clients write differently without saying
anything else is the same: the order of keys, blanks around a text, no content as null, "" or nothing, one text as a list of
parts, the blanks and numbers in a call's JSON. Reasoning itself is no part of it. Each answer has up to three names:

- own: the whole conversation up to and with this answer. No other conversation has it.
- loose: the same without system messages, which some clients write anew for every request. Only once the conversation holds the
  id of a call that is as good as random, so that another one can hardly be the same but for its system messages.
- call: the id of its first call, if that is as good as random; what is found by it must agree in all calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.messages import lacking

SIZE: Final = 16
Message = Mapping[str, Any]
Call = tuple[str, str, str]
"""Id, name and arguments."""
_encode = msgspec.json.Encoder(order="deterministic").encode
_RUN: Final = re.compile(r"[A-Za-z0-9]{8,}")
# Different characters in the part of an id that makes it as good as random.
_VARIED: Final = 4
# A word, a number, or a word and a number: what people and counters make.
_COUNTED: Final = re.compile(r"[A-Za-z]*\d*")
# Below it every whole number is a float of its own.
_EXACT: Final = 1 << 53
_OWN, _LOOSE, _CALL, _AGREE = b"o", b"l", b"c", b"="


class Marks(Struct, frozen=True):
    """The names of one answer; `agree` is a digest of its calls. `at`: the position of its message."""

    at: int
    own: bytes
    loose: bytes | None
    call: bytes | None
    agree: bytes

    @property
    def names(self) -> tuple[bytes, ...]:
        return tuple(field for field in (self.own, self.loose, self.call) if field is not None)


class Marker:
    """Digests under one secret (at most 64 bytes); each team has its own."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._digest_of = lru_cache(maxsize=1024)(self._empty)

    def _empty(self, team: str) -> blake2b:
        """A digest under the team's own key, to be copied: that costs a third of a new one."""
        key = blake2b(team.encode(), key=self._secret, digest_size=32, person=b"faregate team").digest()
        return blake2b(key=key, digest_size=SIZE)

    def missing(self, team: str, messages: Sequence[Message]) -> list[Marks]:
        """The names of every answer in these messages that comes without its reasoning."""
        chain = _Chain(self._digest_of(team))
        found = []
        for at, message in enumerate(messages):
            calls = chain.take(message)
            if lacking(message):
                found.append(chain.marks(at, calls))
        return found

    def answer(self, team: str, messages: Sequence[Message], content: str, calls: Sequence[Message]) -> Marks:
        """The names of an answer to these messages."""
        chain = _Chain(self._digest_of(team))
        for message in messages:
            chain.take(message)
        said: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            said["tool_calls"] = calls
        return chain.marks(len(messages), chain.take(said))


class _Chain:
    """A conversation as far as it was read."""

    def __init__(self, empty: blake2b) -> None:
        self._empty = empty
        self._own = empty.copy()
        # Nothing is digested without system messages until somebody could ask for it.
        self._loose: Any = None
        self._said: list[bytes] = []

    def take(self, message: Message) -> list[Call]:
        """The next message; the calls in it."""
        role, content = message["role"], message.get("content")
        calls: list[Call] = []
        if len(message) == 2 and type(content) is str and role != "developer":
            # A role and a text, which most messages are.
            said = _encode((role, content.strip()))
        else:
            role, calls = _role(message), _calls(message)
            said = _canonical(role, message, calls)
        # JSON texts, one after the other, can be read in one way only.
        self._own.update(said)
        if role != "system":
            if self._loose is not None:
                self._loose.update(said)
            else:
                self._said.append(said)
        if calls and self._loose is None and role == "assistant" and as_good_as_random(calls[0][0]):
            self._loose = self._empty.copy()
            self._loose.update(b"".join(self._said))
        return calls

    def marks(self, at: int, calls: list[Call]) -> Marks:
        """The names of the answer that was read last."""
        own = _OWN + self._own.digest()
        loose = _LOOSE + self._loose.digest() if self._loose is not None else None
        if not calls:
            return Marks(at, own, loose, None, b"")
        first = calls[0][0]
        call = _CALL + self._digest(_CALL + first.encode()) if as_good_as_random(first) else None
        return Marks(at, own, loose, call, self._digest(_AGREE + _encode(calls)))

    def _digest(self, data: bytes) -> bytes:
        digest = self._empty.copy()
        digest.update(data)
        return digest.digest()


def as_good_as_random(id: str) -> bool:
    """Whether an id is one that no other call is likely to have: not a counter, not the name of a function."""
    return bool(id) and any(len(set(run)) >= _VARIED and not _COUNTED.fullmatch(run) for run in _RUN.findall(id))


def _canonical(role: str, message: Message, calls: list[Call]) -> bytes:
    more = (message.get("name") or "", message.get("tool_call_id") or "", calls)
    text = _text(message.get("content"))
    return _encode((role, text, *more) if any(more) else (role, text))


def _role(message: Message) -> str:
    role = str(message.get("role"))
    return "system" if role == "developer" else role


def _text(content: Any) -> Any:
    """One text where there is nothing else, else the parts as they are."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content).strip()
    return content


def _calls(message: Message) -> list[Call]:
    """Id, name and arguments of each call."""
    found = message.get("tool_calls")
    if isinstance(found, (list, tuple)) and found:
        return [_call(call.get("id"), call.get("function")) for call in found if isinstance(call, dict)]
    old = message.get("function_call")
    return [_call(None, old)] if isinstance(old, dict) else []


def _call(id: Any, function: Any) -> Call:
    named = function if isinstance(function, dict) else {}
    return (id if isinstance(id, str) else "", str(named.get("name") or ""), _arguments(named.get("arguments")))


def _number(text: str) -> float:
    """A whole number is one however it is written: some clients make 1 of 1.0."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


_decode = msgspec.json.Decoder(float_hook=_number).decode


def _arguments(text: Any) -> str:
    """JSON as it means; anything else as it is."""
    if not isinstance(text, str):
        return "" if text is None else _encode(text).decode()
    try:
        return _encode(_decode(text)).decode()
    except (msgspec.DecodeError, RecursionError):
        return text.strip()
