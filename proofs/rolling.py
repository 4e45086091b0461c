"""`make prove-rolling`: three gateways are restarted one after the other under load, and nobody notices.

    python -m proofs.rolling [--rounds 2] [--store postgresql|sqlite] [--seed N]

As a rollout does it: the load balancer stops sending to a gateway, SIGTERM follows a moment later, streams end in their time, the
gateway starts again and is sent to once /readyz says so. Every answer must come whole, every bill must be charged exactly, nothing
may be estimated, left in a spool, or held. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from proofs.clients import Ask, Seen, ask_once, chat, session
from proofs.fleet import Fleet, Missing, Plan, Replica, clean_up_when_told, fleet, spooled
from proofs.verdict import Verdict, judge
from tests.harness import get_json

WORKERS: Final = 24
KEY: Final = "proof-key-0123456789"
ROUTE: Final = "deepseek-reasoner"
# Seconds between the last new request and SIGTERM: the chart's preStop has more.
GRACE: Final = 0.3
# Seconds of load between two restarts.
REST: Final = 0.5


@dataclass
class Run:
    """One run: what is decided by its seed, and what was seen."""

    fleet: Fleet
    rounds: int
    random: random.Random
    seen: list[Seen] = field(default_factory=list)
    under_way: dict[str, int] = field(default_factory=dict)
    drained: list[tuple[int, float]] = field(default_factory=list)
    number: int = 0
    over: bool = False

    @property
    def serving(self) -> list[Replica]:
        return [replica for replica in self.fleet.replicas if replica.serving]


def plan(store: str) -> Plan:
    """Two teams, one of them on a budget."""
    team = "team: {name}\nroutes: ['*']\nbudgets: [{{budget: all, amount: '{amount}', currency: USD, period: total}}]\n"
    teams = {name: team.format(name=name, amount=amount) for name, amount in (("wide", "1000"), ("narrow", "50"))}
    keys = {team: f"{KEY}-{team}" for team in teams}
    postgres = store == "postgresql"
    return Plan(teams, keys, "postgresql" if postgres else "sqlite", redis=postgres, settings={"FAREGATE_DRAIN": "15"})


def _ask(run: Run) -> Ask:
    """Whole or streamed, for up to a few seconds."""
    chance, run.number = run.random, run.number + 1
    tag = f"r{run.number}"
    marker = f"answer={chance.randint(5, 150)} reasoning={chance.randint(5, 150)} pace={chance.choice((0, 2, 10))} chunk=2"
    body = chat(ROUTE, tag, marker, stream=chance.random() < 0.6, max_tokens=400)
    return Ask(tag, body, f"{KEY}-{chance.choice(('wide', 'narrow'))}")


async def _work(run: Run, client: aiohttp.ClientSession) -> None:
    while not run.over:
        replica = run.random.choice(run.serving)
        run.under_way[replica.name] = run.under_way.get(replica.name, 0) + 1
        try:
            run.seen.append(await ask_once(client, replica.url, _ask(run)))
        finally:
            run.under_way[replica.name] -= 1


async def _roll(run: Run) -> None:
    for _ in range(run.rounds):
        for replica in run.fleet.replicas:
            await asyncio.sleep(REST)
            replica.serving = False
            await asyncio.sleep(GRACE)
            open_then, began = run.under_way.get(replica.name, 0), time.monotonic()
            status = await asyncio.to_thread(replica.close)
            run.drained.append((open_then, time.monotonic() - began))
            if status:
                raise AssertionError(f"{replica.name} ended with {status}")
            await asyncio.to_thread(replica.start)
    await asyncio.sleep(REST)


def prove(rounds: int, store: str, *, seed: int = 0) -> Verdict:
    """One run, and its verdict."""
    with fleet(plan(store)) as running:
        return asyncio.run(_proved(Run(running, rounds, random.Random(seed))))


async def _proved(run: Run) -> Verdict:
    async with session() as client:
        workers = [asyncio.ensure_future(_work(run, client)) for _ in range(WORKERS)]
        try:
            await _roll(run)
        finally:
            run.over = True
        await asyncio.gather(*workers)
    bills: list[dict[str, Any]] = await asyncio.to_thread(lambda: get_json(f"{run.fleet.host.root}/_emulator/bill?wait=5"))
    verdict = await judge(run.fleet, run.seen, bills)
    broken = [one for one in run.seen if not one.whole]
    verdict.require(not broken, f"{len(broken)} answers did not come whole: {broken[:2]}")
    verdict.require(not verdict.figures["estimated"], f"{verdict.figures['estimated']} charges rest on an estimate")
    verdict.require(any(count for count, _ in run.drained), "no gateway had a request under way when it was told to end")
    await run.fleet.evidence.close()
    exits = [replica.close() for replica in run.fleet.replicas]
    verdict.require(not any(exits), f"gateways ended with {exits}")
    waiting = spooled(run.fleet.replicas)
    verdict.require(waiting == 0, f"{waiting} charges wait in spools")
    problems = run.fleet.verify()
    verdict.require(not problems, f"faregate verify: {problems[:3]}")
    verdict.figures |= {
        "restarts": len(run.drained),
        "requests_drained": sum(count for count, _ in run.drained),
        "longest_drain_seconds": round(max(seconds for _, seconds in run.drained), 1),
        "spooled": waiting,
    }
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-rolling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="restarts of each gateway")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    clean_up_when_told()
    try:
        verdict = prove(options.rounds, options.store, seed=options.seed)
    except Missing as missing:
        print(f"prove-rolling: {missing}", file=sys.stderr)
        return 2
    for problem in verdict.problems:
        print(f"prove-rolling: {problem}", file=sys.stderr)
    print(json.dumps({"proof": "rolling", "ok": verdict.ok, "store": options.store, "rounds": options.rounds, **verdict.figures}))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
