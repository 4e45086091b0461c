"""The request log: one line a request, with ids, tokens and money, and nothing that a client or a host wrote.

Every text in a line is a name of the policies, of a key or of our own lists: what a caller chose freely is `other`. Lines are
encoded when a request ends, and written in batches by a thread of their own: a reader that is slow loses lines, which are
counted, and never holds up a request. docs/logs.md describes every field.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from threading import Thread
from typing import Final, Literal

import msgspec
from msgspec import Struct

from gateway.logs import lines_record
from gateway.metrics import KNOWN_FIELDS, OTHER
from gateway.money import NANO, decimal_text
from gateway.outcome import Attempt, LedgerRow, Outcome
from gateway.ports import Observer
from gateway.usage import Usage

Form = Literal["json", "text"]
# Seconds for which lines are gathered before they are written.
GATHER: Final = 0.25
# Lines that may wait for a reader; then new ones are dropped.
MOST: Final = 20_000
# Seconds that the last lines get at the end.
FAREWELL: Final = 2.0
# Characters of one edit: a number or two names of the policies in it are shorter.
EDIT: Final = 120
# More edits than there are kinds of them say nothing more.
EDITS: Final = 40

log = logging.getLogger(__name__)


class Tokens(Struct, frozen=True):
    """Tokens by class; `source` is `reported` by the host, or `counted` by us."""

    cache_hit: int
    cache_miss: int
    output: int
    reasoning: int
    source: str


class Tried(Struct, frozen=True):
    """One dispatch, where there were several; `cost` is what it was charged."""

    host: str
    model: str
    outcome: str
    billed: str
    cost: str


class Line(Struct, frozen=True, omit_defaults=True):
    """One request. Times are seconds; amounts are decimal strings of `currency`. What does not apply is left out."""

    time: datetime
    level: str
    logger: str
    message: str
    id: str
    team: str
    key: str
    route: str
    status: str
    duration: float
    overhead: float
    stream: bool
    error: str = ""
    host: str = ""
    model: str = ""
    contract: str = ""
    first_token: float | None = None
    tokens: Tokens | None = None
    currency: str = ""
    cost: str = ""
    quote: str = ""
    host_cost: str = ""
    disputed: bool = False
    card: str = ""
    window: str = ""
    policies: str = ""
    stopped: str = ""
    turn: int = 0
    attempts: int = 0
    tried: tuple[Tried, ...] = ()
    edits: tuple[str, ...] = ()
    started: datetime | None = None


def line_of(outcome: Outcome, at: datetime) -> Line:
    """What the log says of a request that ended at `at`, by the machine's clock."""
    row = outcome.row
    if row is None:
        return Line(
            at, "info", __name__, "request", outcome.id, outcome.team, outcome.key, outcome.route, outcome.status,
            _micros(outcome.duration), _micros(outcome.overhead), outcome.stream, outcome.error or "", outcome.host, outcome.model,
        )  # fmt: skip
    first, host_nano, used = outcome.first_token, row.host_nano, row.usage
    return Line(
        at, "info", __name__, "request", row.id, row.team, row.key, row.route, row.status,
        _micros(outcome.duration), _micros(outcome.overhead), row.stream, outcome.error or "", row.host, row.model, row.contract,
        None if first is None else _micros(first),
        None if used is None else Tokens(used.cache_hit, used.cache_miss, used.output, used.reasoning, _source(used)),
        row.currency,
        _amount(row.nano),
        _amount(row.expected_nano),
        "" if host_nano is None else _amount(host_nano),
        row.disputed, row.card, row.window, row.policies, row.stopped or "", 0 if row.plan is None else row.plan.turn,
        len(row.attempts), _tried(row), tuple(map(_edit, row.edits[:EDITS])) if row.edits else (), row.started,
    )  # fmt: skip


def _tried(row: LedgerRow) -> tuple[Tried, ...]:
    return tuple(map(_one, row.attempts)) if len(row.attempts) > 1 else ()


def _one(attempt: Attempt) -> Tried:
    return Tried(attempt.host, attempt.model, attempt.outcome, attempt.billed, _amount(attempt.nano))


def _micros(seconds: float) -> float:
    """Seconds, cut to the microsecond: `round` takes five times as long."""
    return int(seconds * 1e6) / 1e6


def _source(usage: Usage) -> str:
    return "reported" if usage.reported else "counted"


def _amount(nano: int) -> str:
    """As `decimal_text`, in a third of the time for what one request costs."""
    return f"0.{nano:09d}".rstrip("0") if 0 < nano < NANO else decimal_text(nano)


@lru_cache(maxsize=4096)
def _edit(edit: str) -> str:
    """An edit without a name that only its caller knows: `drop_my_secret=3` is `drop_other=3`."""
    name, equals, value = edit.partition("=")
    verb, _, field = name.partition("_")
    if verb in ("drop", "rename") and field not in KNOWN_FIELDS:
        name = f"{verb}_{OTHER}"
    return f"{name}{equals}{value}"[:EDIT]


def text_of(line: Line) -> str:
    """The same for a person's terminal, in a few words."""
    where = f"{line.host}/{line.model}" if line.host else "-"
    words = [f"{line.time:%Y-%m-%dT%H:%M:%S}.{line.time.microsecond // 1000:03d}Z info    {line.id} {line.team}/{line.key}"]
    words.append(f"{line.route} -> {where}: {line.status}{f' ({line.error})' if line.error else ''}")
    if line.cost:
        words.append(f"{line.cost} {line.currency}")
    if line.tokens is not None:
        words.append(f"{line.tokens.cache_hit}+{line.tokens.cache_miss}+{line.tokens.output} tokens")
    words.append(f"{line.duration:.3f} s")
    return " ".join(words)


class RequestLog:
    """An observer that writes a line for each request, and then tells `after`; nothing it does can fail or delay a request.

    `write` gets whole lines, in a thread of its own. `start` needs a running loop; before it, nothing is written.
    """

    def __init__(
        self, after: Observer, form: Form, write: Callable[[str], None] | None = None, *, most: int = MOST, gather: float = GATHER
    ) -> None:
        self._after = after
        self._most = most
        self._gather = gather
        self._encode = msgspec.json.Encoder().encode if form == "json" else _in_text
        self._write = write or _log
        self._lines: list[bytes] = []
        self._dropped = 0
        self._batches: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: asyncio.TimerHandle | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A daemon: a reader that hangs must not keep the process from ending.
        self._thread = Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what is left, for at most FAREWELL seconds."""
        thread, loop, self._loop = self._thread, self._loop, None
        if thread is None or loop is None:
            return
        if self._due is not None:
            self._due.cancel()
        if self._lines:
            self._batches.put(self._lines)
        self._batches.put(None)
        self._confess()
        await loop.run_in_executor(None, thread.join, FAREWELL)

    def observe(self, outcome: Outcome) -> None:
        self._after.observe(outcome)
        loop = self._loop
        if loop is None:
            return
        lines = self._lines
        if len(lines) >= self._most:
            self._dropped += 1
            return
        lines.append(self._encode(line_of(outcome, datetime.now(UTC))))
        if self._due is None:
            self._due = loop.call_later(self._gather, self._hand_over)

    def stream_opened(self) -> None:
        self._after.stream_opened()

    def stream_closed(self) -> None:
        self._after.stream_closed()

    def _hand_over(self) -> None:
        assert self._loop is not None, "the timer is cancelled at the end"
        self._due = None
        if not self._batches.empty():
            # The batch before this one still waits: the reader is slow.
            self._due = self._loop.call_later(self._gather, self._hand_over)
            return
        self._batches.put(self._lines)
        self._lines = []
        self._confess()

    def _confess(self) -> None:
        if self._dropped:
            log.warning("%d request lines were dropped: what reads this log is too slow for it", self._dropped)
            self._dropped = 0

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._write(_joined(batch))


def _joined(lines: Sequence[bytes]) -> str:
    return b"\n".join(lines).decode()


def _in_text(line: Line) -> bytes:
    return "".join(char for char in text_of(line) if char.isprintable()).encode()


def _log(lines: str) -> None:
    log.handle(lines_record(log.name, lines))
