"""The benchmark's words: its table, the required ratios with a verdict on each, and the page docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

COLUMNS = (
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


def _cells(row: Figures, direct: Figures) -> list[str]:
    """The direct row has no server of its own, so no CPU, memory or start."""
    if row is direct:
        return ["direct", "-", f"{row['rps']:,.0f}", "-", "-", "-", "-", str(row["held"]), "-", "-"]
    return [
        row["name"],
        f"{row['cpu_us']:,.0f}",
        f"{row['rps']:,.0f}",
        f"{row['p50_ms'] - direct['p50_ms']:.2f} / {row['p99_ms'] - direct['p99_ms']:.2f}",
        f"{row['large_us'] / 1000:.2f}",
        f"{row['burst_us']:.2f}",
        f"{row['paced_us']:.1f}",
        str(row["held"]) if row["held"] else "fewer than 50",
        f"{row['idle_mb']:.0f} / {row['loaded_mb']:.0f}",
        f"{row['ready_s']:.2f}",
    ]


def table(rows: Sequence[Figures]) -> str:
    lines = [COLUMNS, ["---", *["--:"] * (len(COLUMNS) - 1)], *(_cells(row, rows[0]) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def ratios(rows: Sequence[Figures]) -> list[str]:
    """One line for each requirement that can be judged from these rows: `met` or `MISSED`, with the figures."""
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
    return [f"{'met' if got <= most else 'MISSED'}: {what}: {got:,.2f}, at most {most:,.2f}" for what, got, most in judged]


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"


def page(rows: Sequence[Figures], missing: Sequence[str]) -> str:
    return PAGE.format(
        date=datetime.now(UTC).date(),
        machine=_machine(),
        table=table(rows),
        verdicts="\n".join(f"- {line}" for line in ratios(rows)) or "- Faregate was not measured.",
        held=rows[0]["held"],
        others="".join(f"\n- {line.splitlines()[0]}" for line in missing),
    )


PAGE = """# Performance

Written by `make bench-write` on {date}. Run it again rather than trust it: ratios carry over to other machines, absolute figures do not.

{table}

## What is required of Faregate

{verdicts}

## Conditions

- Machine: {machine}. Its cores are shared, so figures move by a tenth or two from run to run.
- Every server runs alone, as one process or worker, pinned to one core. The load generator and the model host, which answers
  canned bytes in DeepSeek's shape, share the other core.
- CPU is user and system time of the server's process, its threads and its children, read from `/proc/PID/stat` at both ends of
  the measured window, after a warm-up of twice the window.
- Faregate runs with everything on: keys, contracts, edits, prices, metrics, and the embedded ledger with a durable commit for
  each request. nginx is a plain proxy with kept-alive connections and no buffering. LiteLLM 1.106.2 has one worker, a master
  key and no database, so it keeps no ledger. Portkey 1.15.2 runs on Node 22, without keys, budgets or ledger.
- Requests per second: 16 connections, each of which sends its next request when the last answer is whole. For direct and nginx
  it is the generator's core that is full.
- Latency: one connection; direct's own is taken off.
- Paced streams: a chunk each 20 ms, on 32 streams at once. "Held" is the most streams, of 50, 100, 200, 400 and 800, whose
  chunks came within 40 ms of each other 99 times of 100. The generator and the host by themselves hold {held}: no server can
  show more here.
- Memory is resident memory of all of a server's processes. "Ready" is the time from the start of the process to the first 200
  of its health check.{others}
"""
