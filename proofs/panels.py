"""`make prove-dashboards`: every query of every dashboard is answered by a real Prometheus that scrapes gateways under load.

    python -m proofs.panels [--seconds N] [--height N] [--replicas N] [--sqlite]

Three gateways on a PostgreSQL with a Redis, emulated hosts that fail now and then, four teams; Prometheus scrapes them every second. Then
each query of each panel, annotation and variable is asked as Grafana would ask it: it must have an answer, and no value in it may be NaN.
What "today" says was spent must be what the ledger has. Prints one JSON line. `--sqlite`: no PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from operator import itemgetter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from dashboards.ask import Prometheus, Refused, View, asked, choices, questions
from dashboards.builder.__main__ import built
from gateway.reconciled import LastTime, Reconciliations
from proofs.crowd import HOSTS, Crowd, Day, teams
from proofs.fleet import clean_up_when_told
from proofs.scrapes import PrometheusServer, config_of
from proofs.verdict import Verdict
from tests.harness import get_json, post_json
from tests.replicas import Stage
from tests.servers import PostgresServer, RedisServer

Json = dict[str, Any]
# Queries that may find nothing, each with the reason. There is none.
MAY_BE_EMPTY: Final[Mapping[str, str]] = {}
# A Friday in DeepSeek's peak hours.
PEAK: Final = "2026-11-20T02:00:00Z"
# How far what Prometheus reckons may be from the ledger: it guesses what happened between two scrapes.
NEAR: Final = 0.05


@dataclass(frozen=True)
class Setting:
    """What is started: how many gateways, whether on PostgreSQL and with Redis, at which time, with which settings and amounts."""

    replicas: int = 3
    postgres: bool = True
    redis: bool = True
    clock: str = PEAK
    settings: Mapping[str, str] | None = None
    amounts: Mapping[str, str] | None = None


@contextmanager
def scene(setting: Setting) -> Iterator[Stage]:
    """Gateways, stores and hosts, and their end."""
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="faregate-panels-"))
        stack.callback(shutil.rmtree, folder, True)
        settings, database = {"FAREGATE_BALANCE_POLL": "1", **(setting.settings or {})}, None
        if setting.postgres:
            # Not in the folder above: no other user may look into it.
            place = Path(mkdtemp(prefix="faregate-postgres-"))
            stack.callback(shutil.rmtree, place, True)
            store = PostgresServer(place)
            stack.callback(store.kill)
            store.start()
            database = store.url()
        if setting.redis:
            redis = RedisServer(_made(folder / "redis"))
            stack.callback(redis.kill)
            redis.start()
            settings["FAREGATE_REDIS"] = redis.url
        yield stack.enter_context(
            Stage(
                folder, teams(**dict(setting.amounts or {})), hosts=HOSTS, replicas=setting.replicas, clock=setting.clock,
                database=database, settings=settings,
            )
        )  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ---- what goes wrong in a day


def behave(stage: Stage, host: str, **behaviour: Any) -> None:
    post_json(stage.hosts[host].root + "/_emulator/behaviour", behaviour)


def begin(stage: Stage, rate: float = 1.0) -> None:
    """How each host usually is; times are seconds of its clock, which runs `rate` times as fast."""
    behave(stage, "deepseek", first_token=0.35 * rate, hit_rate=0.93, fail_rate=0.004)
    behave(stage, "novita", first_token=0.6 * rate, hit_rate=0.5, fail_rate=0.02)
    behave(stage, "openrouter", first_token=0.9 * rate, hit_rate=0.7)


def trouble(stage: Stage) -> Sequence[tuple[float, Any]]:
    """What goes wrong, and after which part of the day."""
    novita, deepseek, openrouter = stage.hosts["novita"], stage.hosts["deepseek"], stage.hosts["openrouter"]
    return (
        (0.22, lambda: deepseek.faults(*[{"status": 429, "retry_after": 0}] * 6)),
        (0.30, lambda: novita.faults({"status": 503, "times": 12})),
        (0.42, lambda: deepseek.faults({"no_usage": True}, {"cut_after": 4}, {"no_usage": True})),
        (0.55, lambda: novita.faults({"status": 503, "times": 20})),
        (0.66, lambda: openrouter.faults({"status": 402, "times": 3}, {"stall_after": 2, "seconds": 3})),
        (0.75, lambda: deepseek.faults(*[{"status": 429, "retry_after": 0}] * 10)),
    )


class Timetable(threading.Thread):
    """Does each thing when its part of the day has come, beside the crowd."""

    def __init__(self, seconds: float, items: Sequence[tuple[float, Any]]) -> None:
        super().__init__(daemon=True)
        self._seconds, self._items, self._over = seconds, sorted(items, key=itemgetter(0)), threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        began = time.monotonic()
        try:
            for part, action in self._items:
                if self._over.wait(max(0.0, began + part * self._seconds - time.monotonic())):
                    return
                action()
        except BaseException as error:
            self.failed = error

    def __enter__(self) -> Timetable:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()
        if self.failed is not None:
            raise self.failed


def reconcile(stage: Stage) -> None:
    """What hosts have billed is compared with the ledger, request by request, as a reconciliation leaves it for the gauges."""
    billed: Counter[str] = Counter()
    for host in stage.hosts.values():
        for row in get_json(host.root + "/_emulator/bill"):
            billed[row["id"]] += row["nano"] or 0
    gaps: Counter[tuple[str, str]] = Counter()
    for row in stage.admin("requests?limit=1000"):
        if row["id"] in billed:
            gaps[row["host"], row["currency"]] += billed[row["id"]] - row["nano"]
    kept, now = Reconciliations(stage.data), datetime.now(UTC)
    for (name, currency), gap in gaps.items():
        kept.keep(LastTime(name, currency, gap, now, now, now))


# ---- the questions


def unanswered(prometheus: Prometheus, view: View) -> tuple[int, list[str]]:
    """How many queries were asked, and a line for each that has no answer, or one that is no number."""
    count, problems = 0, list[str]()
    for board in built().values():
        for question in questions(board):
            count += 1
            problems += _problems(prometheus, question.place, lambda q=question, b=board: asked(prometheus, q, b, view))
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                count += 1
                if not choices(prometheus, variable, board, view):
                    problems.append(f"{board['title']} / variable {variable['name']}: offers nothing")
    return count, problems


def _problems(prometheus: Prometheus, place: str, ask: Any) -> Iterator[str]:
    try:
        found = ask()
    except Refused as error:
        yield f"{place}: {error}"
        return
    if not found and place not in MAY_BE_EMPTY:
        yield f"{place}: no data"
    for series in found:
        if any(isnan(value) for _, value in series.points):
            yield f"{place}: NaN in {series.name}"


def spent_by_ledger(stage: Stage) -> dict[str, int]:
    """Nano-units by currency, of every request that has ended."""
    found: dict[str, int] = {}
    for line in stage.admin("spend?by=team&last=24h"):
        found[line["currency"]] = found.get(line["currency"], 0) + line["nano"]
    return found


def spent_by_panel(prometheus: Prometheus, view: View, title: str = "Today") -> dict[str, float]:
    """Whole units by currency, as a panel of Spend says."""
    board = built()["spend"]
    (question,) = [one for one in questions(board) if one.panel == title]
    return {series.labels["currency"]: series.last for series in asked(prometheus, question, board, view)}


# ---- the proof


def watched(stage: Stage, day: Day, prometheus: PrometheusServer) -> tuple[Crowd, View]:
    """The day as it is played and scraped, and the range in which it lies."""
    crowd = Crowd([replica.root + "/v1/chat/completions" for replica in stage.replicas], day)
    began = time.time()
    begin(stage)
    with Timetable(day.seconds, trouble(stage)):
        asyncio.run(crowd.play())
    stage.quiet()
    reconcile(stage)
    time.sleep(2.2)  # two more scrapes, which see the end of the last answer
    return crowd, View(began, time.time(), 1.0)


def targets(stage: Stage) -> dict[str, str]:
    return {f"gateway-{number}": replica.admin_url.removeprefix("http://") for number, replica in enumerate(stage.replicas, 1)}


def prove(setting: Setting, day: Day) -> Verdict:
    verdict = Verdict()
    with scene(setting) as stage, ExitStack() as stack:
        prometheus = PrometheusServer(stage.folder / "prometheus", config_of(targets(stage)))
        stack.callback(prometheus.kill)
        prometheus.start()
        crowd, view = watched(stage, day, prometheus)
        count, problems = unanswered(prometheus.api, view)
        verdict.problems += problems
        ledger, shown = spent_by_ledger(stage), spent_by_panel(prometheus.api, view)
        for currency, nano in ledger.items():
            if nano:
                off = shown.get(currency, 0.0) * 1e9 / nano - 1
                verdict.require(abs(off) <= NEAR, f"the panel says {off:+.1%} of what the ledger has in {currency}")
                verdict.figures[f"panel_off_percent_{currency}"] = round(100 * off, 2)
        verdict.figures |= {"requests": crowd.seen.total(), "by_status": dict(crowd.seen), "queries": count, "unanswered": len(problems)}
    return verdict


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.panels", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (default 60)")
    parser.add_argument("--height", type=float, default=16.0, help="requests a second at the height of the day (default 16)")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--sqlite", action="store_true", help="one SQLite file, and no PostgreSQL")
    options = parser.parse_args(arguments)
    clean_up_when_told()
    setting = Setting(options.replicas, not options.sqlite)
    verdict = prove(setting, Day(options.seconds, options.height))
    for problem in verdict.problems:
        print(problem, file=sys.stderr)
    print(json.dumps({"ok": not verdict.problems, **verdict.figures}))
    return bool(verdict.problems)


if __name__ == "__main__":
    raise SystemExit(main())
