"""Replies: the three ways in which a host's answer becomes the client's: streamed, whole, or streamed upstream and assembled.

Each takes the opened answer, holds back its end, and gives it after the charge is durable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.assemble import SAID_LIMIT, Assembler, decorate_usage, fault_of, normalise_answer
from gateway.budgets import left_text
from gateway.dialects import HostError, objects, read_error, read_json, write_json
from gateway.edits import Edit, header
from gateway.errors import FaregateError, UpstreamError
from gateway.experience import Experience
from gateway.host_errors import refused, stated
from gateway.meter import Meter
from gateway.money import Money, decimal_text
from gateway.outcome import LedgerRow
from gateway.recall.port import Said
from gateway.receipts import Journey
from gateway.relay import WHOLE_LIMIT, collect, hear_out, pump
from gateway.sanitise import count_sent
from gateway.shape import StreamFailure, StreamShape
from gateway.stretch import Stretch
from gateway.upstream.port import Answer
from gateway.usage import Usage
from gateway.watch import Watch

# What hosts and proxies say of a body that is no stream; anything else is read as one.
NO_STREAM = ("application/json", "text/html")
# Seconds of nothing but keep-alive blanks after which the client gets them too.
KEEP_ALIVE_AFTER = 5.0
# What readers of server-sent events pass over.
COMMENT = b": the answer is being charged\n\n"
# Seconds after which a client that waits for an answer in the making hears of us: less than most proxies wait.
SILENCE = 30.0


class Responder(Protocol):
    """The client's side of one answer."""

    started: bool
    dispatched: bool

    async def start_stream(self, headers: dict[str, str]) -> None: ...

    async def start_whole(self, headers: dict[str, str]) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def end(self) -> None: ...

    async def whole(self, status: int, headers: dict[str, str], body: bytes) -> None: ...

    async def error(self, error: FaregateError, headers: dict[str, str] | None = None) -> None: ...


def reply_for(journey: Journey, responder: Responder, watch: Watch, experience: Experience, stretch: Stretch | None = None) -> Reply:
    """How this request's answer is given; `stretch` has its hold, where it falls under budgets."""
    kind = StreamReply if journey.request.stream else AssembledReply if journey.streams_upstream else WholeReply
    return kind(journey, responder, watch, experience, stretch)


class Reply(ABC):
    """One answer on its way to the client. `failure` is set when the host failed inside an answer with status 200."""

    def __init__(
        self, journey: Journey, responder: Responder, watch: Watch, experience: Experience, stretch: Stretch | None = None
    ) -> None:
        self._journey = journey
        self.stretch = stretch
        self._responder = responder
        self._watch = watch
        self._deployment = journey.deployment
        self._experience = experience
        self.meter = Meter(journey.deployment, journey.candidate.sanitised.prompt_tokens, journey.request.answers)
        self.failure: FaregateError | None = None
        self._secrets: Sequence[str] = ()
        self._counted: int | None = None

    @property
    def stopped(self) -> str | None:
        """What of ours ended the answer early: "limit", "budget", or None."""
        return None

    @property
    def edits(self) -> tuple[str, ...]:
        """Names of the edits made to the answer so far, sorted."""
        return ()

    @property
    def said(self) -> Said | None:
        """What the client was told, once the answer has ended well: one answer with reasoning, or None."""
        return None

    @property
    def headers(self) -> dict[str, str]:
        """What the client learns of where its request went; complete as far as it is known now."""
        chosen, deployment = self._journey.candidate, self._deployment
        headers = {
            "x-faregate-host": deployment.host.host,
            "x-faregate-model": deployment.upstream_model,
            "x-faregate-quote": f"{decimal_text(chosen.expected)} {chosen.card.currency}",
        }
        edits: tuple[Edit | str, ...] = (*chosen.sanitised.edits, *self.edits)
        if edits:
            headers["x-faregate-edits"] = header(edits)
        if self.stretch is not None and self.stretch.budgets:
            headers["x-faregate-budget-left"] = left_text(self.stretch.budgets)
        return headers

    def usage(self, complete: bool) -> Usage:
        """What was used: reported by the host where it did, else counted."""
        usage = self.meter.usage()
        if usage.sources.cache_miss != "counted":
            return usage
        return replace(usage, cache_miss=self._count_prompt())

    def _count_prompt(self) -> int:
        """The estimate was good enough for a hold; a charge is worth the real tokenizer, or what earlier answers teach of an unknown
        one. Takes a while, once."""
        if self._counted is None:
            prompt = count_sent(self._journey.candidate.sanitised, self._deployment)
            if self._deployment.contract.tokenizer == "none":
                prompt = self._experience.prompt(self._deployment.name, prompt)
            self._counted = max(1, prompt)
        return self._counted

    def _prompt(self) -> tuple[int, int]:
        """Cached and other prompt tokens, as a charge would count them now."""
        return self.meter.prompt or (0, self._count_prompt())

    def take(self, answer: Answer, secrets: Sequence[str] = ()) -> Coroutine[Any, Any, None]:
        """Read an answer whose status is 200; raises UpstreamError. No error repeats `secrets`, the credentials that were sent for it."""
        self._secrets = secrets
        return self._take(answer)

    @abstractmethod
    async def _take(self, answer: Answer) -> None: ...

    @abstractmethod
    async def finish(self, row: LedgerRow) -> None:
        """The end of the answer, with the price; only called after the charge is durable."""
        ...

    def _priced(self, row: LedgerRow) -> dict[str, Any] | None:
        """The usage object that the client sees: the host's own fields, with our figures and cost."""
        if row.usage is None:
            return None
        return decorate_usage(self.meter.reported, row.usage, Money(row.nano, row.currency))

    async def _give(self, row: LedgerRow, data: bytes) -> None:
        """A whole answer: with its price in a header, unless blanks were sent before it."""
        if self._responder.started:
            await self._responder.send(data)
            await self._responder.end()
        else:
            await self._responder.whole(200, self._priced_headers(row), data)

    def _priced_headers(self, row: LedgerRow) -> dict[str, str]:
        headers = self.headers
        headers["x-faregate-cost"] = f"{decimal_text(row.nano)} {row.currency}"
        return headers


class StreamReply(Reply):
    """Chunks as they come; the finish chunk and all after it wait for the charge.

    While a host is heard to its end for its bill alone, the client gets a comment after each `silence` seconds.
    """

    def __init__(
        self,
        journey: Journey,
        responder: Responder,
        watch: Watch,
        experience: Experience,
        stretch: Stretch | None = None,
        silence: float = SILENCE,
    ) -> None:
        super().__init__(journey, responder, watch, experience, stretch)
        self._silence = silence
        self._heard = 0.0
        tokenizer = self._deployment.contract.tokenizer
        purse = stretch.purse(self.meter, tokenizer, journey.prompt_bound, self._prompt) if stretch else None
        self._more = stretch.more if stretch and purse else None
        self.shape = StreamShape(
            self._deployment,
            include_usage=journey.request.include_usage,
            stop=journey.candidate.sanitised.stop,
            meter=self.meter,
            choices=journey.request.answers,
            purse=purse,
        )

    @property
    def stopped(self) -> str | None:
        return self.shape.stopped

    @property
    def edits(self) -> tuple[str, ...]:
        return tuple(sorted(self.shape.edits))

    @property
    def said(self) -> Said | None:
        found = self.shape.said
        return None if found is None else Said(found[1], found[0], tuple(found[2]))

    async def _take(self, answer: Answer) -> None:
        if answer.content_type in NO_STREAM:
            raise await self._no_stream(answer)
        self.shape.secrets = self._secrets
        await pump(answer, self.shape, self._sink, self._watch, self._more)
        if self.shape.stopped == "limit" and self._journey.bills_on:
            # What we do not pass on is billed all the same.
            # A stream's client has heard something until now, that of a whole answer perhaps nothing yet.
            self._heard = self._heard or monotonic()
            await hear_out(answer, self.shape.unheard, self.meter, self._watch, self._tell)
        if self.shape.failure is not None:
            self.failure = self._failed(self.shape.failure)

    async def _sink(self, data: bytes) -> None:
        if not self._responder.started:
            await self._responder.start_stream(self.headers)
        await self._responder.send(data)

    async def _tell(self) -> None:
        """A comment, which every reader of events skips, once the client has heard nothing for `silence` seconds."""
        if self._silent():
            await self._sink(COMMENT)

    def _silent(self) -> bool:
        """Whether it is time for a word; then the time counts anew."""
        now = monotonic()
        if now - self._heard < self._silence:
            return False
        self._heard = now
        return True

    async def finish(self, row: LedgerRow) -> None:
        await self._sink(self.shape.tail(self._priced(row)))
        await self._responder.end()

    def _failed(self, failure: StreamFailure) -> FaregateError:
        error = HostError(failure.status, failure.code, failure.message)
        # Only an error that the host states before any text, and without usage, is certainly free.
        billed = failure.kind != "error_event" or self.meter.used
        if not billed:
            return stated(self._deployment.host.host, error)
        found = UpstreamError(f"{self._deployment.host.host}: {failure.message}", dispatched=True, billed=billed)
        found.refused = refused(failure.status, error)
        return found

    async def _no_stream(self, answer: Answer) -> FaregateError:
        """An answer that is no stream although one was asked for: an error in a 200, a whole answer, or a page of a proxy."""
        raw = await collect(answer, self._watch)
        json, fault = answer.content_type == "application/json", None
        said = read_error(answer.status, raw, self._secrets).message if json else f"it sent {answer.content_type}"
        with suppress(ValueError):
            body = read_json(raw)
            feed_anyway(self.meter, body)
            fault = fault_of(body, self._secrets) if json else None
        billed = self.meter.used
        if fault is not None and not billed:
            return stated(self._deployment.host.host, fault)
        return UpstreamError(f"{self._deployment.host.host} did not answer with a stream: {said}", dispatched=True, billed=billed)


class AssembledReply(StreamReply):
    """A whole answer of a host that was asked for a stream, so that a limit of ours or the end of a budget could end it.

    A client that has heard nothing for `silence` seconds, while the host writes, gets a blank line, so that nothing between us
    gives up. From then on a failure is an error in the JSON, and the price stands in the usage only.
    """

    def __init__(
        self,
        journey: Journey,
        responder: Responder,
        watch: Watch,
        experience: Experience,
        stretch: Stretch | None = None,
        silence: float = SILENCE,
    ) -> None:
        super().__init__(journey, responder, watch, experience, stretch, silence)
        self._assembler = Assembler()
        self._size = 0
        self._heard = monotonic()

    async def _sink(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > WHOLE_LIMIT:
            raise UpstreamError(f"The host's answer is larger than {WHOLE_LIMIT} bytes.", dispatched=True)
        self._assembler.feed_events(data)
        await self._tell()

    async def _tell(self) -> None:
        if self._silent():
            if not self._responder.started:
                await self._responder.start_whole(self.headers)
            await self._responder.send(b"\n")

    async def finish(self, row: LedgerRow) -> None:
        self._assembler.feed_events(self.shape.tail(None))
        await self._give(row, write_json(self._assembler.answer(self._priced(row))))


class WholeReply(Reply):
    """One JSON body, passed on with the price in its usage; keep-alive blank lines before it too.

    The blanks are held, so that an error can have a status of its own and the answer its price in a header. Once the host has
    sent nothing else for `keep_alive_after` seconds, the client's own patience matters more: it gets them as they come.
    """

    def __init__(
        self,
        journey: Journey,
        responder: Responder,
        watch: Watch,
        experience: Experience,
        stretch: Stretch | None = None,
        keep_alive_after: float = KEEP_ALIVE_AFTER,
    ) -> None:
        super().__init__(journey, responder, watch, experience, stretch)
        self._keep_alive_after = keep_alive_after
        self._blank_since: float | None = None
        self._blank = b""
        self._body: dict[str, Any] = {}
        self._edits: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[str, ...]:
        return self._edits

    @property
    def said(self) -> Said | None:
        choices = self._body.get("choices")
        if type(choices) is not list or len(choices) != 1:
            return None
        # Normalised by now: it has a message, and its reasoning under this name.
        message: dict[str, Any] = choices[0]["message"]
        reasoning, content = message.get("reasoning_content"), message.get("content") or ""
        if not reasoning or not isinstance(reasoning, str) or not isinstance(content, str):
            return None
        if len(reasoning) + len(content) > SAID_LIMIT:
            return None
        calls = message.get("tool_calls")
        return Said(content, reasoning, tuple(objects(calls)) if calls else ())

    async def _take(self, answer: Answer) -> None:
        raw = await collect(answer, self._watch, blanks=self._keep_alive)
        text = raw.lstrip()
        self._blank += raw[: len(raw) - len(text)]
        try:
            body = read_json(text)
        except ValueError:
            # A page of a proxy is free; a broken answer is not.
            billed = bool(text) and answer.content_type != "text/html"
            raise UpstreamError(f"{self._deployment.host.host} sent no JSON.", dispatched=True, billed=billed) from None
        fault = fault_of(body, self._secrets)
        if fault is not None:
            self.failure = self._failed(fault, body)
            return
        self._body = body
        if edits := normalise_answer(body, self._deployment):
            self._edits = tuple([edit.name for edit in edits])
        # After the inline reasoning was split off: its share of the text decides its share of the tokens.
        self.meter.feed_answer(body)

    async def _keep_alive(self, blank: bytes) -> None:
        now = monotonic()
        if self._blank_since is None:
            self._blank_since = now
        self._blank += blank
        if now - self._blank_since >= self._keep_alive_after:
            if not self._responder.started:
                await self._responder.start_whole(self.headers)
            await self._responder.send(self._blank)
            self._blank = b""

    def _failed(self, fault: HostError, body: Any) -> FaregateError:
        """A failure inside a 200: free only where the host reports no usage and the body holds no answer."""
        feed_anyway(self.meter, body)
        if not self.meter.used:
            return stated(self._deployment.host.host, fault)
        return UpstreamError(f"{self._deployment.host.host}: {fault.message}", dispatched=True)

    def usage(self, complete: bool) -> Usage:
        """As reported; of an answer that broke or was given up, what its host has probably produced by then."""
        found = super().usage(complete)
        if complete or found.sources.output == "reported":
            return found
        produced = self._experience.unseen_output(self._deployment.name, int(self._watch.elapsed * 1000))
        most = self._journey.candidate.sanitised.max_output * self._journey.request.answers
        return replace(found, output=max(found.output, min(produced, most)), sources=replace(found.sources, output="unknown"))

    async def finish(self, row: LedgerRow) -> None:
        self._body["usage"] = self._priced(row)
        await self._give(row, self._blank + write_json(self._body))


def feed_anyway(meter: Meter, body: Any) -> None:
    """Let the meter see a failed answer that says what it used or holds text: that much the host has done."""
    if isinstance(body, dict) and (isinstance(body.get("usage"), dict) or isinstance(body.get("choices"), list)):
        meter.feed_answer(body, failed=True)


def states_use(meter: Meter, raw: bytes) -> bool:
    """Whether a refusal says that it used something, or holds text, all the same; the meter then knows how much."""
    with suppress(ValueError):
        feed_anyway(meter, read_json(raw))
    return meter.used
