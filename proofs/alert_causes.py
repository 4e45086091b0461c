"""What makes each alert fire, on a live scene: every cause is made, kept up until its alerts fire, and mended.

A cause is a context: what it does before the `yield` makes it, what it does after mends it. A round is a list of causes that do not
disturb each other: they are made at the same time.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from gateway.clock import instant_text
from gateway.money import NANO
from gateway.reconciled import LastTime, Reconciliations
from proofs.alert_scene import ALONE, KEY, MODELS, TIGHT, Scene, again, name_of
from tests.load import Ask, play

Cause = Callable[[Scene], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """Alerts that one cause makes fire; `labels` are what tells that it is this cause."""

    cause: Cause
    alerts: tuple[str, ...]
    labels: dict[str, str]


def case(cause: Cause, *alerts: str, **labels: str) -> Case:
    return Case(cause, alerts, labels)


# ---- prices, charges and policies: each on a host of its own


@contextmanager
def no_price(scene: Scene) -> Iterator[None]:
    """The card of a model is gone from the price list in our currency, and somebody asks for the model."""

    def change(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [card for card in cards if card["currency"] != "CNY" or MODELS["gmi"] not in card["models"]]

    with scene.edited("prices/gmi.yaml", change), scene.traffic(lambda: scene.chat(name_of("gmi")), 1.0):
        yield


@contextmanager
def price_ends(scene: Scene) -> Iterator[None]:
    """The cards of Nebius in our currency end in three days, and nothing follows them."""
    until = instant_text(datetime.now(UTC) + timedelta(days=3))

    def change(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = {model: card["card"] for card in cards if card["currency"] == "CNY" for model in card["models"]}
        return [{**card, "until": until} if card["card"] in last.values() else card for card in cards]

    with scene.edited("prices/nebius.yaml", change):
        yield


@contextmanager
def calendar_ends(scene: Scene) -> Iterator[None]:
    """The holidays are known for ten days more."""
    until = (datetime.now(UTC) + timedelta(days=10)).date()

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "known_until": until, "days": [day for day in row["days"] if day <= until]}

    with scene.edited("calendars/cn-public-holidays.yaml", change):
        yield


@contextmanager
def bad_policies(scene: Scene) -> Iterator[None]:
    """The second gateway's routes are no YAML any more."""
    with scene.edited("routes.yaml", lambda _: "- route: [", where=[1]):
        yield


@contextmanager
def other_policies(scene: Scene) -> Iterator[None]:
    """The second gateway has a team more."""
    with scene.edited("teams/wide.yaml", lambda row: {**row, "limits": {"requests_per_minute": 100_000}}, where=[1]):
        yield


@contextmanager
def no_usage(scene: Scene) -> Iterator[None]:
    """Novita's streams end without usage."""
    host = scene.hosts["novita"]
    with scene.traffic(lambda: scene.chat(name_of("novita"), stream=True), 0.2, 2):
        host.faults({"no_usage": True, "times": 100_000})
        yield
        host.reset()
        time.sleep(20)


@contextmanager
def absurd_costs(scene: Scene) -> Iterator[None]:
    """OpenRouter bills a thousand times what its card says, beyond what so short an answer could cost."""
    with scene.traffic(lambda: scene.chat(name_of("openrouter"), max_tokens=64), 1.0):
        yield


@contextmanager
def bill_differs(scene: Scene) -> Iterator[None]:
    """A reconciliation found that DeepSeek billed 2.50 USD more; a later one finds nothing."""
    found, now = Reconciliations(scene.replicas[0].data), datetime.now(UTC)
    last = LastTime("deepseek", "USD", 5 * NANO // 2, now, now - timedelta(days=1), now)
    found.keep(last)
    yield
    found.keep(LastTime("deepseek", "USD", 0, now, last.start, last.end))


@contextmanager
def balance_goes(scene: Scene) -> Iterator[None]:
    """Our credit at DeepSeek falls to a few cents, though we spent nothing like it; then it is topped up."""
    scene.credit("deepseek", "20")
    with scene.traffic(lambda: scene.chat(name_of("deepseek")), 0.1, 2):
        time.sleep(4)
        scene.credit("deepseek", "0.01")
        yield
        scene.credit("deepseek", "500")
        time.sleep(3)


@contextmanager
def late_tokens(scene: Scene) -> Iterator[None]:
    """Nebius takes more than ten seconds to begin."""
    scene.behave("nebius", first_token=10.5)
    # One after the other, and nobody waits for the one before.
    with scene.traffic(lambda: scene.aside(name_of("nebius"), "answer=5", stream=True), 0.4):
        yield
    scene.behave("nebius", first_token=0.0)


@contextmanager
def hits_end(scene: Scene) -> Iterator[None]:
    """DeepSeek hits what it knows, and then nothing any more: for one model with many requests, and for one with few long ones, which
    go by what was foretold for longer."""

    def asks(model: str, times: int) -> Callable[[], int]:
        known = "A long text that every request begins with. " * times

        def ask() -> int:
            content = f"{known} Question {time.monotonic_ns()} [[answer=5]]"
            return scene.ask(scene.replicas[0], {"model": f"deepseek/{model}", "messages": [{"role": "user", "content": content}]}, KEY)

        return ask

    with scene.traffic(asks("deepseek-v4-pro", 900), 0.05, 2), scene.traffic(asks("deepseek-v4-flash", 3000), 1.0):
        time.sleep(9)
        scene.behave("deepseek", hit_rate=0.0)
        yield
        scene.behave("deepseek", hit_rate=1.0)
        scene.until("the hits are back", lambda: not scene.seen.fires("FaregateHitRateFell", {}), 90)


# ---- budgets


@contextmanager
def budget_shrinks(scene: Scene, part: float) -> Iterator[None]:
    """The team has spent this part of its budget, because the budget was made so small."""
    scene.team("tight", "10")

    def spends() -> bool:
        scene.chat(name_of("together"), "answer=50", key=TIGHT)
        return scene.spent("tight") > 0

    scene.until("something was spent", spends)
    scene.team("tight", f"{scene.spent('tight') / part:.9f}")
    yield
    scene.team("tight", "10")


@contextmanager
def mostly_used(scene: Scene) -> Iterator[None]:
    with budget_shrinks(scene, 0.9):
        yield


@contextmanager
def nearly_used(scene: Scene) -> Iterator[None]:
    with budget_shrinks(scene, 0.98):
        yield


@contextmanager
def used_up(scene: Scene) -> Iterator[None]:
    with budget_shrinks(scene, 1.05), scene.traffic(lambda: scene.chat(name_of("together"), key=TIGHT), 0.5):
        yield


@contextmanager
def burns(scene: Scene) -> Iterator[None]:
    """An agent in a loop, beside a budget that would last at an ordinary pace."""
    scene.team("fast", "0.50")
    with scene.traffic(lambda: scene.chat(name_of("openrouter"), "answer=200", key=f"{TIGHT}-fast"), 0.05, 2):
        yield


# ---- hosts


@contextmanager
def host_fails(scene: Scene) -> Iterator[None]:
    """Together fails two requests in five; it is asked alone, so that everything reaches it."""
    scene.behave("together", fail_rate=0.4)
    with scene.traffic(lambda: scene.chat(name_of("together")), 0.05, 2):
        yield
        scene.behave("together", fail_rate=0.0)
        time.sleep(15)


@contextmanager
def host_limits(scene: Scene) -> Iterator[None]:
    """Fireworks refuses one request in three."""
    scene.behave("fireworks", fail_rate=0.35, fault={"status": 429, "retry_after": 0})
    with scene.traffic(lambda: scene.chat(name_of("fireworks")), 0.05, 2):
        yield
        scene.behave("fireworks", fail_rate=0.0)
        time.sleep(15)


@contextmanager
def host_broke(scene: Scene) -> Iterator[None]:
    """SiliconFlow says that there is no balance; both gateways leave it alone, and the route that it alone serves has nobody."""
    host = scene.hosts["siliconflow"]
    host.faults({"status": 402, "body": {"code": 30001, "message": "Insufficient balance"}, "times": 100_000})
    with scene.traffic(lambda: [scene.chat(ALONE, replica=number) for number in (0, 1)], 0.1, 2):
        yield
        host.reset()
        scene.reload()
        time.sleep(10)


@contextmanager
def engine_gone(scene: Scene) -> Iterator[None]:
    """One of the two replicas of our own engine has ended; both gateways have more on their way than one replica would get alone."""

    def ask() -> None:
        for replica in (0, 1):
            scene.aside(name_of("local"), f"answer=40 pace=20 seed={time.monotonic_ns() % 1000}", replica)

    scene.hosts["second"].close()
    with scene.traffic(ask, 0.25):
        yield
        scene.hosts["second"] = again(scene.hosts["second"], "local", scene.folder / "second")
        scene.until("the replica is asked again", lambda: not scene.seen.fires("FaregateEngineReplicaOut", {}), 120)


# ---- the ledger and Redis


@contextmanager
def redis_gone(scene: Scene) -> Iterator[None]:
    scene.redis.stop()
    yield
    scene.redis.start()


@contextmanager
def ledger_locked(scene: Scene) -> Iterator[None]:
    """Somebody locks the ledger's table for half a second, again and again."""
    over = threading.Event()

    async def lock() -> None:
        connection = await asyncpg.connect(scene.postgres.url())
        try:
            while not over.is_set():
                async with connection.transaction():
                    await connection.execute("LOCK TABLE faregate.hold IN EXCLUSIVE MODE")
                    await asyncio.sleep(0.5)
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    locking = threading.Thread(target=lambda: asyncio.run(lock()), daemon=True)
    locking.start()
    with scene.traffic(lambda: scene.chat(name_of("local"), replica=1), 0.02, 8):
        yield
        over.set()
        locking.join()


@contextmanager
def ledger_gone(scene: Scene) -> Iterator[None]:
    """PostgreSQL is killed while streams are on their way. One gateway goes on without it, and its spool fills; the other refuses."""
    for replica in (0, 1):
        for _ in range(3):
            scene.aside(name_of("novita"), "answer=300 pace=60", replica, stream=True)
    time.sleep(1)
    scene.postgres.kill()
    asks = [Ask({"model": name_of("novita"), "messages": [{"role": "user", "content": "Hello. [[answer=1]]"}]}) for _ in range(1400)]
    filling = threading.Thread(target=lambda: asyncio.run(play(scene.replicas[0].url, KEY, asks)), daemon=True)
    with scene.traffic(lambda: scene.aside(name_of("novita"), "answer=300 pace=60", 0, stream=True), 2.0):
        filling.start()
        yield
    filling.join(60)
    scene.postgres.start()


# ---- processes


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    """The second gateway is killed with streams under way; its holds expire at the first one."""
    for _ in range(3):
        scene.aside(name_of("novita"), "answer=300 pace=60", 1, stream=True)
    time.sleep(1.5)
    scene.replicas[1].kill()
    yield
    scene.replicas[1].start()


@contextmanager
def all_killed(scene: Scene) -> Iterator[None]:
    for replica in scene.replicas:
        replica.kill()
    yield
    for replica in scene.replicas:
        replica.start()


@contextmanager
def odd_one(scene: Scene) -> Iterator[None]:
    """A gateway runs with a shifted clock, by which a stream of seconds takes hours."""
    scene.odd.start()
    with scene.traffic(lambda: scene.ask(scene.odd, _long("deepseek")), 0.5):
        yield
    scene.odd.kill()


@contextmanager
def restarts(scene: Scene) -> Iterator[None]:
    """A gateway ends as soon as it serves, again and again; then it stays."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            scene.odd.start()
            over.wait(2.2)
            scene.odd.kill()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def given_up(scene: Scene) -> Iterator[None]:
    """Somebody wrote into the ledger: the hold of a running request is in another currency, and its end can never be kept."""
    scene.odd.start()
    asking = threading.Thread(target=lambda: scene.ask(scene.odd, _long("deepseek")), daemon=True)
    asking.start()
    time.sleep(2)
    book = sqlite3.connect(scene.odd.data / "ledger.db", timeout=10)
    book.execute("UPDATE hold SET currency = 'EUR' WHERE state = 'held'")
    book.commit()
    book.close()
    yield
    asking.join(30)
    scene.odd.kill()


def _long(host: str) -> dict[str, Any]:
    return {"model": name_of(host), "stream": True, "messages": [{"role": "user", "content": "Tell me. [[answer=200 pace=60]]"}]}


# Each round's causes are made at the same time.
ROUNDS: Final[tuple[tuple[Case, ...], ...]] = (
    (
        case(no_price, "FaregateRequestsUnpriced", "FaregatePriceUnknown", host="gmi"),
        case(price_ends, "FaregatePriceEnds", host="nebius"),
        case(calendar_ends, "FaregateCalendarEnds"),
        case(no_usage, "FaregateUsageNotReported", host="novita"),
        case(absurd_costs, "FaregateChargesDisputed", host="openrouter"),
        case(bill_differs, "FaregateReconcileGap", host="deepseek"),
        case(mostly_used, "FaregateBudgetMostlyUsed", team="tight"),
        case(bad_policies, "FaregatePoliciesRefused", instance="gateway-2"),
    ),
    (
        case(burns, "FaregateBudgetBurnsFast", team="fast"),
        case(nearly_used, "FaregateBudgetNearlyUsed", team="tight"),
        case(balance_goes, "FaregateBalanceNearlyGone", "FaregateBalanceGap", host="deepseek"),
        case(other_policies, "FaregatePoliciesDiffer"),
        case(late_tokens, "FaregateFirstTokenSlow", route=name_of("nebius")),
    ),
    (
        case(used_up, "FaregateBudgetUsedUp", "FaregateRequestsOverBudget", team="tight"),
        case(hits_end, "FaregateHitRateFell", "FaregateHitsBelowForecast", host="deepseek"),
        case(host_fails, "FaregateHostFailing", host="together"),
        case(host_limits, "FaregateHostLimits", host="fireworks"),
        case(redis_gone, "FaregateRedisDown"),
    ),
    (
        case(engine_gone, "FaregateEngineReplicaOut", host="local"),
        case(host_broke, "FaregateHostNeedsOperator", "FaregateHostOut", host="siliconflow"),
        case(host_broke, "FaregateRouteDown", route=ALONE),
        case(host_broke, "FaregateErrorBurnFastest"),
        case(odd_one, "FaregateClockShifted", "FaregateHoldOld", instance="gateway-3"),
    ),
    (
        case(ledger_locked, "FaregateLedgerSlow", op="hold"),
        case(ledger_locked, "FaregateOverheadHigh"),
        case(restarts, "FaregateRestarting", instance="gateway-3"),
    ),
    (
        case(ledger_gone, "FaregateLedgerDown"),
        case(ledger_gone, "FaregateSpoolNotEmpty", "FaregateSpoolFilling", "FaregateLeasesNotRenewed", instance="gateway-1"),
        case(ledger_gone, "FaregateKeysStale", "FaregateNotReady", instance="gateway-2"),
        case(given_up, "FaregateChargesGivenUp", instance="gateway-3"),
    ),
    (case(killed, "FaregateReplicaDown", instance="gateway-2"), case(killed, "FaregateHoldsExpired")),
    (case(all_killed, "FaregateDown"),),
)
