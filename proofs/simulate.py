"""`make prove-simulate`: thousands of seeded histories of gateways over one ledger; prints one JSON line, and the seeds that failed.

python -m proofs.simulate [--seeds 5000] [--start 0] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

import apsw

from proofs.history import History, judge, run
from proofs.simloop import SimLoop
from proofs.tables import ledger_tables

CHUNK = 50
SHOWN = 20


@dataclass
class Tally:
    """What some seeds came to: `failed` has what each broke."""

    seeds: int = 0
    commits: int = 0
    failed: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.commits += other.commits
        self.failed |= other.failed


@cache
def _stage() -> tuple[apsw.Connection, SimLoop]:
    """One database and one loop for every history of this process: making them would cost more than playing it."""
    return ledger_tables(), SimLoop()


def play(seed: int) -> Tally:
    """One history; the same seed plays the same one."""
    connection, loop = _stage()
    connection.execute("BEGIN")
    history = History(connection.cursor(), random.Random(f"history {seed}"), loop)
    try:
        loop.play(seed, run(history))
        broken = judge(history)
    except Exception as problem:  # whatever a broken ledger makes of it, the seed failed
        broken = [*history.audit.broken, f"{type(problem).__name__}: {problem}"]
    finally:
        connection.execute("ROLLBACK")
    return Tally(1, history.audit.commits, {seed: broken} if broken else {})


def play_all(seeds: Sequence[int]) -> Tally:
    total = Tally()
    for seed in seeds:
        total.add(play(seed))
    return total


def simulate(seeds: Sequence[int], workers: int | None = None) -> Tally:
    """All of them, on every core."""
    total = Tally()
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for done in pool.map(play_all, chunks):
            total.add(done)
    return total


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000, help="how many histories")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one alone")
    options = parser.parse_args(argv)
    began = time.monotonic()
    seeds = range(options.start, options.start + options.seeds)
    print(f"simulate: {len(seeds)} histories …", file=sys.stderr, flush=True)
    total = play(options.seed) if options.seed is not None else simulate(seeds)
    for seed, broken in list(total.failed.items())[:SHOWN]:
        print(f"seed {seed} failed; replay it with --seed {seed}", *chain(broken), sep="\n  ", file=sys.stderr)
    figures = {"seeds": total.seeds, "commits": total.commits, "failed": sorted(total.failed)[:SHOWN], "failures": len(total.failed)}
    print(json.dumps({"proof": "simulate", "ok": not total.failed, **figures, "seconds": round(time.monotonic() - began, 1)}))
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
