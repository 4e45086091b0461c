"""Shape: the stream that a host sends -> the stream that the client gets. Bytes in, bytes out; nothing here waits or sends.

Promised for every chunk given to a client: at least one choice (but for the usage chunk of a client that asked), each delta
with `reasoning_content` and `content`, and `content` a string wherever there is no reasoning. Where a chunk is so already,
and usage apart, its bytes are the host's own. From the first finish on, what ends the answer is held back for `tail`, so that
the charge is made before the client sees the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from gateway.allowance import Purse, Side, Tokenizer, shorter, tokens_of
from gateway.assemble import Told
from gateway.dialects import (
    Choice,
    Chunk,
    Delta,
    HostError,
    call_text,
    clean,
    decode_chunk,
    detail_text,
    error_of,
    gave_up,
    good_finish,
    read_chunk,
    read_json,
    write_json,
)
from gateway.hosts import Deployment
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.rewrite import Part, patch, rewrite, set_usage
from gateway.sse import BadStream, Splitter, data_of, event_of

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
class Unpaid:
    """A chunk that was read and counted, and that waits until the hold pays for it."""

    event: bytes
    chunk: Chunk
    parts: list[Part]
    usage: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """An event kept back; `usage` is what stands in its bytes, empty where it has none."""

    event: bytes
    usage: bytes
    choiceless: bool = False


class StreamShape:
    """Turns one host's stream into the client's, and feeds `meter` on the way. `choices` is the request's n.

    `feed` all bytes until `over`, or `end` when the host ends; then `failure` is set or `tail` has the rest. With a `purse`,
    whenever it is `unpaid` a chunk waits for money: ask, then `resume`. What comes behind a chunk at which the money ends is
    neither passed on nor counted, so the result does not depend on how the stream was read.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        include_usage: bool,
        stop: StopRule | None,
        meter: Meter,
        choices: int = 1,
        purse: Purse | None = None,
    ) -> None:
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
        self._told = Told(meter)
        self._purse = purse
        self._unpaid: Unpaid | None = None
        self._rest: list[bytes] = []
        self._fault: BadStream | None = None
        self._ended = False
        self.secrets: Sequence[str] = ()
        """What no error may repeat of what was sent to the host."""
        self.done = False
        self.stopped: Literal["limit", "budget"] | None = None
        self.failure: StreamFailure | None = None
        self.edits: set[str] = set()

    @property
    def over(self) -> bool:
        """Whether nothing more of the host's bytes is wanted."""
        return self.done or self.stopped is not None or self.failure is not None

    @property
    def unpaid(self) -> bool:
        """Whether a chunk waits until the purse was asked for more."""
        return self._unpaid is not None

    @property
    def produced(self) -> bool:
        """Whether any text has come."""
        return self._meter.produced

    @property
    def said(self) -> tuple[str, str, list[dict[str, Any]]] | None:
        """(reasoning, content, tool calls) of a whole answer as the client gets it; None where there is no reasoning or more than one
        answer, or where it is too long.
        """
        return self._told.said if self._choices == 1 else None

    @property
    def unheard(self) -> bytes:
        """What had come already when we ended the answer."""
        return b"".join(self._rest) + self._splitter.rest()

    def feed(self, data: bytes) -> bytes:
        """The client's bytes that are ready now, b"" where all is held back."""
        try:
            events = self._splitter.feed(data)
        except BadStream as bad:
            events, self._fault = bad.events, bad
        return self._pass(events)

    def resume(self) -> bytes:
        """Go on with the chunk that waited, where the purse has more by now, or is final; else it waits on."""
        purse = self._purse
        if self._unpaid is None or purse is None or (not purse.final and self._wants_money(purse)):
            return b""
        read, rest = self._unpaid, self._rest
        self._unpaid, self._rest = None, []
        out = self._paid(read, purse) + self._pass(rest)
        if self._ended and not self.unpaid and not self.over:
            self._settle_end()
        return out

    def end(self) -> None:
        """The host's bytes have ended. An answer without a finish is a failure, whatever else was sent."""
        if self.over:
            return
        self._ended = True
        rest = self._splitter.rest()
        if rest and _readable(rest):
            self._event(rest.rstrip(b"\r\n") + b"\n\n")
        if self._unpaid is None:
            self._settle_end()

    def _pass(self, events: list[bytes]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.over:
                self._rest = events[len(out) :]
                return b"".join(out)
            out.append(self._event(event))
            if self._unpaid is not None:
                self._rest = events[len(out) :]
                return b"".join(out)
        if self._fault is not None and not self.over:
            self._fail("too_large", f"The host's stream cannot be read: {self._fault}.")
        return b"".join(out)

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
        if delta is None or choice.finish_reason is not None or choice.index or delta.tool_calls or delta.function_call:
            return None
        content, reasoning = delta.content, delta.reasoning_content or delta.reasoning
        if (reasoning and content) or (delta.reasoning_details and not reasoning):
            return None
        patched = patch(event, delta)
        if patched is None or (self._purse is not None and not self._purse.fits(reasoning or content or "")):
            return None
        # Last: what a limit has taken counts, while a purse only looks sooner for what it was told twice.
        if self._stop is not None and not self._sides[0].fits(reasoning or "", content or ""):
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
            failed = self.failure is not None
            self._meter.report(chunk.usage, chunk.timings, final=self._closed or failed, failed=failed)
        if self.failure is not None:
            return b""
        if not parts:
            return self._choiceless(event, usage)
        if all(part.late and not part.reasoning and not part.content for part in parts) and not (self._include_usage and usage):
            # A second finish: the first one stands, and only the usage that it brings is of use.
            self._note(not usage)
            return b""
        if self._purse is not None and self._wants_money(self._purse):
            self._unpaid = Unpaid(event, chunk, parts, usage)
            return b""
        return self._deliver(self._rendered(event, chunk, parts), usage, parts)

    # ---- the end of the money

    def _wants_money(self, purse: Purse) -> bool:
        """A whole answer needs no more than it has cost."""
        if self.stopped is not None or not purse.low:
            return False
        return not (purse.ready and self._complete) or purse.used > purse.limit

    def _paid(self, read: Unpaid, purse: Purse) -> bytes:
        """The chunk that waited, now that it is known whether it is paid for."""
        if not purse.final or (self._complete and purse.used <= purse.limit):
            return self._passed(read)
        self._shorten(read, purse.used - purse.limit, purse.tokenizer)
        self.stopped = "budget"
        self.edits.add("truncate_output")
        out = self._passed(read) if not all(part.empty for part in read.parts) else b""
        self._hold(Held(self._closing(read.event), b""))
        return out

    def _shorten(self, read: Unpaid, excess: int, tokenizer: Tokenizer) -> None:
        """Take so many tokens off the end of a chunk; a tool call that does not fit whole is left out."""
        for part, choice in zip(reversed(read.parts), reversed(read.chunk.choices or []), strict=True):
            calls = call_text(choice.delta) if part.tools else ""
            for name, text in (("tools", calls), ("content", part.content), ("reasoning", part.reasoning)):
                if not text or excess <= 0:
                    continue
                kept = "" if name == "tools" else shorter(text, excess, tokenizer)
                excess = 0 if kept else excess - tokens_of(text, tokenizer)
                self._told.cut(name, len(text) - len(kept))
                setattr(part, name, False if name == "tools" else kept)
                part.cut, part.finish, self._sides[choice.index].finish = True, None, None

    def _closing(self, event: bytes) -> bytes:
        """A last chunk of ours, in the name of the host's, that ends every choice which is still open."""
        open_ones = [index for index in range(self._choices) if index not in self._sides or self._sides[index].finish is None]
        delta = {"content": "", "reasoning_content": None}
        choices = [{"index": index, "delta": delta, "logprobs": None, "finish_reason": "length"} for index in open_ones]
        return event_of(write_json({**_named(event), "choices": choices, "faregate": {"stopped": "budget"}}))

    def _passed(self, read: Unpaid) -> bytes:
        return self._deliver(self._rendered(read.event, read.chunk, read.parts), read.usage, read.parts)

    # ---- parts of a chunk

    def _part(self, choice: Choice) -> Part:
        side = self._sides.get(choice.index)
        if side is None and not 0 <= choice.index < self._choices:
            self._fail("invalid_event", f"The host sent more answers than were asked for (index {choice.index}).")
            return Part("", "", None)
        if side is None:
            side = self._sides[choice.index] = Side(self._deployment, self._stop)
        part = self._read(side, choice)
        side.ended = side.ended or bool(choice.finish_reason)
        if side.finish is not None:
            part.late = True
            # What a choice says after its limit is not sent; its first finish stands.
            if self._stop:
                self._told.cut_off(part.reasoning, part.content)
                part.reasoning, part.content, part.tools = "", "", False
            part.finish = side.finish if part.finish else None
            return part
        reasoning, content = part.reasoning, part.content
        side.limit(part, call_text(choice.delta))
        if part.stopped:
            self._told.cut_off(reasoning[len(part.reasoning) :], content[len(part.content) :])
        if choice.delta is not None and choice.delta.tool_calls and part.tools:
            self._told.call(choice.delta.tool_calls)
        side.finish = part.finish
        self._quick = self._quick and part.finish is None
        self._cut = self._cut or part.stopped
        if self._cut and self._complete:
            self.stopped = "limit"
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
        calls = call_text(delta)
        if content:
            self._answer(content)
        if calls:
            self._meter.answer.add_calls(calls, beside=bool(content))
        if self._purse is not None:
            self._purse.add(reasoning + content + calls)
        return Part(reasoning, content, finish)

    def _finish(self, choice: Choice) -> str | None:
        if not choice.finish_reason:
            return None
        finish = good_finish(choice.finish_reason)
        if finish is None:
            self._fail("bad_finish", f"The host ended the answer with finish_reason {clean(choice.finish_reason, self.secrets)[:40]!r}.")
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
        self._note(any(not part.stopped and not part.cut for part in parts))
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

    @property
    def _closed(self) -> bool:
        """Whether the host itself has ended every choice; a limit of ours ends nothing for it."""
        return len(self._sides) >= self._choices and all(side.ended for side in self._sides.values())

    @property
    def _complete(self) -> bool:
        """Whether every choice that was asked for has come to its end."""
        return self._all_finished and len(self._sides) >= self._choices

    def _settle_end(self) -> None:
        if self.failure is None and not self._all_finished:
            self._fail("no_finish", "The host's stream ended before the answer did.")

    def _error_in(self, event: bytes, chunk: Chunk) -> HostError | None:
        if chunk.choices and (not chunk.error or chunk.error == NULL) and not gave_up(chunk.choices):
            return None
        try:
            return error_of(read_json(data_of(event) or b""), self.secrets)
        except ValueError:
            return None

    def _fail(self, kind: Kind, message: str, status: int | None = None, code: str | None = None) -> None:
        self.failure = self.failure or StreamFailure(status, message, kind, code)

    def _note(self, changed: bool) -> None:
        if changed:
            self.edits.add("normalise_stream")

    def _usage_chunk(self, usage: dict[str, Any]) -> bytes:
        """A usage chunk of our own, in the name of the last chunk held."""
        name = _named(self._held[-1].event) if self._held else {}
        return event_of(write_json({**name, "choices": [], "usage": usage}))


def _named(event: bytes) -> dict[str, Any]:
    """What the chunks of one answer have in common."""
    last = read_json(data_of(event) or b"")
    return {name: last[name] for name in ("id", "object", "created", "model", "system_fingerprint") if name in last}


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
