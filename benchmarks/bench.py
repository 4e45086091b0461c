"""`make bench`: direct, nginx, Faregate and, when installed, LiteLLM proxy and Portkey, each in its turn before the same canned host.

Each server runs alone on one core; the load generator and the host share the other. Prints a table and one JSON line;
`--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load import Result, Spec
from benchmarks.procs import resident_mb
from benchmarks.report import page, ratios, table
from benchmarks.servers import CHAT, ROOT, SERVERS, Running, cores, running, stub

BURST = 2000
PACE_MS = 20
PACED_CHUNKS = 200
PACED_STREAMS = 32
WARM = 2.0  # windows of warm-up before the first figure: one server's just-in-time compiler needs thousands of requests
HOLDS = (50, 100, 200, 400, 800)
HOLD_GAP_MS = 2.0 * PACE_MS
LONG_MESSAGES, LONG_BYTES = 64, 4096


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


def body(text: str = "", stream: bool = False, history: Sequence[dict[str, str]] = ()) -> str:
    system = {"role": "system", "content": "You are a clerk at a fare gate."}
    question = {"role": "user", "content": f"What is the fare? {text}"}
    shown: dict[str, Any] = {"model": "deepseek-flash", "messages": [system, *history, question], "max_tokens": 4000}
    if stream:
        shown |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(shown)


def long_history() -> list[dict[str, str]]:
    """A conversation of 64 messages of 4 KB of prose and line breaks: 256 KB."""
    line = "The clerk counts the coins, closes the gate and writes one line into the book.\n"
    text = (line * (LONG_BYTES // len(line) + 1))[:LONG_BYTES]
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n in range(LONG_MESSAGES)]


def order(chunks: int, pace: int) -> str:
    return body(f"bench:chunks={chunks},pace={pace}", stream=True)


def load(target: Running, text: str, **more: Any) -> Result:
    """One run of the generator, in a process of its own on the generator's core."""
    spec = Spec(port=target.port, path=CHAT, headers=target.headers, body=text, pid=target.pid, **more)
    argv = ["taskset", "-c", str(cores()[1]), sys.executable, "-m", "benchmarks.load"]
    run = subprocess.run(argv, input=msgspec.json.encode(spec), stdout=subprocess.PIPE, cwd=ROOT, check=False)
    if run.returncode:
        raise RuntimeError(f"{target.name}: the load run failed; its error stands above")
    return msgspec.json.decode(run.stdout, type=Result)


def holds(target: Running) -> int:
    """The most paced streams, of the steps tried, whose chunks arrive within 40 ms of each other 99 times of 100."""
    held = 0
    for streams in HOLDS:
        result = load(target, order(100, PACE_MS), connections=streams, rounds=1, warm=0, chunks=100, spread=PACE_MS / 1000)
        if result.gap_p99_ms > HOLD_GAP_MS or result.p50_ms > 100 * PACE_MS * 1.1:
            break
        held = streams
    return held


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
        held=holds(target),
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="names with commas between them: nginx,faregate,litellm,portkey")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measured window")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(argv)
    rows, missing = compare([name for name in options.only.lower().split(",") if name], options.seconds)
    figures = [asdict(row) for row in rows]
    print(table(figures), *missing, *ratios(figures), sep="\n")
    if options.write:
        (ROOT / "docs" / "performance.md").write_text(page(figures, missing))
    print(json.dumps({"rows": figures, "not_measured": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
