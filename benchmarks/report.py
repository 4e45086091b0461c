"""The benchmark's words: its tables, what is required with a verdict on each, and the page docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclass
class Found:
    """What one run has measured; a part that was not asked for is empty."""

    servers: list[Figures] = field(default_factory=list)
    holds: list[Figures] = field(default_factory=list)
    ledgers: list[Figures] = field(default_factory=list)
    limits: list[Figures] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    load: list[float] = field(default_factory=list)  # the machine's load average of five minutes, before and after


SERVERS = (
    "server",
    "CPU per small request, µs",
    "requests per second",
    "added p50 / p99, ms",
    "256 KB prompt adds CPU, ms",
    "CPU per burst chunk, µs",
    "CPU per paced chunk, µs",
    "paced streams held",
    "memory idle / after load, MB",
    "ready after, s",
)
HOLDS = (
    "server",
    "CPU per small request, µs",
    "times a bare relay's",
    "requests per second",
    "added p50 / p99, ms",
    "CPU per streamed answer, µs",
    "holds stretched per streamed answer",
    "disk flushes per request at 1 / 16 / 64 connections",
    "CPU of the database per request, µs",
    "CPU of Redis per request, µs",
)
LEDGERS = ("store", "what", "processes", "at once", "a second", "hold p50 / p99, ms", "CPU, µs", "operations a commit")
LIMITS = ("limits", "at once", "requests a second", "CPU, µs", "CPU of Redis, µs", "wait p50 / p99, µs")


def _server(row: Figures, direct: Figures) -> list[str]:
    """The direct row has no server of its own, so no CPU, memory or start."""
    if row is direct:
        return ["direct", "-", f"{row['rps']:,.0f}", "-", "-", "-", "-", str(row["held"]), "-", "-"]
    return [
        row["name"],
        f"{row['cpu_us']:,.0f}",
        f"{row['rps']:,.0f}",
        _added(row, direct),
        f"{row['large_us'] / 1000:.2f}",
        f"{row['burst_us']:.2f}",
        f"{row['paced_us']:.1f}",
        str(row["held"]) if row["held"] else "fewer than 50",
        f"{row['idle_mb']:.0f} / {row['loaded_mb']:.0f}",
        f"{row['ready_s']:.2f}",
    ]


def _added(row: Figures, direct: Figures) -> str:
    return f"{row['p50_ms'] - direct['p50_ms']:.2f} / {row['p99_ms'] - direct['p99_ms']:.2f}"


def _hold(row: Figures, direct: Figures, relay: Figures | None) -> list[str]:
    return [
        row["name"],
        f"{row['cpu_us']:,.0f}",
        f"{row['cpu_us'] / relay['cpu_us']:.1f}" if relay else "-",
        f"{row['rps']:,.0f}",
        _added(row, direct),
        f"{row['stream_us']:,.0f}",
        _maybe(row["extends"], 2),
        " / ".join(f"{count:.2f}" for count in row["flushes"].values()) or "-",
        _maybe(row["database_us"], 0),
        _maybe(row["redis_us"], 0),
    ]


def _maybe(figure: float | None, places: int) -> str:
    return "-" if figure is None else f"{figure:,.{places}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """`words`: how many of the first columns are no figures."""
    lines = [columns, ["---"] * words + ["--:"] * (len(columns) - words), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tables(found: Found) -> dict[str, str]:
    """The tables of the parts that were measured, by part."""
    made: dict[str, str] = {}
    if found.servers:
        made["servers"] = _table(SERVERS, [_server(row, found.servers[0]) for row in found.servers])
    if found.holds:
        direct, *rows = found.holds
        relay = next((row for row in rows if row["name"] == "bare relay"), None)
        made["holds"] = _table(HOLDS, [_hold(row, direct, relay) for row in rows])
    if found.ledgers:
        names = ("store", "what", "processes", "callers", "a_second", "latency", "cpu_us", "group")
        made["ledgers"] = _table(LEDGERS, [[_figure(row[name]) for name in names] for row in found.ledgers], 2)
    if found.limits:
        made["limits"] = _table(LIMITS, [_limit(row) for row in found.limits])
    return made


def _figure(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _limit(row: Figures) -> list[str]:
    waits = f"{row['wait_us_p50']:,.0f} / {row['wait_us_p99']:,.0f}"
    redis = f"{row['redis_us']:.0f}" if row["limits"] == "redis" else "-"
    return [row["limits"], str(row["concurrency"]), f"{row['requests_per_second']:,}", f"{row['cpu_us']:.0f}", redis, waits]


def verdicts(found: Found) -> list[str]:
    """One line for each requirement that can be judged from this run: `met` or `MISSED`, with the figures."""
    return [*_of_servers(found.servers), *_of_holds(found.holds), *_of_ledgers(found.ledgers)]


def _of_servers(rows: Sequence[Figures]) -> list[str]:
    by = {row["name"]: row for row in rows}
    ours = by.get("Faregate")
    if ours is None:
        return []
    judged: list[tuple[str, float, float]] = [
        ("a 256 KB prompt adds, ms of CPU", ours["large_us"] / 1000, 3.0),
        ("ready after, s", ours["ready_s"], 2.5),
        ("idle, MB", ours["idle_mb"], 110.0),
    ]
    if peer := by.get("LiteLLM"):
        judged += [("CPU per small request, µs (1/40 of LiteLLM's)", ours["cpu_us"], peer["cpu_us"] / 40)]
        judged += [("CPU per burst chunk, µs (1/100 of LiteLLM's)", ours["burst_us"], peer["burst_us"] / 100)]
    if peer := by.get("Portkey"):
        judged += [("CPU per small request, µs (1/4 of Portkey's)", ours["cpu_us"], peer["cpu_us"] / 4)]
    return [f"{_met(got <= most)}: {what}: {got:,.2f}, at most {most:,.2f}" for what, got, most in judged]


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def _of_holds(rows: Sequence[Figures]) -> list[str]:
    """At one connection nothing is shared; at 16 flushes are."""
    embedded = [row for row in rows if row["flushes"] and row["database_us"] is None]
    if not embedded:
        return []
    alone, shared = (max(row["flushes"][connections] for row in embedded) for connections in (1, 16))
    found = [row["traced"] for row in embedded if row["traced"] is not None]
    all_of_them = f" ({max(found):.2f} with SQLite's own at checkpoints, counted by strace)" if found else ""
    return [
        f"{_met(alone <= 1)}: disk flushes per request that it waits for, SQLite, 1 connection: {alone:.2f}, at most 1{all_of_them}",
        f"{_met(shared < 0.5)}: disk flushes per request, SQLite, 16 connections (shared): {shared:.2f}, less than 0.5",
    ]


def _of_ledgers(rows: Sequence[Figures]) -> list[str]:
    holds = {row["processes"]: row["a_second"] for row in rows if row["store"] == "postgresql" and row["what"] == "hold"}
    judged = []
    if one := holds.get(1):
        judged.append(f"{_met(one >= 5000)}: holds a second on one hot budget in PostgreSQL, from one process: {one:,}, at least 5,000")
    if three := holds.get(3):
        judged.append(f"for comparison, from three processes that share it: {three:,} together")
    return judged


def plain(found: Found) -> str:
    """What a run prints."""
    return "\n\n".join([*tables(found).values(), "\n".join([*found.missing, *verdicts(found)])])


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"


def page(found: Found, seconds: float) -> str:
    made = tables(found)
    return PAGE.format(
        date=datetime.now(UTC).date(),
        machine=_machine(),
        verdicts="\n".join(f"- {line}" for line in verdicts(found)) or "- Faregate was not measured.",
        held=found.servers[0]["held"],
        others="".join(f"\n- {line.splitlines()[0]}" for line in found.missing),
        load=" and ".join(f"{load:g}" for load in found.load),
        seconds=f"{seconds:g}",
        half=f"{seconds / 2:g}",
        **{part: made.get(part, "Not measured: see below.") for part in ("servers", "holds", "ledgers", "limits")},
    )


PAGE = """# Performance

Written by `make bench-write` on {date}. Run it again rather than trust it: ratios carry over to other machines, absolute figures do not.

## Beside other gateways

{servers}

## What holds cost

The same requests through a bare relay, which is Faregate's own front and upstream client and nothing else, and through Faregate
with each kind of ledger, side by side.

{holds}

- `bare relay` asks for no key, reads no body, holds and prices nothing, and writes nothing down.
- `Faregate` is that of the table above: the ledger in SQLite, a team without budgets. The worst case is held all the same.
- `budgets`: the team has a budget for the day and one for the month, so ample that the worst case is granted at once.
- `stretched`: one budget, in which no worst case is a small part of what is left. A hold is then what most answers of the key needed
  so far, and is stretched while an answer runs; whole answers are streamed from the host and assembled.
- `PostgreSQL`: the budgets of `budgets`, the ledger in PostgreSQL. With `Redis limits`, requests and tokens a minute and requests at
  once are limited too, in Redis. PostgreSQL and Redis share the core of the generator and the host, which lowers the requests per
  second of these rows, and makes them wait.
- A streamed answer has 32 tokens seven times of eight, else 800, in as many chunks. Whole answers have 32 tokens.
- Flushes: on SQLite those that requests wait for, counted in the process; on PostgreSQL those of its log, by its own count. One at
  low rate is the charge, which is on the disk before the client sees the end of the answer; a hold on SQLite needs none. PostgreSQL
  commits both synchronously. Under load, flushes are shared.

## The ledgers alone

Holds and charges on one hot budget, without a gateway around them: `benchmarks/ledger.py`. The asking processes and PostgreSQL share
all cores; of each case the better of two runs counts.

{ledgers}

## Limits alone

For one request, admitted and finished: `benchmarks/limits.py`. With `memory`, each gateway counts for itself; with `redis`, all
count together.

{limits}

## What is required of Faregate

{verdicts}

## Conditions

- Machine: {machine}. Its cores are shared with other work: figures move by a tenth or two
  from run to run, and latencies by more. The load average of five minutes was {load} before and after the run.
- Every server runs as one process or worker, pinned to one core; of the first table alone. The load generator and the model host,
  which answers canned bytes in DeepSeek's shape, share the other core.
- CPU is user and system time of the server's process, its threads and its children, read from `/proc/PID/stat` at both ends of
  the measured window of {seconds} s, after a warm-up of twice the window.
- The rows of the second table run at the same time and are measured in turn, in three rounds with windows of {half} s; of each
  figure the best round counts.
- Faregate runs with everything on: keys, contracts, edits, prices, metrics, and the ledger with a durable commit for each request.
  nginx is a plain proxy with kept-alive connections and no buffering. LiteLLM 1.106.2 has one worker, a master
  key, its Prometheus callback (our metrics are on, too) and no database, so it keeps no ledger. Portkey 1.15.2 runs on
  Node 22, without keys, budgets or ledger.
- Requests per second: 16 connections, each of which sends its next request when the last answer is whole. For direct and nginx
  it is the generator's core that is full.
- Latency: one connection; direct's own is taken off.
- Paced streams: a chunk each 20 ms, on 32 streams at once. "Held" is the most streams, of 50, 100, 200, 400 and 800, whose
  chunks came within 40 ms of each other 99 times of 100, in one of three tries. The generator and the host by themselves hold
  {held}: no server can show more here.
- Memory is resident memory of all of a server's processes. "Ready" is the time from the start of the process to the first 200
  of its health check.{others}
"""
