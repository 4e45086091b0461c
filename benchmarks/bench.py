"""`make bench`: Faregate beside nginx, LiteLLM proxy and Portkey; what its holds cost beside a bare relay; its ledgers and its limits.

Servers are measured before the same canned host: each is pinned to one core, the load generator and the host share the other.
What is not installed is left out, and said so. Prints tables and one JSON line; `--write` puts them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import holds, ledger
from benchmarks.asking import body, load, long_history, order
from benchmarks.behind import without_postgres, without_redis
from benchmarks.procs import resident_mb
from benchmarks.report import Found, page, plain
from benchmarks.servers import ROOT, SERVERS, Running, running, stub

BURST = 2000
PACE_MS = 20
PACED_CHUNKS = 200
PACED_STREAMS = 32
WARM = 2.0  # windows of warm-up before the first figure: one server's just-in-time compiler needs thousands of requests
HOLDS = (50, 100, 200, 400, 800)
HOLD_GAP_MS = 2.0 * PACE_MS
HOLD_TRIES = 3
TRIES = 2  # of each case of a ledger, of which the better counts


@dataclass(frozen=True)
class Row:
    """One server's figures; CPU is the server's own, of all its threads and children."""

    name: str
    cpu_us: float  # a small whole request
    rps: float  # 16 connections
    generator_busy: float  # the generator's share of its core during that run; the host takes about half as much again
    p50_ms: float  # one connection
    p99_ms: float
    large_us: float  # what a 256 KB prompt adds to a request
    burst_us: float  # a chunk of a 2,000-chunk burst
    paced_us: float  # a chunk of paced streams
    held: int  # paced streams at once whose chunks come in time
    idle_mb: float
    loaded_mb: float
    ready_s: float


def streams_held(target: Running) -> int:
    """The most paced streams, of the steps tried, whose chunks arrive within 40 ms of each other 99 times of 100."""
    held = 0
    for streams in HOLDS:
        # A pause of the whole machine is no verdict on a server: each step has another chance.
        if not any(_in_time(target, streams) for _ in range(HOLD_TRIES)):
            break
        held = streams
    return held


def _in_time(target: Running, streams: int) -> bool:
    result = load(target, order(100, PACE_MS), connections=streams, rounds=1, warm=0, chunks=100, spread=PACE_MS / 1000)
    return result.gap_p99_ms <= HOLD_GAP_MS and result.p50_ms <= 100 * PACE_MS * 1.1


def measure(target: Running, seconds: float) -> Row:
    load(target, body(), connections=16, seconds=WARM * seconds)
    small = load(target, body(), connections=16, seconds=seconds)
    alone = load(target, body(), seconds=seconds, warm=10)
    large = load(target, body(history=long_history()), connections=2, seconds=seconds, warm=2)
    burst = load(target, order(BURST, 0), seconds=seconds, warm=5, chunks=BURST)
    paced = load(
        target, order(PACED_CHUNKS, PACE_MS), connections=PACED_STREAMS, rounds=1, warm=0, chunks=PACED_CHUNKS, spread=PACE_MS / 1000
    )
    small_us = small.cpu / small.requests * 1e6
    return Row(
        name=target.name,
        cpu_us=small_us,
        rps=small.requests / small.seconds,
        generator_busy=small.own_cpu / small.seconds,
        p50_ms=alone.p50_ms,
        p99_ms=alone.p99_ms,
        large_us=large.cpu / large.requests * 1e6 - small_us,
        burst_us=burst.cpu / (burst.requests * BURST) * 1e6,
        paced_us=paced.cpu / (paced.requests * PACED_CHUNKS) * 1e6,
        held=streams_held(target),
        idle_mb=target.idle_mb,
        loaded_mb=resident_mb(target.pid) if target.pid else 0.0,
        ready_s=target.ready_seconds,
    )


def compare(only: Sequence[str], seconds: float) -> tuple[list[Row], list[str]]:
    """The rows of every server that is here, direct first, and one line for each that is not, or that failed."""
    missing = [f"{server.name}: not measured, {why}" for server in SERVERS if (why := server.missing())]
    rows: list[Row] = []
    with stub() as upstream, tempfile.TemporaryDirectory(prefix="faregate-bench-") as folder:
        rows.append(measure(Running("direct", upstream), seconds))
        for server in SERVERS:
            if server.missing() or (only and server.name.lower() not in only):
                continue
            print(f"bench: {server.name} …", file=sys.stderr, flush=True)
            try:
                with running(server, upstream, Path(folder) / server.name) as target:
                    rows.append(measure(target, seconds))
            except RuntimeError as error:
                missing.append(f"{server.name}: not measured, {error}")
    return rows, missing


def servers(seconds: float, only: Sequence[str], found: Found) -> None:
    rows, missing = compare(only, seconds)
    found.servers = [asdict(row) for row in rows]
    found.missing += missing


def costs(seconds: float, _only: Sequence[str], found: Found) -> None:
    rows, missing = holds.compare(seconds / 2)
    found.holds = [asdict(row) for row in rows]
    found.missing += missing


def ledgers(seconds: float, _only: Sequence[str], found: Found) -> None:
    """Holds on one hot budget, without any gateway around the ledger."""
    stores = ["sqlite"]
    if why := without_postgres():
        found.missing.append(f"the ledger in PostgreSQL: not measured, {why}")
    else:
        stores.append("postgresql")
    found.ledgers = [max((held(store, case, seconds) for _ in range(TRIES)), key=a_second) for store in stores for case in ledger.CASES]


def held(store: str, case: ledger.Case, seconds: float) -> dict[str, Any]:
    """One case of a ledger that is new and empty."""
    with ledger.place(store) as address:
        rate, latency, cpu, group = uvloop.run(ledger.measure(address, case, seconds))
    figures = {"a_second": int(rate.replace(",", "")), "latency": latency, "cpu_us": cpu, "group": group}
    return {"store": store, "what": case.name, "processes": case.processes, "callers": case.callers, **figures}


def a_second(figures: dict[str, Any]) -> int:
    return int(figures["a_second"])


def limits(seconds: float, _only: Sequence[str], found: Found) -> None:
    """What counting against limits costs, in memory and in Redis, without any gateway around it."""
    if why := without_redis():
        found.missing.append(f"limits: not measured, {why}")
        return
    argv = [sys.executable, "-m", "benchmarks.limits", "--requests", str(int(1000 * seconds)), "--rounds", "3", "--concurrency", "1", "50"]
    said = subprocess.run(argv, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=600).stdout
    found.limits = [json.loads(line) for line in said.splitlines()]


PARTS: dict[str, Callable[[float, Sequence[str], Found], None]] = {"servers": servers, "holds": costs, "ledgers": ledgers, "limits": limits}


def measured(parts: Sequence[str], seconds: float, only: Sequence[str]) -> Found:
    found = Found(load=[round(os.getloadavg()[1], 1)])
    for name in parts:
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        PARTS[name](seconds, only, found)
    found.load.append(round(os.getloadavg()[1], 1))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="of the servers, names with commas between them: nginx,faregate,litellm,portkey")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure; everything without it")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measured window")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(argv)
    if options.write and (options.parts != list(PARTS) or options.only):
        parser.error("--write needs all parts and all servers: the page is of one run")
    found = measured(options.parts, options.seconds, [name for name in options.only.lower().split(",") if name])
    print(plain(found))
    if options.write:
        (ROOT / "docs" / "performance.md").write_text(page(found, options.seconds))
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
