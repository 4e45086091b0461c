"""`make prove-bound`: one budget, many streams, three gateways; never beyond the bound, and all of it usable.

    python -m proofs.bound [--store postgresql|sqlite] [--only streams|burst] [--chunk N] [--scale PERCENT] [--no-peer]

`streams`: 128 clients on three gateways, each with request after request, against a budget worth 200 answers of R1's mean length;
`burst`: 1,000 requests at once against one worth 400 answers of R1-0528's. Lengths are drawn from a heavy tail; half of the answers are
streamed and half whole. The host writes as fast as the machine serves it: what three gateways can pass on is measured first, and most of
that is asked for. (A host that writes faster than it is read fills the kernel's buffers: that would be on its bill, whoever stops it.)
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp

from gateway.emulator.output import Wish, lengths
from proofs import peer
from proofs.clients import Ask, Seen, ask_once, chat, session
from proofs.fleet import Fleet, Missing, Plan, clean_up_when_told, fleet
from proofs.model import Crowd, compared, percents
from proofs.verdict import Verdict
from proofs.watch import Watch
from tests.harness import get_json, post_json

KEY: Final = "proof-key-0123456789"
BUDGET: Final = "FROM budget WHERE team = 'proof'"
WARM_KEY: Final = "warm-key-0123456789"
ROUTE: Final = "deepseek-reasoner"
# R1's prices, nano-USD a token; about what the prompt of these requests has.
INPUT, OUTPUT, PROMPT = 550, 2190, 40
MOST_OVERSHOOT: Final = 0.03
LEAST_USABLE: Final = 98.5
# How much of what the machine can pass on is asked for, and how that is measured.
LOAD: Final = 0.2
WARM_STREAMS, WARM_TOKENS, WARM_SECONDS = 48, 30_000, 5.0


@dataclass(frozen=True)
class Scenario:
    """`patient` clients have request after request until the budget is used up; else each has one. `most`: tokens of one answer."""

    name: str
    clock: str
    mean: int
    answers: int
    streams: int
    requests: int
    patient: bool
    max_tokens: int
    most: int
    chunk: int

    @property
    def limit(self) -> int:
        """The budget in nano-USD."""
        return self.answers * (self.mean * OUTPUT + PROMPT * INPUT)

    def scaled(self, percent: int) -> Scenario:
        """A shorter form: fewer streams, requests and answers; the lengths stay."""
        fewer = {name: max(3, getattr(self, name) * percent // 100) for name in ("answers", "streams", "requests")}
        return replace(self, **fewer)


SCENARIOS: Final = (
    Scenario("streams", "2025-02-03T12:00:00Z", 12_000, 200, 128, 1_000, True, 8_192, 40_960, 3),
    Scenario("burst", "2025-06-02T12:00:00Z", 23_000, 400, 1_000, 1_000, False, 65_000, 65_000, 3),
)


def length(scenario: Scenario, seed: int) -> int:
    """Output tokens of one answer, when nobody stops it: what the emulated host will draw."""
    wish = lengths(Wish(mean=scenario.mean), seed)
    if scenario.most == scenario.max_tokens:
        return min(wish.reasoning + wish.answer, scenario.most)
    reasoning = min(wish.reasoning, scenario.most - scenario.max_tokens)
    return reasoning + (min(wish.answer, scenario.max_tokens) if reasoning == wish.reasoning else 0)


@dataclass
class Run:
    """One run of a scenario."""

    scenario: Scenario
    fleet: Fleet
    watch: Watch
    warm_seconds: float = WARM_SECONDS
    next: int = 0
    running: int = 0
    seen: list[Seen] = field(default_factory=list)

    def ask(self) -> Ask:
        """The next request; every other one wants its answer whole."""
        number, self.next = self.next, self.next + 1
        scenario = self.scenario
        marker = f"mean={scenario.mean} seed={number} chunk={scenario.chunk} pace=0.001"
        body = chat(ROUTE, f"t{number}", marker, stream=number % 2 == 0, max_tokens=scenario.max_tokens)
        return Ask(f"t{number}", body, KEY)


async def _calibrate(run: Run, client: aiohttp.ClientSession) -> float:
    """Tokens a second that reach the clients of three gateways when the host writes without a pause."""
    marker = f"reasoning={WARM_TOKENS} answer=1 chunk={run.scenario.chunk} pace=0.001"
    sizes = [0] * WARM_STREAMS

    async def one(number: int) -> None:
        body = chat(ROUTE, f"w{number}", marker, stream=True, max_tokens=run.scenario.max_tokens)
        headers = {"authorization": f"Bearer {WARM_KEY}"}
        async with client.post(run.fleet.replicas[number % len(run.fleet.replicas)].url, json=body, headers=headers) as answer:
            async for piece in answer.content.iter_any():
                sizes[number] += piece.count(b"data: {")

    tasks = [asyncio.ensure_future(one(number)) for number in range(WARM_STREAMS)]
    await asyncio.sleep(1)
    before, began = sum(sizes), time.monotonic()
    await asyncio.wait(tasks, timeout=run.warm_seconds)
    speed = (sum(sizes) - before) * run.scenario.chunk / (time.monotonic() - began)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await run.watch.until_closed(30)
    return speed


async def _client(run: Run, client: aiohttp.ClientSession, number: int) -> None:
    """One client of three gateways: request after request, and again while others run that may give something back."""
    url = run.fleet.replicas[number % len(run.fleet.replicas)].url
    while run.next < run.scenario.requests:
        ask = run.ask()
        while (await _one(run, client, url, ask)).status == 402:
            if not run.scenario.patient or not run.running:
                return
            await asyncio.sleep(0.5)
        if not run.scenario.patient:
            return


async def _one(run: Run, client: aiohttp.ClientSession, url: str, ask: Ask) -> Seen:
    run.running += 1
    try:
        seen = await ask_once(client, url, ask)
    finally:
        run.running -= 1
    run.seen.append(seen)
    return seen


async def _progress(run: Run) -> None:
    while True:
        await asyncio.sleep(10)
        ended = Counter(f"{one.status} {one.finish or one.code or one.trouble}" for one in run.seen)
        rows = await run.fleet.evidence.read(f"SELECT spent, held, lim {BUDGET}")
        print(f"bound: {run.scenario.name}: {run.running} running, {dict(ended)}, {rows}", file=sys.stderr, flush=True)


async def _play(run: Run) -> tuple[float, float]:
    """Tokens a second that the machine serves, and the seconds that the run took."""
    tasks = [asyncio.ensure_future(run.watch.for_ever(0.02)), asyncio.ensure_future(_progress(run))]
    async with session() as client:
        speed = await _calibrate(run, client)
        asked = round(LOAD * speed)
        await asyncio.to_thread(post_json, f"{run.fleet.host.root}/_emulator/speed", {"tokens_per_second": asked})
        print(f"bound: {run.scenario.name}: {speed:.0f} tokens/s are passed on, {asked} are asked for", file=sys.stderr, flush=True)
        began = time.monotonic()
        await asyncio.gather(*(_client(run, client, number) for number in range(run.scenario.streams)))
    seconds = time.monotonic() - began
    await run.watch.until_closed(60)
    for task in tasks:
        task.cancel()
    return speed, seconds


def _team(name: str, amount: str) -> str:
    return f"team: {name}\nroutes: ['*']\nbudgets: [{{budget: all, amount: '{amount}', currency: USD, period: total}}]\n"


def prove(scenario: Scenario, store: str, warm_seconds: float = WARM_SECONDS) -> Verdict:
    """One scenario, and its verdict."""
    postgres = store == "postgresql"
    teams = {"proof": _team("proof", f"{scenario.limit / 1e9:.9f}"), "warm": _team("warm", "1000")}
    plan = Plan(teams, {"proof": KEY, "warm": WARM_KEY}, "postgresql" if postgres else "sqlite", redis=postgres, clock=scenario.clock)
    with fleet(plan) as running:
        print(f"bound: {scenario.name}: {scenario.streams} clients, {scenario.limit / 1e9} USD, {store} …", file=sys.stderr, flush=True)
        verdict = asyncio.run(_proved(Run(scenario, running, Watch(running.evidence), warm_seconds)))
        for replica in running.replicas:
            replica.close()
        problems = running.verify()
        verdict.require(not problems, f"faregate verify: {problems[:3]}")
    return verdict


async def _proved(run: Run) -> Verdict:
    speed, seconds = await _play(run)
    bills: list[dict[str, Any]] = await asyncio.to_thread(lambda: get_json(f"{run.fleet.host.root}/_emulator/bill?wait=5"))
    bills = [bill for bill in bills if bill.get("tag", "").startswith("t")]
    rows = await run.fleet.evidence.read(f"SELECT lim, spent, held, peak, overrun {BUDGET}")
    await run.fleet.evidence.close()
    verdict = Verdict()
    verdict.require(len(rows) == 1, f"{len(rows)} budgets were claimed instead of one")
    verdict.require(not run.watch.broken, f"the bound: {run.watch.broken[:3]}")
    verdict.figures = {"clients": run.scenario.streams, "chunk_tokens": run.scenario.chunk, "seconds": round(seconds, 1)}
    verdict.figures |= {"served_tokens_per_second": round(speed)}
    if rows:
        _money(verdict, run, rows[0], bills)
    _answers(verdict, run.seen)
    return verdict


def _money(verdict: Verdict, run: Run, row: tuple[int, ...], bills: list[dict[str, Any]]) -> None:
    limit, spent, held, peak, overrun = row
    billed = sum(bill["nano"] or 0 for bill in bills)
    got = percents(spent, limit)
    verdict.require(limit == run.scenario.limit, f"the limit is {limit} instead of {run.scenario.limit}")
    verdict.require(held == 0, f"{held} nano are still held")
    verdict.require(got["overshoot_percent"] <= MOST_OVERSHOOT, f"{got['overshoot_percent']} % beyond the budget")
    verdict.require(got["usable_percent"] >= LEAST_USABLE, f"only {got['usable_percent']} % of the budget was usable")
    tokens = sum(bill["output"] for bill in bills)
    verdict.figures |= {"limit_nano": limit, "spent_nano": spent, "peak_nano": peak, "overrun_nano": overrun, **got}
    verdict.figures |= {"billed_nano": billed, "billed_beyond_budget_percent": round(max(0, billed - limit) / limit * 100, 3)}
    verdict.figures |= {"billed_beyond_charged_percent": round((billed - spent) / limit * 100, 3), "output_tokens": tokens}
    verdict.figures |= {"looks": run.watch.looks}


def _answers(verdict: Verdict, seen: Sequence[Seen]) -> None:
    """Every answer ends well: streamed or whole, finished or stopped at the limit."""
    broken = [one for one in seen if one.status == 200 and not (one.whole and one.finish in ("stop", "length"))]
    strange = [one for one in seen if one.status not in (200, 402)]
    verdict.require(not broken, f"{len(broken)} answers did not end well: {[(one.ask.tag, one.finish, one.trouble) for one in broken[:3]]}")
    verdict.require(not strange, f"{len(strange)} other answers: {[(one.status, one.code, one.trouble) for one in strange[:3]]}")
    kinds = Counter((one.ask.stream, one.finish or "refused") for one in seen)
    verdict.figures |= {"answers": {f"{'streamed' if stream else 'whole'} {end}": count for (stream, end), count in sorted(kinds.items())}}


def _others(scenario: Scenario) -> dict[str, Any]:
    """The same requests under other rules, by the model; and the peer, where it is installed."""
    drawn = [length(scenario, seed) for seed in range(scenario.requests)]
    crowd = Crowd(drawn, scenario.streams, scenario.patient, PROMPT * INPUT, OUTPUT, scenario.most)
    return {"model": compared(crowd, scenario.limit), "mean_tokens_drawn": sum(drawn) // len(drawn)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-bound", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--only", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--chunk", type=int, help="tokens in one chunk of the host")
    parser.add_argument("--scale", type=int, default=100, help="per cent of the streams, requests and answers")
    parser.add_argument("--no-peer", action="store_true", help="without hardcap")
    options = parser.parse_args(argv)
    clean_up_when_told()
    chosen = [scenario.scaled(options.scale) for scenario in SCENARIOS if options.only in (None, scenario.name)]
    if options.chunk:
        chosen = [replace(scenario, chunk=options.chunk) for scenario in chosen]
    try:
        found = {scenario.name: prove(scenario, options.store) for scenario in chosen}
    except Missing as missing:
        print(f"prove-bound: {missing}", file=sys.stderr)
        return 2
    for name, verdict in found.items():
        for problem in verdict.problems:
            print(f"prove-bound: {name}: {problem}", file=sys.stderr)
    ok = all(verdict.ok for verdict in found.values())
    figures = {scenario.name: found[scenario.name].figures | _others(scenario) for scenario in chosen}
    beside = (
        {} if options.no_peer else {"hardcap": peer.measure(chosen[0], [length(chosen[0], seed) for seed in range(chosen[0].requests)])}
    )
    print(json.dumps({"proof": "bound", "ok": ok, "store": options.store, **figures, **beside}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
