"""Bills: the lines of a host's own account of what it billed, whatever file it came from. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeVar

Kind = Literal["deepseek", "openrouter"]
Class = Literal["cache_hit", "cache_miss", "output", ""]
CLASSES: Final[tuple[Class, ...]] = ("cache_hit", "cache_miss", "output", "")
# By how much clocks change at most.
_CLOCKS: Final = timedelta(hours=1)
# Nano-units of the currency for a million tokens; None where a host states an amount and no price.
Rate = int | None


class ExportError(ValueError):
    """A file that is no export, or a wrong cell in one: one line with the file, the line and the column."""


class Span(NamedTuple):
    """One of the host's days, [start, end), as the file says it."""

    start: datetime
    end: datetime
    name: str
    """The date that the host calls it."""

    def holds(self, at: datetime) -> bool:
        return self.start <= at < self.end


class BillKey(NamedTuple):
    """A key as the host shows it: the name that its owner gave it, and the masked key. Both empty where a file does not tell keys apart."""

    name: str
    masked: str

    def __str__(self) -> str:
        return self.name or self.masked or "the account"


class BillLine(NamedTuple):
    """Tokens of one class at one price, of one model, key and day; `nano` is what they cost. `tokens` is None where nobody says."""

    span: Span
    account: str
    model: str
    key: BillKey
    cls: Class
    rate: Rate
    tokens: int | None
    nano: int


class BillCount(NamedTuple):
    """How many requests of one model and key were billed in a day; `cancelled` is how many of them were broken off."""

    span: Span
    account: str
    model: str
    key: BillKey
    requests: int
    cancelled: int = 0


class BillTotal(NamedTuple):
    """What one model cost in a day, all keys together; `step` is the smallest amount that the figure could tell."""

    span: Span
    account: str
    model: str
    currency: str
    nano: int
    step: int


# What has a model.
T = TypeVar("T", BillLine, BillCount, BillTotal)


class Bill(NamedTuple):
    """Everything that files of one host say."""

    kind: Kind
    lines: tuple[BillLine, ...] = ()
    counts: tuple[BillCount, ...] = ()
    totals: tuple[BillTotal, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Its days in order of time."""
        found = {each.span for part in (self.lines, self.counts, self.totals) for each in part}
        return tuple(sorted(found))

    @property
    def keys(self) -> tuple[BillKey, ...]:
        return tuple(sorted({line.key for line in self.lines} | {count.key for count in self.counts}))

    @property
    def currencies(self) -> tuple[str, ...]:
        return tuple(sorted({total.currency for total in self.totals}))

    @property
    def accounts(self) -> tuple[str, ...]:
        found = {each.account for part in (self.lines, self.counts, self.totals) for each in part}
        return tuple(sorted(found))

    def within(self, start: datetime | None, end: datetime | None) -> Bill:
        """What lies in days that are wholly in [start, end)."""

        def inside(span: Span) -> bool:
            return (start is None or span.start >= start) and (end is None or span.end <= end)

        return Bill(
            self.kind,
            tuple(line for line in self.lines if inside(line.span)),
            tuple(count for count in self.counts if inside(count.span)),
            tuple(total for total in self.totals if inside(total.span)),
        )

    def called(self, names: dict[str, str]) -> Bill:
        """The same with models under the names that the ledger has for them."""

        def ours(each: T) -> T:
            return each._replace(model=names[each.model]) if each.model in names else each

        return Bill(self.kind, tuple(map(ours, self.lines)), tuple(map(ours, self.counts)), tuple(map(ours, self.totals)))


def joined(bills: Iterable[Bill]) -> Bill:
    """Several files as one bill; ExportError where they are of different hosts, or say the same twice."""
    found = list(bills)
    if len({bill.kind for bill in found}) > 1:
        raise ExportError("the files are exports of different hosts. Reconcile one host at a time.")
    if len(found) > 1:
        _check_twice(found)
    whole = Bill(
        found[0].kind,
        tuple(line for bill in found for line in bill.lines),
        tuple(count for bill in found for count in bill.counts),
        tuple(total for bill in found for total in bill.totals),
    )
    _check_overlaps(whole.spans)
    return whole


def _check_twice(bills: list[Bill]) -> None:
    seen: set[tuple[object, ...]] = set()
    for bill in bills:
        places: list[tuple[object, ...]] = [line[:6] for line in bill.lines]
        places += [("count", *count[:4]) for count in bill.counts] + [("total", *total[:4]) for total in bill.totals]
        if twice := seen.intersection(places):
            span = next(each for place in twice for each in place if isinstance(each, Span))
            raise ExportError(f"two of the files have the same lines of {span.name}. Name every export once.")
        seen.update(places)


def _check_overlaps(spans: tuple[Span, ...]) -> None:
    for one, other in pairwise(spans):
        if other.start < one.end:
            raise ExportError(
                f"the days {one.name} ({_offset(one)}) and {other.name} ({_offset(other)}) overlap, so something would count twice. "
                "Export everything from one place, in one time zone."
            )


def _offset(span: Span) -> str:
    return f"{span.start:%Y-%m-%dT%H:%M}Z to {span.end:%Y-%m-%dT%H:%M}Z"


def filled(spans: tuple[Span, ...], start: datetime | None = None, end: datetime | None = None) -> tuple[Span, ...]:
    """The days of a bill with those between them, and up to `start` and `end`, of which the bill says nothing."""
    if not spans:
        return ()
    day = timedelta(days=1)
    whole: list[Span] = []
    first = spans[0]
    while start is not None and first.start - day >= start:
        first = _moved(first, -day)
        whole.insert(0, first)
    for span in spans:
        while whole and whole[-1].end < span.start:
            whole.append(_between(whole[-1], span))
        whole.append(span)
    while end is not None and whole[-1].end + day <= end:
        whole.append(_moved(whole[-1], day))
    return tuple(whole)


def _moved(span: Span, by: timedelta) -> Span:
    start = span.end if by > timedelta() else span.start + by
    return Span(start, start + timedelta(days=1), _dated(span, start))


def _between(before: Span, after: Span) -> Span:
    end = before.end + timedelta(days=1)
    if after.start - end <= _CLOCKS:
        # The last of them, also where it has 25 hours.
        end = after.start
    return Span(before.end, end, _dated(before, before.end))


def _dated(span: Span, start: datetime) -> str:
    """The date of another day in the same zone as this one."""
    shift = datetime.fromisoformat(f"{span.name}T00:00:00+00:00") - span.start
    return (start + shift).date().isoformat()
