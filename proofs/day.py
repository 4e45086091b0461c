"""`make prove-day`: a day of conversations over real HTTP costs what the simulator said it would, and the ledger has every host's bill.

    python -m proofs.day [--seed N] [--agents N] [--chats N] [--hours FROM:TO] [--rate N] [--no-engine] [--bound PERCENT]

Prints one JSON line. Four emulated hosts with prices, windows, caches and failures of their own, and a real local engine; one gateway,
which is told prices and what hosts say of their caches, and has to find out the rest. All clocks run --rate times as fast.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gateway.clock import parse_instant
from gateway.demo.engine import available
from gateway.emulator.tokens import Tokens, Vocabulary
from gateway.money import NANO, decimal_text
from gateway.policies import load
from gateway.simulate.menus import Market, Menu
from gateway.simulate.replay import Bill
from gateway.simulate.trace import Raw
from proofs import readers
from proofs.conversations import conversations, trace
from proofs.day_books import Books, books_of
from proofs.day_play import LOCAL, Played, Scene, engine, play, stage
from proofs.day_predict import LOCAL_MENU, MENU, Told, foretold, others, policies_of_a_day
from proofs.fleet import clean_up_when_told
from proofs.verdict import Verdict

BEGIN: Final = parse_instant("2026-11-18T00:00:00Z")
TEAM: Final = "day"
KEY: Final = "day-key-0123456789"
READERS: Final = 2
# Replays of the trace with other luck of the hosts: their mean is what was foretold.
LUCKS: Final = 5
# Seconds of the day by which half of the requests may be late: pauses of agents are as short as this.
LATE: Final = 60.0


@dataclass(frozen=True)
class Day:
    """How much of a day, how fast, and how far its bill may be from what was foretold (per cent)."""

    seed: int = 1
    agents: int = 45
    chats: int = 330
    hours: tuple[float, float] = (0.0, 24.0)
    rate: int = 600
    questions: int = 10
    cuts: int = 6
    engine: bool = True
    bound: float = 5.0
    vocabulary: Vocabulary = "deepseek"

    @property
    def seconds(self) -> tuple[float, float]:
        return 3600 * self.hours[0], 3600 * self.hours[1]

    def moments(self) -> list[float]:
        """When answers break off."""
        first, last = self.seconds
        return [first + (last - first) * (number + 0.5) / self.cuts for number in range(self.cuts)]


@dataclass(frozen=True)
class Forecast:
    """What the day should cost: the router's bills under several lucks, the engine's, and those of other ways."""

    router: Sequence[Told]
    engine: int
    others: Sequence[Bill]

    @property
    def nano(self) -> int:
        return sum(told.bill.nano for told in self.router) // len(self.router) + self.engine


def prove(day: Day) -> Verdict:
    """One day, foretold and then lived."""
    with TemporaryDirectory(prefix="faregate-day-") as name:
        return _prove(day, Path(name))


def _prove(day: Day, folder: Path) -> Verdict:
    policies = policies_of_a_day(folder)
    market = Market(load(policies), BEGIN, {})
    menu = market.menu(MENU)
    found = conversations(day.seed, day.agents, day.chats, day.hours)
    raws = trace(found, Tokens(day.vocabulary))
    with engine(folder) if day.engine else nullcontext() as url:
        reading = readers.readers(day.seed, READERS, day.questions, day.hours) if url else []
        own = foretold(readers.trace(reading, url), market.menu(LOCAL_MENU), BEGIN, (0,))[0].bill.nano if url else 0
        forecast = Forecast(foretold(raws, menu, BEGIN, range(LUCKS)), own, others(raws, menu, BEGIN))
        _say(f"day: {len(raws)} requests in {len(found)} conversations, foretold {decimal_text(forecast.nano)} USD …")
        scene = Scene(BEGIN, day.seconds[0], day.rate, policies, menu.sellers, day.seed, day.vocabulary)
        with stage(scene, folder, {TEAM: KEY}, url) as running:
            played = asyncio.run(play(running, found, reading, day.moments(), KEY))
    books = books_of(played, policies)
    verdict = Verdict()
    _judge_bill(verdict, day, forecast, books)
    _judge_play(verdict, raws, played)
    verdict.problems += books.problems
    verdict.figures |= books.figures
    _tell(forecast, books, menu)
    seen = ", ".join(f"{answer}: {count}" for answer, count in played.seen.most_common())
    _say(f"answers {seen}; {books.figures['fallbacks']} by another host than the first; {verdict.figures['difference_percent']:+.2f} %")
    return verdict


# ---- the verdict


def _judge_bill(verdict: Verdict, day: Day, forecast: Forecast, books: Books) -> None:
    off = 100 * (books.billed - forecast.nano) / forecast.nano
    verdict.require(abs(off) <= day.bound, f"the day cost {decimal_text(books.billed)} USD, {off:+.2f} % of what was foretold")
    lucks = [told.bill.nano + forecast.engine for told in forecast.router]
    verdict.figures |= {
        "foretold_nano": forecast.nano,
        "foretold_least_nano": min(lucks),
        "foretold_most_nano": max(lucks),
        "billed_nano": books.billed,
        "charged_nano": books.charged,
        "difference_percent": round(off, 2),
        "foretold_by_strategy": {bill.name: bill.nano for bill in forecast.others},
    }
    cheapest = min(bill.nano for bill in forecast.others if bill.name in ("list price", "myopic", "random"))
    verdict.require(books.billed < cheapest, "a simpler way of choosing would have cost less")


def _judge_play(verdict: Verdict, raws: Sequence[Raw], played: Played) -> None:
    """Whether what was played is the trace: the same prompts, at their times, with the answers that were asked for."""
    wanted = Counter(raw.prompt for raw in raws)
    got = Counter(row["cache_hit"] + row["cache_miss"] for row in played.rows if row["status"] == "ok" and row["route"] != LOCAL)
    strange, unserved = sum((got - wanted).values()), sum((wanted - got).values())
    late = sorted(played.late)
    verdict.require(
        late[len(late) // 2] <= LATE, f"half of the requests came {late[len(late) // 2]:.0f} s late: play it slower, with --rate"
    )
    verdict.require(not strange, f"{strange} prompts have another length than in the trace")
    verdict.require(unserved <= len(raws) // 100, f"{unserved} of {len(raws)} requests of the trace have no answer")
    verdict.require(not played.other, f"{played.other} answers have another text than was asked for")
    verdict.figures |= {"requests": len(raws), "unserved": unserved, "answers": dict(played.seen.most_common())}
    verdict.figures |= {"late_seconds": {"half": round(late[len(late) // 2], 1), "95_percent": round(late[len(late) * 95 // 100], 1)}}


# ---- what is told


def _tell(forecast: Forecast, books: Books, menu: Menu) -> None:
    rows = [(bill.name, bill.nano, "foretold") for bill in forecast.others]
    rows += [("the router", forecast.nano - forecast.engine, f"foretold: the mean of {len(forecast.router)} lucks of the hosts")]
    rows += [("the router", books.billed - books.by_host[LOCAL], "billed by the hosts")]
    rows += [("the engine", forecast.engine, "foretold"), ("the engine", books.by_host[LOCAL], "billed, by its own count")]
    for name, nano, note in rows:
        _say(f"{name:20}{nano / NANO:>12.6f} USD  {note}" if nano else f"{name:20}{'-':>12}")
    _say(f"{'host':12}{'requests':>10}{'foretold':>10}{'hit rate':>10}{'foretold':>10}{'simulated':>11}{'failed':>8}")
    for seller in menu.sellers:
        name = seller.name
        served = sum(told.served[name] for told in forecast.router) / len(forecast.router)
        hit = _share(sum(told.hit[name] for told in forecast.router), sum(told.prompt[name] for told in forecast.router))
        mine = books.hosts[name]
        _say(f"{name:12}{mine.requests:>10}{served:>10.0f}{mine.hit_rate:>10.3f}{mine.foretold_rate:>10.3f}{hit:>11.3f}{mine.failed:>8}")


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _hours(text: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    return float(first), float(last)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Day.seed)
    parser.add_argument("--agents", type=int, default=Day.agents, help="conversations of agents")
    parser.add_argument("--chats", type=int, default=Day.chats, help="conversations of people")
    parser.add_argument("--hours", type=_hours, default=Day.hours, metavar="FROM:TO", help="of the day, in UTC")
    parser.add_argument("--rate", type=int, default=Day.rate, help="how many seconds of the day pass in a second")
    parser.add_argument("--no-engine", action="store_true", help="without the local engine")
    parser.add_argument("--bound", type=float, default=Day.bound, help="per cent by which the bill may differ")
    options = parser.parse_args(argv)
    clean_up_when_told()
    wanted = not options.no_engine
    if wanted and not available():
        _say("day: the extra `local` is not installed; the engine is left out")
    day = Day(options.seed, options.agents, options.chats, options.hours, options.rate, engine=wanted and available(), bound=options.bound)
    verdict = prove(day)
    for problem in verdict.problems:
        print(f"prove-day: {problem}", file=sys.stderr)
    print(json.dumps({"proof": "day", "ok": verdict.ok, "seed": day.seed, "rate": day.rate, "engine": day.engine, **verdict.figures}))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
