"""Shape: the stream that a host sends -> the stream that the client gets. Bytes in, bytes out; nothing here waits or sends.

Promised for every chunk given to a client: at least one choice (but for the usage chunk of a client that asked), each delta
with `reasoning_content` and `content`, and `content` a string wherever there is no reasoning. Where a chunk is so already,
and usage apart, its bytes are the host's own. From the first finish on, what ends the answer is held back for `tail`, so that
the charge is made before the client sees the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from gateway.dialects import (
    Choice,
    Chunk,
    Delta,
    HostError,
    clean,
    decode_chunk,
    detail_text,
    error_of,
    good_finish,
    inline_splitter,
    read_chunk,
    read_json,
    tool_text,
    write_json,
)
from gateway.hosts import Deployment
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.rewrite import Part, patch, rewrite, set_usage
from gateway.sse import BadStream, Splitter, data_of, event_of
from gateway.tokens import TextCounter

Kind = Literal["error_event", "invalid_event", "too_large", "bad_finish", "no_finish"]

DONE = b"data: [DONE]\n\n"
HELD_LIMIT = 4 << 20
NULL = Raw(b"null")


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """Why a stream is not a whole answer. `message` is fit for the client; `status` is the one that the host meant, if any."""

    status: int | None
    message: str
    kind: Kind
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """An event kept back; `usage` is what stands in its bytes, empty where it has none."""

    event: bytes
    usage: bytes
    choiceless: bool = False


class Allowance:
    """How much text still fits under a limit of tokens: exact, yet it counts only when the limit may be near."""

    # Text that is still to come can change how the last characters split, by a few tokens at most.
    SLACK = 4
    # Characters of a long word.
    WORD = 32

    def __init__(self, tokens: int, tokenizer: Literal["deepseek", "none"]) -> None:
        self._limit = tokens
        self._tokenizer = tokenizer
        self._counter = TextCounter(tokenizer)
        self._counted = 0
        self._chunks = 0
        self._waiting: list[str] = []
        self._bytes = 0
        self.spent = tokens <= 0

    def fits(self, text: str) -> bool:
        """Whether all of `text` certainly fits; then it is taken. A token has at least one byte, so bytes are the first bound."""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self._chunks + 1 >= self._limit or self._counted + self._bytes + size + self.SLACK >= self._limit:
            return False
        self._chunks += 1
        self._bytes += size
        self._waiting.append(text)
        return True

    def take(self, text: str) -> str:
        """The part of `text` (not empty) that fits; sets `spent` once nothing more does."""
        if self.spent:
            return ""
        return text if self.fits(text) else self._take_exactly(text)

    def _take_exactly(self, text: str) -> str:
        self._counter.feed("".join((*self._waiting, text)))
        self._waiting.clear()
        self._bytes = 0
        self._chunks += 1
        self._counted = self._counter.count
        self.spent = max(self._counted, self._chunks) >= self._limit
        return text if self._counted <= self._limit else self._cut(text, self._counted - self._limit)

    def _cut(self, text: str, excess: int) -> str:
        """The longest beginning of `text` that has at least `excess` tokens less than the whole."""
        room = self._tokens(text) - excess
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._tokens(text[:middle]) <= room else (low, middle - 1)
        # Inside a word the count rises and falls again: a longer beginning may have fewer tokens.
        start = max(0, low - self.WORD)
        room -= self._tokens(text[:start])
        ends = range(min(len(text), low + self.WORD), low, -1)
        return text[: next((end for end in ends if self._tokens(text[start:end]) <= room), low)]

    def _tokens(self, text: str) -> int:
        counter = TextCounter(self._tokenizer)
        counter.feed(text)
        return counter.count


class Side:
    """One choice of the answer on its way: its splitter, its limit, its finish."""

    def __init__(self, deployment: Deployment, stop: StopRule | None) -> None:
        self.splitter = inline_splitter(deployment)
        self.finish: str | None = None
        self._stop = stop
        self._allowance = Allowance(stop.tokens, deployment.contract.tokenizer) if stop else None

    def fits(self, reasoning: str, content: str) -> bool:
        """Whether a piece of one text certainly fits under the limit; then it is taken."""
        if self._allowance is None or self._stop is None:
            return True
        text = content or (reasoning if self._stop.counts == "total" else "")
        return not text or self._allowance.fits(text)

    def limit(self, part: Part, calls: str) -> None:
        """Cut `part` (in place) where the limit is reached; `calls` is the text of its tool calls."""
        allowance = self._allowance
        if allowance is None or self._stop is None:
            return
        whole = (part.reasoning, part.content, calls)
        if self._stop.counts == "total" and part.reasoning:
            part.reasoning = allowance.take(part.reasoning)
        if part.content:
            part.content = allowance.take(part.content)
        if calls:
            part.tools = allowance.take(calls) == calls
        if allowance.spent and (not part.finish or whole != (part.reasoning, part.content, calls if part.tools else "")):
            part.finish, part.stopped = "length", True


class StreamShape:
    """Turns one host's stream into the client's, and feeds `meter` on the way. `choices` is the request's n.

    `feed` all bytes until `over`, or `end` when the host ends; then `failure` is set or `tail` has the rest.
    """

    def __init__(self, deployment: Deployment, *, include_usage: bool, stop: StopRule | None, meter: Meter, choices: int = 1) -> None:
        self._deployment = deployment
        self._include_usage = include_usage
        self._stop = stop
        self._meter = meter
        self._choices = choices
        self._splitter = Splitter()
        self._sides = {0: Side(deployment, stop)}
        self._held: list[Held] = []
        self._held_bytes = 0
        # Whether a chunk may pass unread but for its text: no inline tags, no finish yet.
        self._quick = self._sides[0].splitter is None
        self._answer, self._reasoning = meter.answer.add, meter.reasoning.add
        self._cut = False
        self.done = False
        self.stopped = False
        self.failure: StreamFailure | None = None
        self.edits: set[str] = set()

    @property
    def over(self) -> bool:
        """Whether nothing more of the host's bytes is wanted."""
        return self.done or self.stopped or self.failure is not None

    @property
    def produced(self) -> bool:
        """Whether any text has come."""
        return self._meter.produced

    def feed(self, data: bytes) -> bytes:
        """The client's bytes that are ready now, b"" where all is held back."""
        fault: BadStream | None = None
        try:
            events = self._splitter.feed(data)
        except BadStream as bad:
            events, fault = bad.events, bad
        out = []
        for event in events:
            if self.over:
                break
            out.append(self._event(event))
        if fault is not None and not self.over:
            self._fail("too_large", f"The host's stream cannot be read: {fault}.")
        return b"".join(out)

    def end(self) -> None:
        """The host's bytes have ended. An answer without a finish is a failure, whatever else was sent."""
        if self.over:
            return
        rest = self._splitter.rest()
        if rest and _readable(rest):
            self._event(rest.rstrip(b"\r\n") + b"\n\n")
        self._settle_end()

    def tail(self, usage: dict[str, Any] | None) -> bytes:
        """What was held back, then [DONE]. `usage` goes to clients that asked for it, in the place where the host put its own."""
        carrier = max((number for number, held in enumerate(self._held) if held.usage), default=None) if self._include_usage else None
        out = []
        for number, held in enumerate(self._held):
            if number == carrier and usage is not None:
                out.append(set_usage(held.event, held.usage, usage))
            elif not held.choiceless:
                out.append(set_usage(held.event, held.usage, None) if held.usage else held.event)
        if self._include_usage and carrier is None and usage is not None:
            out.append(self._usage_chunk(usage))
        return b"".join((*out, DONE))

    def error_event(self, body: dict[str, Any]) -> bytes:
        """The one event that ends a failed stream: `{"error": …}`; no [DONE] follows."""
        return event_of(write_json(body if "error" in body else {"error": body}))

    # ---- one event

    def _event(self, event: bytes) -> bytes:
        if event[:7] != b"data: {":
            return self._unusual(event)
        try:
            chunk = decode_chunk(event[6:])
        except (msgspec.DecodeError, RecursionError):
            return self._unusual(event)
        if self._quick:
            passed = self._quickly(event, chunk)
            if passed is not None:
                return passed
        return self._chunk(event, chunk)

    def _quickly(self, event: bytes, chunk: Chunk) -> bytes | None:
        """The client's bytes of a chunk that is just one more piece of one text; None for any other, which is not yet counted."""
        choices = chunk.choices
        if choices is None or len(choices) != 1 or chunk.error or (chunk.usage and chunk.usage != NULL):
            return None
        choice = choices[0]
        delta = choice.delta
        if delta is None or choice.finish_reason is not None or choice.index or delta.tool_calls:
            return None
        content, reasoning = delta.content, delta.reasoning_content or delta.reasoning
        if (reasoning and content) or (delta.reasoning_details and not reasoning):
            return None
        patched = patch(event, delta)
        if patched is None or not (self._stop is None or self._sides[0].fits(reasoning or "", content or "")):
            return None
        if patched is not event:
            self.edits.add("normalise_stream")
        if reasoning:
            self._reasoning(reasoning)
        elif content:
            self._answer(content)
        return patched

    def _unusual(self, event: bytes) -> bytes:
        """Comments and blank lines pass; data in a form that the quick way does not read."""
        data = data_of(event)
        if data is None:
            return event
        if data.strip() == b"[DONE]":
            self._settle_end()
            self.done = True
            return b""
        if not data.strip():
            return b""
        try:
            chunk = read_chunk(data)
        except ValueError:
            self._fail("invalid_event", "The host sent an event that is no chunk of a chat completion.")
            return b""
        return self._chunk(event, chunk)

    def _chunk(self, event: bytes, chunk: Chunk) -> bytes:
        error = self._error_in(event, chunk)
        if error is not None:
            self._fail("error_event", error.message, error.status, error.code)
        parts = [self._part(choice) for choice in chunk.choices or ()]
        usage = b"" if chunk.usage == NULL else bytes(chunk.usage)
        if usage:
            # What a host reports beside its failure is its bill all the same.
            self._meter.report(chunk.usage, chunk.timings, final=self._all_finished or self.failure is not None)
        if self.failure is not None:
            return b""
        if not parts:
            return self._choiceless(event, usage)
        if all(part.late and not part.reasoning and not part.content for part in parts) and not (self._include_usage and usage):
            # A second finish: the first one stands, and only the usage that it brings is of use.
            self._note(not usage)
            return b""
        return self._deliver(self._rendered(event, chunk, parts), usage, parts)

    def _part(self, choice: Choice) -> Part:
        side = self._sides.get(choice.index)
        if side is None and not 0 <= choice.index < self._choices:
            self._fail("invalid_event", f"The host sent more answers than were asked for (index {choice.index}).")
            return Part("", "", None)
        if side is None:
            side = self._sides[choice.index] = Side(self._deployment, self._stop)
        part = self._read(side, choice)
        if side.finish is not None:
            part.late = True
            # What a choice says after its limit is not sent; its first finish stands.
            part.reasoning, part.content, part.tools = ("", "", False) if self._stop else (part.reasoning, part.content, part.tools)
            part.finish = side.finish if part.finish else None
            return part
        side.limit(part, tool_text(choice.delta.tool_calls) if choice.delta else "")
        side.finish = part.finish
        self._quick = self._quick and part.finish is None
        self._cut = self._cut or part.stopped
        self.stopped = self._cut and self._all_finished and len(self._sides) >= self._choices
        return part

    def _read(self, side: Side, choice: Choice) -> Part:
        """The host's words, split and counted."""
        delta = choice.delta or Delta()
        reasoning = delta.reasoning_content or delta.reasoning or detail_text(delta.reasoning_details)
        content = delta.content or ""
        finish = self._finish(choice)
        if side.splitter is not None and not reasoning:
            reasoning, content = side.splitter.feed(content)
            if finish is not None:
                more = side.splitter.close()
                reasoning, content = reasoning + more[0], content + more[1]
        if reasoning:
            self._reasoning(reasoning)
        written = content + tool_text(delta.tool_calls)
        if written:
            self._answer(written)
        return Part(reasoning, content, finish)

    def _finish(self, choice: Choice) -> str | None:
        if not choice.finish_reason:
            return None
        finish = good_finish(choice.finish_reason)
        if finish is None:
            self._fail("bad_finish", f"The host ended the answer with finish_reason {clean(choice.finish_reason)[:40]!r}.")
        self._meter.finish = self._meter.finish or finish
        return finish

    def _choiceless(self, event: bytes, usage: bytes) -> bytes:
        if usage and self._include_usage:
            self._hold(Held(event, usage, choiceless=True))
        else:
            self._note(not usage)
        return b""

    def _rendered(self, event: bytes, chunk: Chunk, parts: list[Part]) -> list[bytes]:
        """The client's events for one chunk: its own bytes, those with keys put in, or written anew."""
        choices = chunk.choices or []
        if all(part.same(choice) for part, choice in zip(parts, choices, strict=True)):
            patched = [patch(event, choice.delta) for choice in choices if choice.delta]
            if len(patched) == 1 and patched[0] is not None:
                self._note(patched[0] is not event)
                return [patched[0]]
            if all(candidate is event for candidate in patched):
                return [event]
        self._note(any(not part.stopped for part in parts))
        if any(part.stopped for part in parts):
            self.edits.add("truncate_output")
        return rewrite(read_json(data_of(event) or b""), parts)

    def _deliver(self, events: list[bytes], usage: bytes, parts: list[Part]) -> bytes:
        if any(part.finish or part.late for part in parts):
            for event in events[:-1]:
                self._hold(Held(event, b""))
            self._hold(Held(events[-1], usage))
            return b""
        if usage and not self._include_usage:
            events[-1] = set_usage(events[-1], usage, None)
        return b"".join(events)

    def _hold(self, held: Held) -> None:
        """Keep an event for the tail; of usage chunks in a row only the last, since reports are never summed."""
        if held.choiceless and self._held and self._held[-1].choiceless:
            self._held_bytes -= len(self._held.pop().event)
        self._held.append(held)
        self._held_bytes += len(held.event)
        if self._held_bytes > HELD_LIMIT:
            self._fail("too_large", "The host's stream goes on after its finish.")

    # ---- ends

    @property
    def _all_finished(self) -> bool:
        return all(side.finish is not None for side in self._sides.values())

    def _settle_end(self) -> None:
        if self.failure is None and not self._all_finished:
            self._fail("no_finish", "The host's stream ended before the answer did.")

    def _error_in(self, event: bytes, chunk: Chunk) -> HostError | None:
        if chunk.choices and (not chunk.error or chunk.error == NULL) and not _failed(chunk.choices):
            return None
        try:
            return error_of(read_json(data_of(event) or b""))
        except ValueError:
            return None

    def _fail(self, kind: Kind, message: str, status: int | None = None, code: str | None = None) -> None:
        self.failure = self.failure or StreamFailure(status, message, kind, code)

    def _note(self, changed: bool) -> None:
        if changed:
            self.edits.add("normalise_stream")

    def _usage_chunk(self, usage: dict[str, Any]) -> bytes:
        """A usage chunk of our own, in the name of the last chunk held."""
        last = read_json(data_of(self._held[-1].event) or b"") if self._held else {}
        kept = {name: last[name] for name in ("id", "object", "created", "model", "system_fingerprint") if name in last}
        return event_of(write_json({**kept, "choices": [], "usage": usage}))


def _failed(choices: list[Choice]) -> bool:
    return any(choice.finish_reason and good_finish(choice.finish_reason) is None for choice in choices)


def _readable(rest: bytes) -> bool:
    """Whether an event that was not ended is whole all the same."""
    data = data_of(rest)
    if data is None:
        return False
    try:
        read_json(data)
    except ValueError:
        return data.strip() == b"[DONE]"
    return True
