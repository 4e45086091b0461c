"""Gauges: what /metrics shows of the moment it is asked at, of hosts that are configured here, and nothing of what nobody watches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.families import FAMILIES
from gateway.gate import Trouble
from gateway.gauges import Gauges, Process
from gateway.health import Health
from gateway.ledger.condition import Condition
from gateway.money import NANO
from gateway.outcome import BudgetState
from gateway.policies import Policies, default_folder, load
from gateway.prices import Prices
from gateway.replicas import Replicas
from gateway.teams import TeamRow

# A Friday in DeepSeek's peak hours.
AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
PRO = {"host": "deepseek", "model": "deepseek-v4-pro", "currency": "USD"}
CONDITION = Condition(
    up=True, waiting=3, given_up=1, expired=7, open_holds=2, oldest=AT - timedelta(seconds=12), lease=30.0, lease_age=11.5
)


@dataclass
class Book:
    current: Policies
    error: str | None = None
    loaded_at: datetime = AT - timedelta(hours=1)


@dataclass
class Clock:
    at: datetime = AT

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


class NoHits:
    def falls(self, at: float) -> dict[str, object | None]:
        return {}


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load(default_folder())


@pytest.fixture
def book(policies: Policies) -> Book:
    return Book(policies)


def shown(gauges: Gauges) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Every sample by the name of its family and its labels."""
    found = [(metric.name, metric.samples) for metric in gauges.collect()]
    return {name: {frozenset(one.labels.items()): one.value for one in samples} for name, samples in found}


def value(gauges: Gauges, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    return shown(gauges)[name.removesuffix("_total")].get(frozenset((labels or {}).items()))


def watched(book: Book, currencies: Mapping[str, str], health: Health | None = None, clock: Clock | None = None) -> Gauges:
    gauges = Gauges(book, clock or Clock(), machine=lambda: AT)
    gauges.watch_hosts(health or Health(), Replicas(), NoHits(), lambda: currencies)
    return gauges


# ---- the process and its policies


def test_what_nobody_watches_has_no_samples_and_every_gauge_is_there(book: Book) -> None:
    found = shown(Gauges(book, Clock(), machine=lambda: AT))
    gauges = {family.name for family in FAMILIES if family.kind == "gauge"}
    assert gauges <= found.keys()
    unwatched = {"ready", "keys_reload_ok", "ledger_up", "open_holds", "lease_age_seconds", "host_up", "window", "redis_up", "price_known"}
    assert {name: found[f"faregate_{name}"] for name in unwatched} == {name: {} for name in unwatched}


def test_the_version_the_policies_and_the_clock(book: Book) -> None:
    gauges = Gauges(book, Clock(), machine=lambda: AT - timedelta(hours=2))
    assert value(gauges, "faregate_build_info", {"version": version("faregate")}) == 1
    assert value(gauges, "faregate_policies_reload_ok") == 1
    assert value(gauges, "faregate_policies_loaded_timestamp_seconds") == (AT - timedelta(hours=1)).timestamp()
    assert value(gauges, "faregate_clock_shift_seconds") == 7200
    book.error = "routes.yaml:1: is not YAML"
    assert value(gauges, "faregate_policies_reload_ok") == 0


@pytest.mark.parametrize(("ready", "keys"), [(True, True), (False, True), (True, False)])
def test_whether_requests_may_come_and_keys_are_new(book: Book, ready: bool, keys: bool) -> None:
    gauges = Gauges(book, Clock())
    gauges.watch_process(Process(lambda: ready, lambda: keys))
    assert (value(gauges, "faregate_ready"), value(gauges, "faregate_keys_reload_ok")) == (ready, keys)


def test_a_source_of_somebody_else_is_asked_at_each_scrape(book: Book) -> None:
    gauges, left = Gauges(book, Clock()), [5.0]
    gauges.watch_source(lambda: {"faregate_host_balance": [(("deepseek", "USD"), left[0])]})
    for amount in (5.0, 4.0):
        left[0] = amount
        assert value(gauges, "faregate_host_balance", {"host": "deepseek", "currency": "USD"}) == amount


# ---- the ledger


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ledger_up", 1), ("spool_records", 3), ("given_up_records_total", 1), ("expired_holds_total", 7), ("open_holds", 2),
        ("oldest_hold_seconds", 12), ("lease_seconds", 30), ("lease_age_seconds", 11.5),
    ],
)  # fmt: skip
def test_the_ledger_as_it_says(book: Book, name: str, expected: float) -> None:
    gauges = Gauges(book, Clock())
    gauges.watch(SimpleNamespace(condition=CONDITION))
    assert value(gauges, f"faregate_{name}") == expected


def test_without_holds_the_oldest_is_no_age_at_all(book: Book) -> None:
    gauges = Gauges(book, Clock())
    gauges.watch(SimpleNamespace(condition=CONDITION._replace(oldest=None, open_holds=0)))
    assert value(gauges, "faregate_oldest_hold_seconds") == 0


# ---- prices


def test_what_a_deployment_costs_now_and_when_that_changes(book: Book) -> None:
    gauges = watched(book, {"deepseek": "USD"})
    assert value(gauges, "faregate_window", {**PRO, "window": "peak"}) == 1
    assert value(gauges, "faregate_window", {**PRO, "window": "standard"}) is None
    costs = {kind: value(gauges, "faregate_token_price", {**PRO, "class": kind}) for kind in ("cache_hit", "cache_miss", "output")}
    assert costs == {"cache_hit": 0.044, "cache_miss": 1.32, "output": 3.96}
    ends = datetime(2026, 11, 20, 4, tzinfo=UTC).timestamp()
    assert value(gauges, "faregate_window_change_timestamp_seconds", {**PRO, "window": "standard"}) == ends
    assert (value(gauges, "faregate_price_known", PRO), value(gauges, "faregate_price_verified", PRO)) == (1, 1)


def test_the_next_change_follows_the_clock(book: Book) -> None:
    clock = Clock()
    gauges = watched(book, {"deepseek": "USD"}, clock=clock)
    steps = [("02:00", 4, "standard"), ("03:30", 4, "standard"), ("04:00", 6, "peak"), ("03:00", 4, "standard"), ("09:00", 10, "standard")]
    for time, change, window in steps:
        clock.at = AT.replace(hour=int(time[:2]), minute=int(time[3:]))
        found = shown(gauges)["faregate_window_change_timestamp_seconds"]
        assert found[frozenset({**PRO, "window": window}.items())] == AT.replace(hour=change).timestamp()
        assert len([labels for labels in found if PRO.items() <= dict(labels).items()]) == 1


def test_the_next_change_follows_the_policies(book: Book, policies: Policies) -> None:
    gauges = watched(book, {"deepseek": "USD"})
    assert shown(gauges)["faregate_window_change_timestamp_seconds"]
    flat = [dataclasses.replace(card, windows=()) for card in policies.prices.cards()]
    book.current = dataclasses.replace(policies, prices=Prices({card.name: card for card in flat}.values()), digest="flat")
    assert not [labels for labels in shown(gauges)["faregate_window_change_timestamp_seconds"] if ("model", PRO["model"]) in labels]


def test_a_price_with_windows_ends_when_its_last_card_does(book: Book, policies: Policies) -> None:
    """The next change is the end of the peak, hours away; the end of the price is told long before."""
    gauges, end = watched(book, {"deepseek": "USD"}), AT + timedelta(days=6)
    assert value(gauges, "faregate_price_ends_timestamp_seconds", PRO) is None
    cards = [dataclasses.replace(card, end=card.end or end) for card in policies.prices.cards()]
    book.current = dataclasses.replace(policies, prices=Prices(cards), digest="ends")
    assert value(gauges, "faregate_price_ends_timestamp_seconds", PRO) == end.timestamp()
    assert value(gauges, "faregate_window_change_timestamp_seconds", {**PRO, "window": "standard"}) == AT.replace(hour=4).timestamp()


def test_only_hosts_that_are_configured_have_prices_and_in_their_own_currency(book: Book) -> None:
    found = shown(watched(book, {"deepseek": "CNY"}))
    for name in ("window", "token_price", "price_known", "window_change_timestamp_seconds"):
        labels = [dict(one) for one in found[f"faregate_{name}"]]
        assert labels
        assert {(one["host"], one["currency"]) for one in labels} == {("deepseek", "CNY")}


def test_a_price_that_nobody_knows_is_no_price(book: Book) -> None:
    gauges = watched(book, {"novita": "CNY"})
    found = shown(gauges)
    assert found["faregate_price_known"]
    assert set(found["faregate_price_known"].values()) == {0}
    assert [found[f"faregate_{name}"] for name in ("window", "token_price", "price_verified")] == [{}, {}, {}]


# ---- routes and hosts


def failed(policies: Policies, *names: tuple[str, str]) -> Health:
    """These deployments are left out, for want of balance."""
    health = Health()
    for name in names:
        deployment = policies.deployment(*name, AT)
        assert deployment is not None
        ticket = health.begun(deployment, AT.timestamp())
        assert ticket is not None
        health.ended(ticket, AT.timestamp(), Trouble("unpaid"))
    return health


def targets(policies: Policies, route: str, hosts: Iterable[str]) -> list[tuple[str, str]]:
    """The deployments of a route that serve at these hosts now."""
    found = [(one.host, one.model) for one in policies.routes[route].deployments]
    return [name for name in found if name[0] in hosts and policies.deployment(*name, AT)]


def test_a_route_has_the_deployments_that_are_configured_and_up(book: Book, policies: Policies) -> None:
    both = ("deepseek", "novita")
    mine = targets(policies, "deepseek-v4-pro", both)
    assert {host for host, _ in mine} == set(both)
    left = [name for name in mine if name[0] != "novita"]
    steps: list[tuple[Any, ...]] = [
        ((), both, len(mine), len(mine)),
        ((("novita", mine[-1][1]),), both, len(mine), len(left)),
        ((mine[-1], ("deepseek", "deepseek-v4-pro")), both, len(mine), 0),
        ((), ("deepseek",), len(left), len(left)),
    ]
    for down, hosts, number, up in steps:
        gauges = watched(book, dict.fromkeys(hosts, "USD"), failed(policies, *down))
        route = {"route": "deepseek-v4-pro"}
        assert (value(gauges, "faregate_route_deployments", route), value(gauges, "faregate_route_deployments_up", route)) == (number, up)


def test_a_route_that_nothing_serves_here_is_not_shown(book: Book) -> None:
    found = shown(watched(book, {"gmi": "USD"}))
    assert frozenset({("route", "deepseek-flash")}) not in found["faregate_route_deployments"]


def test_how_long_a_deployment_is_left_out_and_how_much_of_it_fails(book: Book, policies: Policies) -> None:
    gauges = watched(book, {"deepseek": "USD"}, failed(policies, ("deepseek", "deepseek-v4-pro")))
    labels = {name: PRO[name] for name in ("host", "model")}
    assert value(gauges, "faregate_host_wait_seconds", labels) == 600
    ratio = value(gauges, "faregate_host_failing_ratio", labels)
    assert ratio is not None
    assert 0 < ratio < 1


# ---- budgets


def test_when_a_budget_began_and_resets(book: Book, policies: Policies) -> None:
    budgets = [{"budget": name, "amount": "20", "currency": "USD", "period": name} for name in ("day", "month", "total")]
    row = TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": budgets})
    book.current = dataclasses.replace(policies, teams={"search": row})
    state = BudgetState("search", "day", "", "2026-11-20", "USD", 20 * NANO, NANO, 0, NANO, 0, datetime(2026, 11, 21, tzinfo=UTC))
    found = shown(Gauges(book, Clock(), SimpleNamespace(states=lambda: (state,))))

    def of(name: str) -> dict[str, float]:
        return {dict(labels)["budget"]: at for labels, at in found[f"faregate_budget_{name}_timestamp_seconds"].items()}

    def at(month: int, day: int) -> float:
        return datetime(2026, month, day, tzinfo=UTC).timestamp()

    assert of("began") == {"day": at(11, 20), "month": at(11, 1)}
    assert of("resets") == {"day": at(11, 21), "month": at(12, 1)}
