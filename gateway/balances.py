"""Balances: what hosts say is left of our money, asked for now and then, off the path of requests.

A host whose row names a `balance` and whose key is known is asked every FAREGATE_BALANCE_POLL seconds. What its figure has moved by is
compared with what the ledger charged in the same time: a difference beyond what such figures can show is the balance gap, a first sign
of traffic that does not go through here, days before there is an export to reconcile. No error or log line has a key in it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from gateway.clock import Clock
from gateway.doctor.network import Trip, Trouble, travel
from gateway.errors import LedgerUnavailable, UpstreamError
from gateway.hosts import Balance, Host
from gateway.money import NANO, exact_nano
from gateway.upstream.accounts import Account

log = logging.getLogger(__name__)
WITHIN: Final = 10.0
# Seconds of spending that a host's figure and the ledger may lie apart: what ends while the question is on its way.
SLACK: Final = 5
_OK: Final = 200
# Powers of ten beyond which a figure is no amount of money.
_LARGE: Final = 12
_CURRENCY: Final = re.compile(r"[A-Za-z]{3,8}")

Spending = Callable[[datetime, datetime], Awaitable[Mapping[tuple[str, str], int]]]
Samples = list[tuple[tuple[str, ...], float]]


class Figure(NamedTuple):
    """What a host says of one currency, in nano-units: what is left, and what this key has used so far. None: it states none."""

    currency: str
    left: int | None
    used: int | None

    @property
    def counter(self) -> int | None:
        """A number that grows by what is spent."""
        return self.used if self.used is not None else None if self.left is None else -self.left


class Unreadable(ValueError):
    """An answer that is not what the host's row says."""


def figures(body: bytes, balance: Balance, currency: str) -> list[Figure]:
    """The figures in a host's answer, as its row says where they are; `currency` is the account's. Raises Unreadable."""
    try:
        found = json.loads(body, parse_float=Decimal)
        entries = _at(found, balance.each) if balance.each else [found]
        return [_figure(entry, balance, currency) for entry in entries]
    except (ValueError, TypeError, KeyError, InvalidOperation, RecursionError) as problem:
        raise Unreadable(type(problem).__name__) from None


def _figure(entry: Any, balance: Balance, currency: str) -> Figure:
    named = _at(entry, balance.currency) if balance.currency else currency
    if not isinstance(named, str) or not _CURRENCY.fullmatch(named):
        raise TypeError
    return Figure(named, *(None if path is None else _nano(_at(entry, path)) for path in (balance.left, balance.used)))


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value[name]
    return value


def _nano(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError
    amount = Decimal(value)
    if not amount.is_finite() or amount.adjusted() > _LARGE:
        raise ValueError
    return int((amount * NANO).to_integral_value(ROUND_HALF_EVEN))


@dataclass
class _Watch:
    """One host's figure in one currency since it was first seen, or since money was added."""

    left: int | None
    counter: int
    first: int
    step: int
    rounds: int = 0
    settled: int = 0
    ours: int = 0
    slack: int = 0

    def charge(self, late: int, fresh: int, elapsed: float) -> None:
        """One round more, whether the host answered or not: what was charged in the round before, which may have been written since, and
        in this one; nothing of before the first one."""
        self.rounds += 1
        self.settled += late if self.rounds > 2 else 0
        recent = fresh if self.rounds > 1 else 0
        self.ours = self.settled + recent
        self.slack = int(recent * SLACK // max(1, elapsed))

    @property
    def gap(self) -> int:
        """What the host took beyond what we charged, in nano; 0 within what its figure can show."""
        apart = self.counter - self.first - self.ours
        beyond = max(0, abs(apart) - self.step - self.slack)
        return beyond if apart > 0 else -beyond


class Balances:
    """The figures of all hosts that have one. `hosts` are those that are configured now, `spent` what the ledger charged in a time, by
    host and currency."""

    def __init__(self, hosts: Callable[[], Iterable[tuple[Host, Account]]], spent: Spending, clock: Clock) -> None:
        self._hosts = hosts
        self._spent = spent
        self._clock = clock
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._answered: frozenset[str] = frozenset()
        self._failing: set[str] = set()
        self._before: tuple[datetime, datetime] | None = None
        self._asked = 0.0

    async def watch(self, every: float, stop: asyncio.Event) -> None:
        """Look every so many seconds until `stop`; 0: never."""
        while every > 0 and not stop.is_set():
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)

    async def look(self) -> None:
        """Ask every host once, all at the same time, and compare. Nothing is forgotten where a host, or the ledger, does not answer."""
        asked = [(host, account) for host, account in self._hosts() if host.balance is not None]
        answers = await asyncio.gather(*(self._ask(host, account) for host, account in asked))
        self._answered = frozenset(host.host for (host, _), found in zip(asked, answers, strict=True) if found)
        try:
            late, fresh = await self._spending(self._clock.now())
        except LedgerUnavailable as problem:
            log.debug("what was spent is not known: %s", problem.message)
            return
        elapsed = self._clock.monotonic() - self._asked
        self._asked += elapsed
        kept: dict[tuple[str, str], _Watch] = {}
        for (host, account), found in zip(asked, answers, strict=True):
            kept |= self._seen_all(host, found)
            name = host.host, account.currency
            if name in kept:
                kept[name].charge(late.get(name, 0), fresh.get(name, 0), elapsed)
        self._watches = kept

    def left(self) -> dict[tuple[str, str], int]:
        """What is left, in nano-units, by host and currency; of hosts that answered the last time."""
        return {name: watch.left for name, watch in self._shown() if watch.left is not None}

    def samples(self) -> dict[str, Samples]:
        """The gauges, in whole units; none of a host that did not answer."""
        watches = self._shown()
        return {
            "faregate_host_balance": [(name, watch.left / NANO) for name, watch in watches if watch.left is not None],
            "faregate_balance_gap": [(name, watch.gap / NANO) for name, watch in watches if watch.rounds > 1],
        }

    def _shown(self) -> list[tuple[tuple[str, str], _Watch]]:
        return [(name, watch) for name, watch in list(self._watches.items()) if name[0] in self._answered]

    def _seen_all(self, host: Host, found: Sequence[Figure]) -> dict[tuple[str, str], _Watch]:
        """What is known of a host's figures now; what was known before where it did not answer."""
        if not found:
            return {name: watch for name, watch in self._watches.items() if name[0] == host.host}
        step = exact_nano(host.balance.step) if host.balance else 0
        return {(host.host, one.currency): self._seen((host.host, one.currency), one, step) for one in found}

    def _seen(self, name: tuple[str, str], figure: Figure, step: int) -> _Watch:
        """What is known of it so far; anew where money was added."""
        counter = figure.counter or 0
        known = self._watches.get(name)
        if known is None or counter < known.counter - step:
            return _Watch(figure.left, counter, counter, step)
        known.left, known.counter = figure.left, counter
        return known

    async def _spending(self, now: datetime) -> tuple[Mapping[tuple[str, str], int], Mapping[tuple[str, str], int]]:
        """What was charged in the round before the last look, and since. A round that the ledger could not tell of goes on."""
        before = self._before
        found = ({}, {}) if before is None else (await self._spent(*before), await self._spent(before[1], now))
        self._before = (before[1] if before else now), now
        return found

    async def _ask(self, host: Host, account: Account) -> list[Figure]:
        """What one host says; nothing where it does not, which is said once."""
        try:
            found = await _figures(host, account)
        except (Trouble, UpstreamError, TimeoutError, OSError, ValueError) as problem:
            # A ValueError: what cannot be read, or an address that is none.
            self._say(host.host, _why(problem))
            return []
        if host.host in self._failing:
            log.info("the balance at %s is known again", host.host)
        self._failing.discard(host.host)
        return found

    def _say(self, host: str, why: str) -> None:
        level = logging.DEBUG if host in self._failing else logging.WARNING
        log.log(level, "the balance at %s is not known: %s", host, why)
        self._failing.add(host)


async def _figures(host: Host, account: Account) -> list[Figure]:
    balance = host.balance
    if balance is None or account.base_url.startswith("worker:"):
        return []
    trip = Trip()
    headers = {name: value for name, value in account.headers("balance", False).items() if name != "content-type"}
    async with asyncio.timeout(WITHIN):
        await travel(trip, account.base_url.rstrip("/") + balance.path, headers)
    if trip.status != _OK:
        raise Unreadable(f"status {trip.status}")
    return figures(trip.body, balance, account.currency)


def _why(problem: Exception) -> str:
    """In words of ours: what a library says may repeat a header."""
    if isinstance(problem, Unreadable):
        return f"its answer cannot be read ({problem})"
    if isinstance(problem, UpstreamError):
        return problem.message
    return f"it does not answer ({type(problem).__name__})"


def by_host(rows: Iterable[Any]) -> Mapping[tuple[str, str], int]:
    """Sums of the ledger by host, as Spending gives them."""
    return dict(_pairs(rows))


def _pairs(rows: Iterable[Any]) -> Iterator[tuple[tuple[str, str], int]]:
    for row in rows:
        yield (row.group, row.currency), row.nano
