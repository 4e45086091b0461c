"""Spending: the lines of a report, grouped by any of the names, by class and by time; exact to the nano. Currencies never add.

Kinds: "charge" is what requests were charged, "correction" what was corrected later, "archived" the sum of a month whose requests
are no longer in the ledger. Each is a line of its own; together they are the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol, get_args
from zoneinfo import ZoneInfo

from gateway.money import MILLION, Rates
from gateway.outcome import Correction
from gateway.policies import Policies
from gateway.prices import STANDARD
from gateway.reports.periods import Period, PeriodError, Slice, month
from gateway.reports.tallies import Name, Question, Sums

By = Literal["day", "hour", "team", "key", "route", "host", "model", "card", "window", "class"]
Kind = Literal["charge", "correction", "archived"]
BY: Final[tuple[By, ...]] = get_args(By)
TIMES: Final = ("day", "hour")
CLASSES: Final = ("cache_hit", "cache_miss", "output")
# Nobody knows the tokens of what was charged by estimate when a lease ran out.
UNKNOWN: Final = "unknown"
BASELINE: Final = "o1"
BASELINE_CURRENCY: Final = "USD"
_UTC: Final = ZoneInfo("UTC")
_DAY: Final = len("2026-11-20")
# What every question asks for beside the names: what the prices were, and what is sure.
_BESIDE: Final[tuple[Name, ...]] = ("card", "window", "estimated")


class Archived(Protocol):
    """A month (of UTC) of a team of which the ledger has only the sum."""

    @property
    def month(self) -> str: ...
    @property
    def team(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def nano(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def estimated(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Tariffs:
    """The prices that a report compares with: those of a card's window, and those of the baseline at an instant."""

    bands: Mapping[tuple[str, str], Rates]
    policies: Policies

    def rates(self, card: str, window: str) -> Rates | None:
        return self.bands.get((card, window))

    def baseline(self, at: datetime) -> Rates | None:
        card = self.policies.prices.baseline(at, BASELINE, BASELINE_CURRENCY)
        return card.band(at).rates if card else None


def tariffs(policies: Policies) -> Tariffs:
    """Every band of every card of the policies."""
    bands: dict[tuple[str, str], Rates] = {}
    for card in policies.prices.cards():
        bands[card.name, STANDARD] = card.rates
        bands |= {(card.name, window.band.window): window.band.rates for window in card.windows}
    return Tariffs(bands, policies)


@dataclass(slots=True)
class Group:
    """The sums of one line. Amounts are nano; `saved` and `baseline` are nano times a million, so that nothing is rounded on the way.

    `seen` are the prompt tokens of which the host says what was cached, `seen_hit` those of them that were. By class, nobody counts
    requests: each is in several.
    """

    nano: int = 0
    estimated: int = 0
    requests: int = 0
    cache_hit: int = 0
    cache_miss: int = 0
    output: int = 0
    reasoning: int = 0
    seen: int = 0
    seen_hit: int = 0
    saved: int = 0
    baseline: int = 0

    def add(self, other: Group) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def saved_nano(self) -> int:
        """What cache hits saved against the price of a miss, rounded down."""
        return self.saved // MILLION

    @property
    def baseline_nano(self) -> int:
        """What the tokens would have cost at the baseline, rounded up."""
        return -(-self.baseline // MILLION)


class Line(NamedTuple):
    """One line of a report: its names in the order asked for, its kind, its currency, its sums."""

    names: tuple[str, ...]
    kind: Kind
    currency: str
    group: Group


@dataclass(frozen=True, slots=True)
class Spending:
    """Gathers a report. Ask a ledger its `question`, hand it `take`; then its corrections and archived months; then read `lines`."""

    by: tuple[By, ...]
    period: Period
    only: Mapping[str, str]
    tariffs: Tariffs
    notes: list[str] = field(default_factory=list)
    _groups: dict[tuple[tuple[str, ...], Kind, str], Group] = field(default_factory=dict)
    # When each day or hour began: its text alone does not sort, where an hour comes twice.
    _began: dict[str, datetime] = field(default_factory=dict)

    @property
    def question(self) -> Question:
        return Question(self.period, (*self._asked, *_BESIDE), self.only)

    @property
    def _asked(self) -> tuple[Name, ...]:
        return tuple(name for name in self.by if name not in (*TIMES, "class"))  # type: ignore[misc]

    def take(self, slice: Slice, names: Sequence[str], currency: str, sums: Sums) -> None:
        known: dict[str, str] = dict(zip(self._asked, names, strict=False))
        card, window, estimated = names[-3:]
        parts = self._parts(slice, card, window, sums)
        for cls, group in parts.items() if "class" in self.by else [("", _whole(parts.values(), sums.requests))]:
            group.estimated = group.nano if estimated == "true" else 0
            self._add(self._names(slice, {**known, "class": cls}), "charge", currency, group)

    def _parts(self, slice: Slice, card: str, window: str, sums: Sums) -> dict[str, Group]:
        """The classes of some requests, each with its tokens, its cost and what its tokens cost elsewhere."""
        rates, base = self.tariffs.rates(card, window), self.tariffs.baseline(slice.start)
        miss, output = (base.cache_miss, base.output) if base else (0, 0)
        cheaper = max(0, rates.cache_miss - rates.cache_hit) if rates else 0
        parts = {
            "cache_hit": Group(
                sums.cache_hit_nano, cache_hit=sums.cache_hit, saved=sums.cache_hit * cheaper, baseline=sums.cache_hit * miss
            ),
            "cache_miss": Group(sums.cache_miss_nano, cache_miss=sums.cache_miss, baseline=sums.cache_miss * miss),
            "output": Group(sums.output_nano, output=sums.output, reasoning=sums.reasoning, baseline=sums.output * output),
        }
        parts["cache_hit"].seen, parts["cache_hit"].seen_hit = sums.seen, sums.seen_hit
        if sums.unsplit:
            parts[UNKNOWN] = Group(sums.unsplit)
        return parts

    def correct(self, corrections: Iterable[Correction]) -> None:
        """Add those that are wanted: in the order of time, and of this period."""
        for one in corrections:
            known = {"team": one.team, "key": one.key, "route": one.route, "host": one.host, "model": one.model}
            if all(known[name] == wanted for name, wanted in self.only.items()):
                names = self._names(self.period.hour_of(one.at), {**known, "class": one.cls})
                self._add(names, "correction", one.currency, Group(one.nano))

    def archive(self, months: Iterable[Archived]) -> None:
        """Add the months that lie in the period as a whole; of others, and where only some hosts or keys are wanted, say so."""
        for one in months:
            whole = month(one.month, _UTC)
            inside = self.period.start <= whole.start and whole.end <= self.period.end
            if inside and set(self.only) <= {"team"}:
                names = self._names(None, {"team": one.team})
                self._add(names, "archived", one.currency, Group(one.nano, one.estimated, one.requests))
            else:
                note = f"requests of {one.month} (UTC) are archived: what of them belongs here is not counted"
                self.notes.extend([] if note in self.notes else [note])

    def _names(self, slice: Slice | None, known: Mapping[str, str]) -> tuple[str, ...]:
        times = {} if slice is None else {"day": slice.day, "hour": slice.hour}
        if slice is not None:
            for name in TIMES:
                self._began.setdefault(times[name], slice.start)
        return tuple([times.get(name, "") if name in TIMES else known.get(name, "") for name in self.by])

    def _add(self, names: tuple[str, ...], kind: Kind, currency: str, group: Group) -> None:
        if "class" in self.by and not (group.nano or group.cache_hit or group.cache_miss or group.output):
            return
        key = names, kind, currency
        if key in self._groups:
            self._groups[key].add(group)
        else:
            self._groups[key] = group

    def lines(self) -> list[Line]:
        """Every line, by its names in the order asked for; times in the order of time."""
        return [Line(*key, self._groups[key]) for key in sorted(self._groups, key=self._order)]

    def _order(self, key: tuple[tuple[str, ...], Kind, str]) -> tuple[object, ...]:
        names, kind, currency = key
        began = [self._began.get(text, self.period.start) if by in TIMES else text for by, text in zip(self.by, names, strict=True)]
        return (*began, currency, ("charge", "correction", "archived").index(kind))

    def places(self, name: By) -> list[str]:
        """Every day or hour from the first to the last that a line has, also those without any."""
        had = sorted(began for text, began in self._began.items() if (len(text) > _DAY) == (name == "hour"))
        found = dict.fromkeys(getattr(one, name) for one in self.period.slices(had[0], had[-1])) if had else {}
        return list(found)

    def totals(self) -> list[Line]:
        """One line for each kind and currency."""
        found: dict[tuple[str, Kind], Group] = {}
        for (_names, kind, currency), group in self._groups.items():
            found.setdefault((currency, kind), Group()).add(group)
        return [Line((), kind, currency, group) for (currency, kind), group in sorted(found.items())]


def _whole(parts: Iterable[Group], requests: int) -> Group:
    whole = Group(requests=requests)
    for part in parts:
        whole.add(part)
    return whole


def by_of(text: str) -> tuple[By, ...]:
    """The names of a list such as team,day; raises PeriodError where one is unknown or stands twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in BY]
    if unknown or not names:
        raise PeriodError(f"cannot group by {unknown[0] if unknown else text!r}: choose of {', '.join(BY)}.")
    if len(set(names)) < len(names):
        raise PeriodError(f"{text!r} names one thing twice.")
    return tuple(one for name in names for one in BY if one == name)
