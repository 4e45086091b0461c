"""`make prove-kill`: mixed load on three gateways while they, Redis and PostgreSQL are killed; judged against the host's own bill.

    python -m proofs.kill [--seconds 60] [--store postgresql|sqlite] [--mutation NAME] [--seed N]

Prints one JSON line. Nothing billed may be without a hold, without a charge, or charged twice; what a client saw to its end is
charged exactly; every hold of a dead gateway is gone within a lease and a margin; every invariant holds. The lease is set short
(--lease, 3 s instead of the default 30), so that leases end many times in a run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from proofs.clients import Ask, Seen, ask_once, chat, session
from proofs.fleet import Fleet, Missing, Plan, Replica, clean_up_when_told, fleet, spooled
from proofs.verdict import Verdict, judge
from proofs.watch import Watch
from tests.harness import get_json

WORKERS: Final = 24
TIGHT: Final = 6
KEY: Final = "proof-key-0123456789"
ROUTE: Final = "deepseek-reasoner"
# A hold is gone a lease and so many seconds after its own lease at the latest: reapers look three times in each, and the database is
# away for a while.
MARGIN: Final = 5.0
# Restarts of servers, as parts of the run.
POSTGRES_RESTARTS: Final = (0.35, 0.7)
REDIS_RESTARTS: Final = (0.2, 0.5, 0.8)


@dataclass
class Run:
    """One run: what is decided by its seed, and what was seen."""

    fleet: Fleet
    seconds: float
    lease: float
    random: random.Random
    seen: list[Seen] = field(default_factory=list)
    kills: int = 0
    restarts: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    number: int = 0
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.fleet.evidence)

    @property
    def over(self) -> bool:
        return time.monotonic() - self.began > self.seconds

    @property
    def serving(self) -> list[Replica]:
        """As a load balancer knows them: who dies is found out by asking."""
        return [replica for replica in self.fleet.replicas if replica.serving]

    @property
    def part(self) -> float:
        return (time.monotonic() - self.began) / self.seconds


def plan(store: str, lease: float, mutation: str) -> Plan:
    """One team with a wide budget, and several with tight ones, that are used up one after the other."""
    teams = {"wide": _team("wide", "1000")} | {f"tight{number}": _team(f"tight{number}", "0.004") for number in range(TIGHT)}
    keys = {team: f"{KEY}-{team}" for team in teams}
    settings = {"FAREGATE_LEASE": str(lease), "FAREGATE_DRAIN": "10"}
    postgres = store == "postgresql"
    return Plan(teams, keys, "postgresql" if postgres else "sqlite", redis=postgres, mutation=mutation, settings=settings)


def _team(name: str, amount: str) -> str:
    return f"team: {name}\nroutes: ['*']\nbudgets: [{{budget: all, amount: '{amount}', currency: USD, period: total}}]\n"


# ---- load


def _ask(run: Run) -> Ask:
    """Whole or streamed, short or long; a quarter of the clients leave, a third have an Idempotency-Key, a third share a tight budget."""
    chance, run.number = run.random, run.number + 1
    tag = f"t{run.number}"
    stream = chance.random() < 0.6
    marker = f"answer={chance.randint(2, 60)} reasoning={chance.randint(2, 120)} pace={chance.choice((0, 1, 4, 10))} chunk=2"
    body = chat(ROUTE, tag, marker, stream=stream, max_tokens=200)
    team = f"tight{min(TIGHT - 1, int(run.part * TIGHT))}" if chance.random() < 0.35 else "wide"
    leaves = chance.randint(200, 8000) if stream and chance.random() < 0.3 else 0
    patience = chance.random() * 0.5 if not stream and chance.random() < 0.2 else 0.0
    idempotency = f"key-{tag}" if not (leaves or patience) and chance.random() < 0.5 else ""
    return Ask(tag, body, f"{KEY}-{team}", idempotency, leaves, patience)


async def _work(run: Run, client: aiohttp.ClientSession) -> None:
    while not run.over:
        await _client(run, client, _ask(run))


async def _client(run: Run, client: aiohttp.ClientSession, ask: Ask) -> None:
    """One client; one with an Idempotency-Key tries again, elsewhere, until it knows what became of its request."""
    while True:
        seen = await ask_once(client, run.random.choice(run.serving or run.fleet.replicas).url, ask)
        run.seen.append(seen)
        if seen.trouble or seen.status in (429, 503):
            await asyncio.sleep(0.05)
        if run.over or not ask.idempotency or seen.whole or (seen.status in (402, 409) and seen.code != "in_flight"):
            return
        await asyncio.sleep(0.1 + run.random.random() * 0.2)


# ---- chaos


async def _kill(run: Run) -> None:
    """Every second or so a random gateway dies and is started again at once; one lives, or nobody would be served."""
    starting: list[asyncio.Future[None]] = []
    while not run.over:
        await asyncio.sleep(0.5 + run.random.random())
        alive = run.serving
        if len(alive) > 1:
            replica = run.random.choice(alive)
            await asyncio.to_thread(replica.kill)
            run.kills += 1
            starting.append(asyncio.ensure_future(asyncio.to_thread(replica.start_again)))
    await asyncio.gather(*starting)


async def _restart_servers(run: Run) -> None:
    """Redis loses everything, PostgreSQL nothing; both are killed and told to stop in turn."""
    moments = [(part, "postgresql") for part in POSTGRES_RESTARTS if run.fleet.postgres]
    moments += [(part, "redis") for part in REDIS_RESTARTS if run.fleet.redis]
    moments.sort()
    for part, name in moments:
        await asyncio.sleep(max(0.0, (part - run.part) * run.seconds))
        await asyncio.to_thread(_restart, run, name)
        run.restarts[name] += 1


def _restart(run: Run, name: str) -> None:
    server = run.fleet.postgres if name == "postgresql" else run.fleet.redis
    assert server is not None
    if run.restarts[name] % 2:
        # PostgreSQL's fast shutdown: on SIGTERM it would wait for its clients to leave.
        server.stop(signal.SIGINT if name == "postgresql" else signal.SIGTERM)
    else:
        server.kill()
    time.sleep(0.5)
    server.start()


# ---- one run


async def _play(run: Run) -> float:
    """Load and chaos; then every gateway lives, and the seconds until no hold is open are returned."""
    watching = asyncio.ensure_future(run.watch.for_ever())
    async with session() as client:
        workers = [asyncio.ensure_future(_work(run, client)) for _ in range(WORKERS)]
        chaos = [asyncio.ensure_future(_kill(run)), asyncio.ensure_future(_restart_servers(run))]
        await asyncio.gather(*chaos)
        await asyncio.wait(workers, timeout=20)
        for worker in workers:
            worker.cancel()
    seconds = await run.watch.until_closed(4 * run.lease + 60)
    watching.cancel()
    return seconds


def prove(seconds: float, store: str, *, seed: int = 0, lease: float = 3.0, mutation: str = "") -> Verdict:
    """One run, and its verdict."""
    with fleet(plan(store, lease, mutation)) as running:
        print(f"kill: {seconds:.0f} s on {store} {mutation} …", file=sys.stderr, flush=True)
        run = Run(running, seconds, lease, random.Random(seed))
        return asyncio.run(_proved(run))


async def _proved(run: Run) -> Verdict:
    orphans = await _play(run)
    bills = await asyncio.to_thread(lambda: _bills(run.fleet))
    verdict = await judge(run.fleet, run.seen, bills)
    verdict.require(not run.watch.broken, f"the bound: {run.watch.broken[:3]}")
    verdict.require(orphans <= run.lease + MARGIN, f"open holds were gone only {orphans:.1f} s after the end")
    verdict.require(run.watch.late <= run.lease + MARGIN, f"a hold was open {run.watch.late:.1f} s beyond its lease")
    verdict.figures |= {
        "kills": run.kills,
        "restarts": dict(run.restarts),
        "looks": run.watch.looks,
        "orphans_gone_seconds": round(orphans, 1),
        "longest_beyond_lease_seconds": round(run.watch.late, 1),
        "lease_seconds": run.lease,
    }
    await run.fleet.evidence.close()
    exits = [replica.close() for replica in run.fleet.replicas]
    verdict.require(not any(exits), f"gateways ended with {exits}")
    waiting = spooled(run.fleet.replicas)
    verdict.require(waiting == 0, f"{waiting} charges wait in spools")
    verdict.figures["spooled"] = waiting
    problems = run.fleet.verify()
    verdict.require(not problems, f"faregate verify: {problems[:3]}")
    return verdict


def _bills(running: Fleet) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = get_json(f"{running.host.root}/_emulator/bill?wait=5")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-kill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--mutation", default="", help="with this planted fault, of proofs/mutations.py: SQLite only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    clean_up_when_told()
    try:
        verdict = prove(options.seconds, options.store, seed=options.seed, lease=options.lease, mutation=options.mutation)
    except Missing as missing:
        print(f"prove-kill: {missing}", file=sys.stderr)
        return 2
    for problem in verdict.problems:
        print(f"prove-kill: {problem}", file=sys.stderr)
    print(json.dumps({"proof": "kill", "ok": verdict.ok, "store": options.store, "seconds": options.seconds, **verdict.figures}))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
