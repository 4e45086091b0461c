"""Meter: what one answer used. The host's report where it makes sense, else our own count; each number says which it is.

Report shapes read: DeepSeek, OpenAI, OpenRouter, llama.cpp (timings), SGLang (reasoning at the top), and any path that a host's row names.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from msgspec import Raw, Struct

from gateway.dialects import dig, good_finish, objects, read_json
from gateway.hosts import Deployment
from gateway.reasoning import text_of
from gateway.tokens import TextCounter, estimate
from gateway.usage import Source, Sources, Usage

# Text is kept for counting up to this many characters, twice what the longest answer of this family can be.
KEPT = 4 << 20
# A host's cost has fewer digits than this on either side of its point.
LONGEST = 40
CACHED = (("prompt_cache_hit_tokens",), ("prompt_tokens_details", "cached_tokens"), ("timings", "cache_n"))
REASONING = (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))


class Tally:
    """Text of one kind, kept in bounded memory, and tokenised only when somebody asks."""

    def __init__(self, counter: TextCounter) -> None:
        self._counter = counter
        self._pieces: list[str] = []
        self._fed = 0
        self._asides: set[int] = set()
        self._estimated = 0
        self.length = 0
        """Characters so far."""
        self.chunks = 0

    def add(self, text: str) -> None:
        """One chunk's text, not empty. Adding never tokenises; beyond what any model writes, text is estimated and let go."""
        self.chunks += 1
        self.length += len(text)
        if self.length <= KEPT:
            self._pieces.append(text)
        else:
            self._estimated += estimate(text)

    def add_calls(self, text: str, beside: bool) -> None:
        """The same for what a chunk writes of calls, which is no part of `text`; `beside`: the chunk has text too."""
        self._asides.add(len(self._pieces))
        self.add(text)
        self.chunks -= beside

    @property
    def text(self) -> str | None:
        """All text so far but that of calls; None where it was more than is kept."""
        if self.length > KEPT:
            return None
        return "".join([piece for at, piece in enumerate(self._pieces) if at not in self._asides] if self._asides else self._pieces)

    @property
    def tokens(self) -> int:
        """Tokens so far; a host sends at least one in each chunk that has text."""
        self._counter.feed("".join(self._pieces[self._fed :]))
        self._fed = len(self._pieces)
        return max(self._counter.count + self._estimated, self.chunks)


class Report(Struct, frozen=True):
    """A host's own figures, checked. `hit` and `reasoning` are None where it does not say."""

    prompt: int
    hit: int | None
    output: int
    reasoning: int | None
    disputed: bool = False


class _Absurd(ValueError):
    """A figure that cannot be: negative, no whole number, more than twice the context, or at odds with another."""


_UNREAD = _Absurd("not read yet")
_ALL_REPORTED = Sources()


class Meter:
    """Counts one answer. Feed it every text and every report; ask `usage` once at the end.

    `prompt_estimate`: tokens of the prompt, for answers that never report it. `choices`: the request's n.
    """

    def __init__(self, deployment: Deployment, prompt_estimate: int, choices: int = 1) -> None:
        self._deployment = deployment
        self._prompt_estimate = prompt_estimate
        self._choices = choices
        self._body: dict[str, Any] = {}
        self._raw: tuple[Raw, Raw] | None = None
        self._final = False
        self._failed = False
        self._unread: list[dict[str, Any]] = []
        self._report: Report | _Absurd | None = _UNREAD
        self._answer: Tally | None = None
        self._reasoning: Tally | None = None
        self.finish: str | None = None
        """The first finish reason of the host, in the client's words."""

    @property
    def answer(self) -> Tally:
        """The text of the answer; like `reasoning`, made when it is first asked for: the text of most whole answers never is."""
        if self._answer is None:
            self._answer = Tally(TextCounter(self._deployment.contract.tokenizer))
        return self._answer

    @property
    def reasoning(self) -> Tally:
        if self._reasoning is None:
            self._reasoning = Tally(TextCounter(self._deployment.contract.tokenizer))
        return self._reasoning

    @property
    def produced(self) -> bool:
        """Whether the host has produced any text."""
        if self._unread:
            self._absorb()
        return bool(self.answer.chunks or self.reasoning.chunks)

    @property
    def used(self) -> bool:
        """Whether the host has worked: it has produced text, or states a count or a cost that is not zero."""
        return self.produced or _states_use(self.reported)

    def report(self, usage: Raw, timings: Raw, *, final: bool, failed: bool = False) -> None:
        """Usage as it came in a chunk. The last one counts, reports are never summed; `final`: the host has ended every choice.

        `failed`: it came with an error. Zeros never take back what was reported at the end of the answer.
        """
        if bytes(usage).strip() == b"{}" or (self._final and not _states_use(_read_or_none(usage))):
            return
        self._raw = (usage, timings)
        self._report = _UNREAD
        self._final, self._failed = final, failed

    def feed_answer(self, body: dict[str, Any], *, failed: bool = False) -> None:
        """A whole answer, as read_json gives it; `failed`: it is none, but an error that holds something of one."""
        self._body = {"usage": body.get("usage"), "timings": body.get("timings")}
        self._raw = None
        self._report = _UNREAD
        self._unread = objects(body.get("choices"))
        self._final, self._failed = True, failed
        for choice in self._unread:
            self.finish = self.finish or good_finish(choice.get("finish_reason"))

    def _absorb(self) -> None:
        """Take up the text of a whole answer; only where it is counted, for most answers report their usage."""
        choices, self._unread = self._unread, []
        for choice in choices:
            message = choice.get("message")
            message = message if isinstance(message, dict) else {}
            _add(self.reasoning, text_of(message))
            _add(self.answer, message.get("content"))
            _add(self.answer, _call_text(message))

    @property
    def reported(self) -> dict[str, Any]:
        """The host's last usage object, decimals exact; empty where it sent none."""
        usage = self._answer_object().get("usage")
        return usage if isinstance(usage, dict) else {}

    @property
    def host_cost(self) -> str | None:
        """The host's own cost, in its currency, as the decimal text of its bytes; None where it states none at its answer's end."""
        path = self._deployment.host.writes.cost
        if path is None or not self._final or self._hollow:
            return None
        value = dig(self._answer_object(), path.split("."))
        if isinstance(value, Decimal):
            # A written-out number of a million digits would be an attack; receipts judge the amount.
            return format(value, "f") if value.is_finite() and -LONGEST < value.adjusted() < LONGEST else str(value)
        return str(value) if type(value) is int else value if isinstance(value, str) else None

    @property
    def disputed(self) -> bool:
        """Whether the host reported figures that cannot be, or that contradict each other or its own answer."""
        report = self._read()
        return report is not None and (isinstance(report, _Absurd) or report.disputed or self._hollow)

    @property
    def _hollow(self) -> bool:
        """Whether a host that failed after it had written reports nothing of it: that is its initial value, and no bill."""
        if not (self._failed and self.produced):
            return False
        report = self._read()
        return isinstance(report, Report) and not (report.prompt and report.output)

    def billed(self) -> Usage | None:
        """What the host reported as its bill; None where it did not, or where its figures cannot be.

        Only a report that came with the finish or after it is the bill: one in between says how far the host was then.
        """
        report = self._read()
        return self._as_reported(report) if isinstance(report, Report) and self._final and not self._hollow else None

    def usage(self) -> Usage:
        """What was used: as billed, else as counted here, which takes a while for a long answer."""
        billed = self.billed()
        if billed is not None:
            return billed
        report = self._read()
        return self._counted(report if isinstance(report, Report) else None)

    # ---- the host's figures

    def _answer_object(self) -> dict[str, Any]:
        if self._raw is not None:
            usage, timings = self._raw
            self._body = {"usage": _read_or_none(usage), "timings": _read_or_none(timings)}
            self._raw = None
        return self._body

    def _read(self) -> Report | _Absurd | None:
        """The host's figures, or why they cannot be; None where it sent none."""
        if self._report is _UNREAD:
            try:
                self._report = self._figures()
            except _Absurd as absurd:
                self._report = absurd
        return self._report

    def _figures(self) -> Report | None:
        body = self._answer_object()
        usage = body.get("usage")
        if usage is None or usage == {}:
            return None
        if not isinstance(usage, dict):
            raise _Absurd("usage is not an object")
        deployment = self._deployment
        prompt_ceiling = 2 * deployment.context
        output_ceiling = prompt_ceiling * self._choices
        hit = _first(body, deployment.cached_at, output_ceiling)
        hit = _first(body, CACHED, output_ceiling) if hit is None else hit
        miss = _whole(usage.get("prompt_cache_miss_tokens"), prompt_ceiling)
        prompt = _whole(usage.get("prompt_tokens"), prompt_ceiling)
        if prompt is None and hit is not None and miss is not None:
            prompt = hit + miss
        output = _whole(usage.get("completion_tokens"), output_ceiling)
        if prompt is None or output is None or (hit or 0) > prompt:
            raise _Absurd("usage lacks a count, or has more cached tokens than prompt tokens")
        reasoning = _first(body, REASONING, output_ceiling)
        # DeepInfra counts reasoning beside the answer: the output is both.
        output += reasoning if reasoning is not None and reasoning > output else 0
        return Report(prompt, hit, output, reasoning, disputed=None not in (hit, miss) and (hit or 0) + (miss or 0) != prompt)

    def _as_reported(self, report: Report) -> Usage:
        hit, reasoning = report.hit, report.reasoning
        if hit is not None and reasoning is not None:
            return Usage(hit, report.prompt - hit, report.output, reasoning, _ALL_REPORTED)
        hit_source: Source = "unknown" if hit is None else "reported"
        source: Source = "counted" if reasoning is None else "reported"
        reasoning = self._share(report.output) if reasoning is None else reasoning
        return Usage(hit or 0, report.prompt - (hit or 0), report.output, reasoning, Sources(hit_source, reasoning=source))

    def _share(self, output: int) -> int:
        """Reasoning's part of a reported output, by its share of the text."""
        self._absorb()
        total = self.reasoning.length + self.answer.length
        return output * self.reasoning.length // total if total else 0

    # ---- our own count

    def _counted(self, interim: Report | None) -> Usage:
        """Our count; a report that came before the end still says how long the prompt was."""
        output, reasoning = self.output, self.reasoning.tokens
        if interim is None or interim.prompt == 0:
            return Usage(0, max(1, self._prompt_estimate), output, reasoning, Sources("unknown", "counted", "counted", "counted"))
        hit = interim.hit or 0
        hit_source: Source = "unknown" if interim.hit is None else "reported"
        return Usage(hit, interim.prompt - hit, output, reasoning, Sources(hit_source, "reported", "counted", "counted"))

    @property
    def prompt(self) -> tuple[int, int] | None:
        """Cached and other prompt tokens of the host's last report, final or not; None where it has reported none."""
        report = self._read()
        if not isinstance(report, Report) or not report.prompt:
            return None
        return report.hit or 0, report.prompt - (report.hit or 0)

    @property
    def output(self) -> int:
        """Output tokens so far, as a charge would count them if the answer ended now; tokenises what is new."""
        self._absorb()
        report = self._read()
        counted = self.reasoning.tokens + self._closing + self.answer.tokens
        return max(counted, report.output) if isinstance(report, Report) and report.prompt else counted

    @property
    def _closing(self) -> int:
        """The token that ends the thinking: hosts bill it with the output and not with the reasoning, and no text shows it."""
        ended = bool(self.answer.chunks) or self.finish not in (None, "length")
        return 1 if self.reasoning.chunks and ended else 0


def _first(body: dict[str, Any], paths: Iterable[tuple[str, ...]], ceiling: int) -> int | None:
    """The first count that is there; a path starts at the answer or at its usage."""
    usage = body["usage"]
    for path in paths:
        value = dig(usage, path)
        if value is None:
            value = dig(body, path)
        if value is not None:
            return _whole(value, ceiling)
    return None


def _whole(value: Any, ceiling: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= ceiling:
        raise _Absurd(f"not a count between 0 and {ceiling}")
    return value


def _read_or_none(raw: Raw) -> Any:
    try:
        return read_json(raw) if raw else None
    except ValueError:
        # It passed as bytes, and is nested too deeply for where it is read: a text in its place is no usage, so it is disputed.
        return ""


def _states_use(usage: Any) -> bool:
    """Whether any figure of a usage object is not zero."""
    return isinstance(usage, dict) and any(type(figure) in (int, Decimal) and figure > 0 for figure in usage.values())


def _add(tally: Tally, text: Any) -> None:
    if isinstance(text, str) and text:
        tally.add(text)


def _call_text(message: dict[str, Any]) -> str:
    calls = [*(call.get("function") for call in objects(message.get("tool_calls"))), message.get("function_call")]
    return "".join(str(call.get("name") or "") + str(call.get("arguments") or "") for call in calls if isinstance(call, dict))
