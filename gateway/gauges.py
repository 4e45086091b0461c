"""Gauges: how everything is at the moment at which /metrics is asked for. Nothing is counted or kept here.

All of it runs in the thread that answers a scrape: what others change meanwhile is copied in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Final, NamedTuple, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.clock import Clock
from gateway.errors import PriceUnknown
from gateway.families import FAMILIES
from gateway.gate import Alarm
from gateway.health import State
from gateway.ledger.condition import Condition
from gateway.money import NANO
from gateway.outcome import BudgetState
from gateway.policies import Policies
from gateway.price_changes import Change, next_change, price_end
from gateway.prices import Card
from gateway.replicas import ReplicaState, with_replicas
from gateway.routes import RouteTarget
from gateway.standings import began, standings, summed, zone_of

_DAY: Final = 86_400
_HOUR: Final = timedelta(hours=1)
_OF_BUDGETS: Final = ("limit", "spent", "held")
_FAMILIES: Final = {family.name: family for family in FAMILIES}

_OF_LEDGER: Final = {
    "faregate_ledger_up": "up",
    "faregate_spool_records": "waiting",
    "faregate_open_holds": "open_holds",
    "faregate_lease_seconds": "lease",
    "faregate_lease_age_seconds": "lease_age",
    "faregate_expired_holds_total": "expired",
    "faregate_given_up_records_total": "given_up",
}

Samples = Iterable[tuple[tuple[str, ...], float]]
Source = Callable[[], Mapping[str, Samples]]


class Watched(Protocol):
    """The snapshot in force, since when, and why a newer one is not."""

    @property
    def current(self) -> Policies: ...

    @property
    def error(self) -> str | None: ...

    @property
    def loaded_at(self) -> datetime: ...


class Budgets(Protocol):
    """The budgets as this process last saw them."""

    def states(self) -> Sequence[BudgetState]: ...


class _Ledger(Protocol):
    """How the ledger is."""

    @property
    def condition(self) -> Condition: ...


class _Health(Protocol):
    """How deployments are; seconds since 1970."""

    def states(self, at: float) -> Iterable[State]: ...

    def alarms(self, at: float) -> Iterable[Alarm]: ...


class _Replicas(Protocol):
    """How the replicas of own engines are."""

    def states(self, at: float) -> Iterable[ReplicaState]: ...


class _Hits(Protocol):
    """Whose hit rates are watched, by HOST/MODEL, with the falls among them."""

    def falls(self, at: float) -> Mapping[str, object | None]: ...


class Process(NamedTuple):
    """What the whole process can say of itself: whether new requests should come, and whether the stored keys in force are those of
    the store."""

    ready: Callable[[], bool]
    keys_in_step: Callable[[], bool]


class _Hosts(NamedTuple):
    health: _Health
    replicas: _Replicas
    hits: _Hits
    currencies: Callable[[], Mapping[str, str]]


class Gauges:
    """What is read at each scrape. Whatever is not watched has no samples. `machine` is the machine's own clock."""

    def __init__(
        self,
        policies: Watched,
        clock: Clock,
        budgets: Budgets | None = None,
        machine: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policies = policies
        self._clock = clock
        self._machine = machine
        self._budgets = budgets
        self._ledger: _Ledger | None = None
        self._process: Process | None = None
        self._hosts: _Hosts | None = None
        self._sources: list[Source] = []
        self._changes: dict[tuple[str, str, str], tuple[datetime, Change | None]] = {}
        self._changes_of = ""
        self.streams = 0
        self.redis_up: bool | None = None

    def watch(self, ledger: _Ledger) -> None:
        self._ledger = ledger

    def watch_process(self, process: Process) -> None:
        self._process = process

    def watch_hosts(self, health: _Health, replicas: _Replicas, hits: _Hits, currencies: Callable[[], Mapping[str, str]]) -> None:
        """`currencies`: what each configured host bills us in."""
        self._hosts = _Hosts(health, replicas, hits, currencies)

    def watch_source(self, source: Source) -> None:
        """Show what `source` says at each scrape: samples by the name of their family, which must be in FAMILIES."""
        self._sources.append(source)

    def collect(self) -> Iterator[Metric]:
        """Every gauge, and the counters that others count, as the client library shows them."""
        seen = set()
        for metric in self._own():
            seen.add(metric.name)
            yield metric
        more = [source() for source in list(self._sources)]
        for name, about in _FAMILIES.items():
            if about.kind == "gauge" and name not in seen:
                yield _shown(name, [sample for found in more for sample in found.get(name, ())])

    def _own(self) -> Iterator[Metric]:
        now, policies = self._clock.now(), self._policies.current
        yield _shown("faregate_build_info", [((version("faregate"),), 1)])
        yield _shown("faregate_open_streams", _one(self.streams))
        yield _shown("faregate_redis_up", _one(self.redis_up))
        yield _shown("faregate_clock_shift_seconds", _one(round((now - self._machine()).total_seconds(), 1) + 0.0))
        process = self._process
        yield _shown("faregate_ready", _one(None if process is None else process.ready()))
        yield _shown("faregate_keys_reload_ok", _one(None if process is None else process.keys_in_step()))
        yield from self._of_policies(policies, now)
        yield from self._of_budgets(policies, now)
        yield from self._of_ledger(now)
        yield from self._of_hosts(policies, now)
        yield from self._of_prices(policies, now)

    def _of_policies(self, policies: Policies, now: datetime) -> Iterator[Metric]:
        """What is in force now, and how far it reaches."""
        yield _shown("faregate_policies_info", [((policies.digest,), 1)])
        yield _shown("faregate_policies_reload_ok", _one(self._policies.error is None))
        yield _shown("faregate_policies_loaded_timestamp_seconds", _one(self._policies.loaded_at.timestamp()))
        cards = {card.name: card.verified for card in policies.prices.cards()}
        yield _shown("faregate_card_verified", (((name,), verified) for name, verified in cards.items()))
        left = (((one.name,), one.days_left(now.date()) * _DAY) for one in policies.calendars.values())
        yield _shown("faregate_calendar_left_seconds", left)

    def _of_budgets(self, policies: Policies, now: datetime) -> Iterator[Metric]:
        """The ledger's figures for every budget in force; those of the keys of one budget are added up, so that series stay few."""
        states = self._budgets.states() if self._budgets is not None else ()
        totals = {(one.team, one.budget, one.currency): one for one in summed(standings(policies.teams, states, now))}
        for what in _OF_BUDGETS:
            yield _shown(f"faregate_budget_{what}", ((name, _units(getattr(one, what))) for name, one in totals.items()))
        yield _shown("faregate_budget_resets_timestamp_seconds", _instants((name, one.resets_at) for name, one in totals.items()))
        starts = ((name, began(one, zone_of(policies.teams, one))) for name, one in totals.items())
        yield _shown("faregate_budget_began_timestamp_seconds", _instants(starts))

    def _of_ledger(self, now: datetime) -> Iterator[Metric]:
        found = self._ledger.condition if self._ledger is not None else None
        for name, part in _OF_LEDGER.items():
            yield _shown(name, _one(getattr(found, part, None)))
        oldest = found.oldest if found is not None else None
        none = None if found is None else 0.0
        yield _shown("faregate_oldest_hold_seconds", _one(none if oldest is None else max(0.0, (now - oldest).total_seconds())))

    def _of_hosts(self, policies: Policies, now: datetime) -> Iterator[Metric]:
        """How hosts are now; of those that the policies have."""
        at, served, watched = now.timestamp(), policies.served, self._hosts
        alarms = [alarm for alarm in (watched.health.alarms(at) if watched else ()) if alarm.host in policies.hosts]
        copies = [one for one in (watched.replicas.states(at) if watched else ()) if one.host in policies.hosts]
        found = with_replicas(watched.health.states(at) if watched else (), copies)
        states = {(state.host, state.model): state for state in found if (state.host, state.model) in served}
        hits = [(tuple(name.split("/", 1)), fall is not None) for name, fall in (watched.hits.falls(at) if watched else {}).items()]
        yield _shown("faregate_host_up", ((name, state.up) for name, state in states.items()))
        yield _shown("faregate_host_requests", ((name, state.open) for name, state in states.items()))
        yield _shown("faregate_host_failing_ratio", ((name, state.failing) for name, state in states.items()))
        yield _shown("faregate_host_wait_seconds", ((name, max(0.0, state.wait)) for name, state in states.items()))
        yield _shown("faregate_host_alarm", (((alarm.host, alarm.model, alarm.kind), 1) for alarm in alarms))
        yield _shown("faregate_hit_rate_alarm", ((name, fell) for name, fell in hits if name in served))
        yield _shown("faregate_replica_up", (((one.host, str(one.number)), one.up) for one in copies))
        yield _shown("faregate_replica_requests", (((one.host, str(one.number)), one.open) for one in copies))
        yield from self._of_routes(policies, now, states, {alarm.host for alarm in alarms if not alarm.model})

    def _of_routes(
        self, policies: Policies, now: datetime, states: Mapping[tuple[str, str], State], parked: Collection[str]
    ) -> Iterator[Metric]:
        """How many deployments each route has here, and how many of them are in use. Of a parked host none is, asked before or not."""
        configured = self._hosts.currencies() if self._hosts else {}

        def serves(target: RouteTarget) -> bool:
            return target.host in configured and policies.deployment(target.host, target.model, now) is not None

        def up(target: RouteTarget) -> bool:
            state = states.get((target.host, target.model))
            return target.host not in parked and (state is None or state.up)

        routes = {name: [one for one in route.deployments if serves(one)] for name, route in policies.routes.items()}
        counts = {name: (len(found), sum(map(up, found))) for name, found in routes.items() if found}
        yield _shown("faregate_route_deployments", (((name,), number) for name, (number, _) in counts.items()))
        yield _shown("faregate_route_deployments_up", (((name,), well) for name, (_, well) in counts.items()))

    def _of_prices(self, policies: Policies, now: datetime) -> Iterator[Metric]:
        """What every deployment costs now that is configured here, in the currency of its account."""
        currencies = self._hosts.currencies() if self._hosts else {}
        serving = [name for name in policies.served if name[0] in currencies and policies.deployment(*name, now)]
        cards = {(host, model, currencies[host]): _card(policies, host, model, currencies[host], now) for host, model in serving}
        priced = {name: card for name, card in cards.items() if card is not None}
        bands = {name: card.band(now) for name, card in priced.items()}
        yield _shown("faregate_price_known", ((name, card is not None) for name, card in cards.items()))
        yield _shown("faregate_price_verified", ((name, card.verified) for name, card in priced.items()))
        yield _shown("faregate_window", (((*name, band.window), 1) for name, band in bands.items()))
        prices = (
            ((*name, kind), _units(getattr(band.rates, kind)))
            for name, band in bands.items()
            for kind in ("cache_hit", "cache_miss", "output")
        )
        yield _shown("faregate_token_price", prices)
        changes = ((name, self._change(policies, name, now)) for name in priced)
        instants = (((*name, one.price.window if one.price else ""), one.at.timestamp()) for name, one in changes if one is not None)
        yield _shown("faregate_window_change_timestamp_seconds", instants)
        ends = ((name, price_end(policies.prices, *name, now)) for name in priced)
        yield _shown("faregate_price_ends_timestamp_seconds", _instants(ends))

    def _change(self, policies: Policies, name: tuple[str, str, str], now: datetime) -> Change | None:
        """The next change: looked up once an hour, and when it has come."""
        if self._changes_of != policies.digest:
            self._changes, self._changes_of = {}, policies.digest
        looked, known = self._changes.get(name, (None, None))
        if looked is None or not looked <= now <= looked + _HOUR or (known is not None and known.at <= now):
            known = next_change(policies.prices, *name, now)
            self._changes[name] = now, known
        return known


def _card(policies: Policies, host: str, model: str, currency: str, at: datetime) -> Card | None:
    try:
        return policies.prices.card(host, model, currency, at)
    except PriceUnknown:
        return None


def _shown(name: str, samples: Samples) -> Metric:
    """A family with these samples; none where there is nothing to say."""
    about = _FAMILIES[name]
    kind = GaugeMetricFamily if about.kind == "gauge" else CounterMetricFamily
    shown = kind(about.name, about.help, labels=about.labels)
    for labels, value in samples:
        shown.add_metric(labels, value)
    return shown


def _one(value: float | None) -> Samples:
    return () if value is None else (((), value),)


def _instants(found: Iterable[tuple[tuple[str, ...], datetime | None]]) -> Samples:
    return ((name, at.timestamp()) for name, at in found if at is not None)


def _units(nano: int) -> float:
    """Whole units of the currency, for display only: no decision about money is made from it."""
    return nano / NANO
