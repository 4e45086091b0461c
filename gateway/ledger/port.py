"""What a ledger promises, whatever store keeps it; the states of a hold live here and nowhere else.

    (none) --hold--> held --settle--> settled
                      |  --release-> released     certainly nothing was billed
                      |  --expire--> expired      the lease ran out: charged by estimate, marked
    expired or released --settle, release--> late truth wins: an adjusting entry carries the difference

A pair (state, event) that is not in TRANSITIONS has no effect: the same settle twice is one charge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, Literal, NamedTuple, Protocol

from gateway.outcome import BudgetState, Correction, Grant, Hold, LedgerRow
from gateway.reports.tallies import Question, Take

State = Literal["held", "settled", "released", "expired"]
Event = Literal["settle", "release", "expire"]
EntryKind = Literal["settle", "expire", "adjust"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where an event leads, and the kind of the entry that it appends (None: no money moves)."""

    to: State
    entry: EntryKind | None


TRANSITIONS: Final[dict[tuple[State, Event], Step]] = {
    ("held", "settle"): Step("settled", "settle"),
    ("held", "release"): Step("released", None),
    ("held", "expire"): Step("expired", "expire"),
    ("expired", "settle"): Step("settled", "adjust"),
    ("expired", "release"): Step("released", "adjust"),
    ("released", "settle"): Step("settled", "adjust"),
}

SpendBy = Literal["day", "team", "key", "route", "host", "model"]


@dataclass(frozen=True, slots=True)
class Held:
    """What a hold has, or had, of one budget: nano-units of the budget's currency. `key` is "" where it is the whole team's."""

    team: str
    budget: str
    key: str
    period: str
    currency: str
    nano: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement of money: nano-units of the hold's currency, by the database's clock."""

    kind: EntryKind
    nano: int
    source: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Trail:
    """The hold of one request, how it ended, and what it was charged in the order of time."""

    state: State
    currency: str
    nano: int
    held: tuple[Held, ...]
    entries: tuple[Entry, ...]


# Where a page of rows ends: the instant at which its last row ended in microseconds, and what the store orders equal ones by.
Mark = tuple[int, int]


class Page(NamedTuple):
    """Rows in the order in which they ended; `mark` is what the next page comes after, None where there is no more."""

    rows: list[LedgerRow]
    mark: Mark | None


# What one unit of a currency (first) is in another at an instant, as `Conversions.rate` knows it; None where nobody does.
Rates = Callable[[str, str, datetime], Fraction | None]
# By the days of which zone a budget is counted, as `standings.zone_of` knows it; None where nobody does.
Zones = Callable[[BudgetState], str | None]


def no_zone(state: BudgetState) -> str | None:
    """The zones of who knows none."""
    return None


def same_currency(source: str, target: str, at: datetime) -> Fraction | None:
    """The rates of who has none."""
    return Fraction(1) if source == target else None


class HoldError(ValueError):
    """The operation contradicts the hold (id taken, id unknown, another currency). Nothing was written."""


class CorrectionError(HoldError):
    """A correction that cannot be kept, with the remedy; nothing of it was written."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What was archived of one month (UTC, "2025-09"), team and currency, and is in the ledger as this sum only.

    `requests`, `nano` and `estimated` as in Spend. Corrections are not in it: they stay in the ledger.
    """

    month: str
    team: str
    currency: str
    nano: int
    requests: int
    estimated: int


@dataclass(frozen=True, slots=True)
class Spend:
    """The charges of one group in one currency; `requests` counts those that were charged or released.

    `estimated` is the part of `nano` that no host has reported: what it really bills may be another figure.
    """

    group: str
    currency: str
    nano: int
    requests: int
    estimated: int = 0


class Store(Protocol):
    """One database of a ledger: what SQLite and PostgreSQL do each in their own way. `Steward` makes a Ledger of it.

    Every method may raise LedgerUnavailable: then it is not known whether it took effect, and trying again is safe: each has
    its effect once. A caller that leaves undoes nothing but a hold: it never is, or it ends released, or its lease runs out.
    `owner` names the process that renews a lease; leases (seconds) run by the database's clock.
    """

    async def start(self) -> None:
        """Open it, make or migrate its tables; LedgerUnavailable with the remedy when that cannot be."""
        ...

    async def close(self) -> None: ...

    async def hold(self, hold: Hold, owner: str, lease: float, *, forced: bool = False) -> Grant:
        """As Ledger.hold. The same open id from the same owner again is the answer that was lost, not an error.

        `forced`: the request was let through while the store was down. It gets what it asks; what a budget has no room for goes to
        its overrun, its Idempotency-Key is its own, and an id that is known, in whatever state, is left as it is.
        """
        ...

    async def extend(self, hold: Hold) -> Grant: ...

    async def finish(self, event: Event, row: LedgerRow) -> bool:
        """Apply one event by TRANSITIONS and keep the row: durable when it returns. False: no such step, no effect.

        A release of an open hold may be lost by a power cut: then the hold expires.
        """
        ...

    async def renew(self, ids: Collection[str], lease: float) -> int:
        """Give those of these holds that are open a new lease; the number of them."""
        ...

    async def reap(self) -> int:
        """Expire every hold whose lease is over, whoever made it; the number of them. Charged what was expected; a hold that was
        stretched is charged what it held."""
        ...

    async def request(self, id: str) -> LedgerRow | None: ...

    async def trail(self, id: str) -> Trail | None: ...

    async def requests(self, limit: int) -> list[LedgerRow]: ...

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page: ...

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]: ...

    async def tally(self, question: Question, take: Take) -> None: ...

    async def correct(self, corrections: Sequence[Correction], rates: Rates = same_currency, zones: Zones = no_zone) -> int: ...

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]: ...

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]: ...

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]: ...

    async def verify(self) -> list[str]: ...


class Ledger(Protocol):
    """Holds, charges and the questions about them. Every method that waits may raise LedgerUnavailable.

    A settle or release that raises it is not lost: the ledger keeps the row and tries again, to the same effect, once. It raises it
    only where neither the store nor this machine's spool can be written.
    """

    def ready(self) -> bool:
        """Whether new requests should come: the ledger is open, and nothing waits for its store (or requests may go on without it)."""
        ...

    def forget(self, id: str) -> None:
        """This request is no longer on its way: if it has not ended, its hold is renewed no longer, and expires."""
        ...

    async def hold(self, hold: Hold) -> Grant:
        """Committed, and safe from `kill -9`, when it returns: from every claimed budget or from none.

        Each budget grants by `gateway.budgets.granted`; the least of the grants holds. BudgetExceeded where one of them has no
        room; InFlight, AlreadyDone or IdempotencyMismatch where `idempotency` was used before and something was or may be
        billed. An id that was used before: HoldError.
        """
        ...

    async def extend(self, hold: Hold) -> Grant:
        """The hold takes the place of the present one of its id: a stretch of a stream, or the next attempt's deployment.

        Its claims are those of the first hold (the same budgets and periods). It grants as `hold` does, and never less than
        `least`: where a budget has no room for that, BudgetExceeded, and the present hold stays as it is. A budget that its
        claim lets `finish` always has room; what goes beyond its limit is added to its overrun. HoldError unless it is held.
        """
        ...

    async def settle(self, row: LedgerRow) -> bool:
        """Durable through power loss when it returns True. False: was settled before, no effect.

        A charge above the hold is recorded like any other: its tokens are gone. On an expired or released hold the
        difference is appended as an adjusting entry.
        """
        ...

    async def release(self, row: LedgerRow) -> None:
        """Certainly nothing was billed: the hold ends, and the row is kept with nano 0."""
        ...

    async def request(self, id: str) -> LedgerRow | None:
        """What became of one request; None while it runs, and for an id that never had a hold."""
        ...

    async def trail(self, id: str) -> Trail | None:
        """The hold of one request, which may be open, and its entries; None for an id that never had one."""
        ...

    async def requests(self, limit: int) -> list[LedgerRow]:
        """The newest requests first, by the instant they ended."""
        ...

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        """At most `limit` of the requests (of one team) that ended in [start, end), the oldest first: the first, or those after a mark."""
        ...

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        """Charges of requests (of one team) that ended in [start, end), summed by group and currency. Currencies never add.

        By host and model, what each attempt was billed is with its own; a request counts where its last attempt was. Corrections are
        not in it.
        """
        ...

    async def tally(self, question: Question, take: Take) -> None:
        """Tell `take` the sums of every group of every hour, in one snapshot of the ledger. It may be called in another thread.

        As `spend` does, by the instant at which a request ended, and each attempt with its own host. Corrections are not in it.
        """
        ...

    async def correct(self, corrections: Sequence[Correction], rates: Rates = same_currency, zones: Zones = no_zone) -> int:
        """Durable when it returns: how many of these were not in the ledger before; the same again has no effect.

        Each counts in the budgets of its team (and key) that have been claimed in the period of its `at`, at `rates` where the
        budget is in another currency; by `zones` a period has its true length where clocks change. What goes beyond a limit is added
        to the overrun; a budget gets back at most what it has spent. CorrectionError where an id is known with other contents, or a
        rate is missing: those before it are kept.
        """
        ...

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        """The corrections (of one team) whose money belongs to [start, end), the oldest first."""
        ...

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        """What was archived of the months (of one team) that touch [start, end), by month, team and currency.

        `spend`, `page` and `requests` know nothing of it any more: where this is not empty, they are not the whole truth.
        """
        ...

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        """Every budget that was claimed in a period which is not over at this instant, sorted by team, budget and key."""
        ...

    async def verify(self) -> list[str]:
        """The invariants that do not hold, one line each; [] when all is well."""
        ...

    async def close(self) -> None:
        """Everything submitted is committed, and the store let go."""
        ...
