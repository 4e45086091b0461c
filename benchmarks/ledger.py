"""What holds and settles cost on SQLite and on PostgreSQL, side by side: prints one table, and the conditions above it.

Every request claims one and the same budget. CPU is that of the asking processes, for one request; PostgreSQL's own is not in
it, and shares the machine. Latency is that of the hold alone. A commit is one transaction of a store, whatever is in it.

    python -m benchmarks.ledger [--seconds 3] [--stores sqlite postgresql]

Needs `make test`'s environment, and for PostgreSQL its programs (Debian: postgresql); a private server is started and ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from gateway.ledger.postgres import PostgresStore
from gateway.ledger.sqlite import SqliteStore
from gateway.money import Parts
from gateway.outcome import Attempt, Claim, Hold, LedgerRow
from gateway.usage import Usage

AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
HOT = Claim("search", "month", "", "2026-11", "USD", 10**18, None)
HOLD = Hold(
    "", "search", "search-1a2b3c", "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", "USD", 9_000, 5_000, 9_000, "card", "9f9f", AT,
    1_000, (HOT,),
)  # fmt: skip
ROW = LedgerRow(
    "", "search", "search-1a2b3c", "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", "deepseek-v4-pro", ("max_tokens=9000->8192",),
    Usage(640, 100, 300, 120), "USD", 4_000, Parts(500, 1_500, 2_000), "card", "standard", "9f" * 8, AT, AT, "ok", None,
    (Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 4_000),), 5_000, 9_000,
)  # fmt: skip
LEASE = 300.0
PATIENCE = 60.0


@dataclass(frozen=True)
class Case:
    """So many callers at once, in all processes together; with `settle`, each hold is settled before the next one."""

    callers: int
    settle: bool
    processes: int = 1

    @property
    def name(self) -> str:
        return "hold + settle" if self.settle else "hold"


CASES = (
    Case(1000, False),
    Case(1000, True),
    Case(50, True),
    Case(1, True),
    Case(999, False, 3),
    Case(999, True, 3),
)


def store_of(address: str) -> PostgresStore | SqliteStore:
    return PostgresStore(address) if address.startswith("postgresql://") else SqliteStore(Path(address))


async def work(address: str, case: Case, seconds: float, begin: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """What one process of a case did; `begin` waits until the others have opened their stores too."""
    store = store_of(address)
    await store.start()
    begin()
    latencies: list[float] = []
    owner, until = f"{os.getpid()}-{time.monotonic_ns()}", time.perf_counter() + seconds

    async def caller(number: int) -> None:
        turn = 0
        while (began := time.perf_counter()) < until:
            rid, turn = f"{owner}-{number}-{turn}", turn + 1
            await store.hold(replace(HOLD, id=rid), owner, LEASE)
            latencies.append(time.perf_counter() - began)
            if case.settle:
                await store.finish("settle", replace(ROW, id=rid))

    commits, cpu, wall = store.commits, time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(case.callers // case.processes)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    commits = store.commits - commits
    await store.close()
    return {"latencies": latencies, "cpu": cpu, "wall": wall, "commits": commits}


async def measure(address: str, case: Case, seconds: float) -> list[str]:
    """One row of the table."""
    if case.processes == 1:
        parts = [await work(address, case, seconds)]
    else:
        parts = await asyncio.to_thread(together, address, case, seconds)
    latencies = sorted(latency for part in parts for latency in part["latencies"])
    requests, commits = len(latencies), sum(part["commits"] for part in parts)
    return [
        f"{requests / max(part['wall'] for part in parts):,.0f}",
        f"{latencies[requests // 2] * 1000:.1f} / {latencies[requests * 99 // 100] * 1000:.1f}",
        f"{sum(part['cpu'] for part in parts) / requests * 1e6:.0f}",
        f"{requests * (1 + case.settle) / max(1, commits):.1f}",
    ]


def together(address: str, case: Case, seconds: float) -> list[dict[str, Any]]:
    """What the processes of a case did, all in the same seconds: none begins before every one is ready."""
    told = json.dumps([address, case.callers, case.settle, case.processes, seconds])
    words = [sys.executable, "-m", "benchmarks.ledger", "--worker", told]
    with ExitStack() as stack:
        children = [
            stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) for _ in range(case.processes)
        ]
        for child in children:
            stack.callback(child.kill)
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"begin\n")
            child.stdin.flush()
        return [json.loads(child.communicate(timeout=seconds + PATIENCE)[0]) for child in children]


def wait_for_the_others() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


@contextmanager
def place(store: str) -> Iterator[str]:
    """An empty ledger's address, on a disk that is flushed as in service."""
    folder = Path(tempfile.mkdtemp(prefix="faregate-ledger-"))
    try:
        if store == "sqlite":
            yield str(folder / "ledger.db")
            return
        # Only where it is asked for: it needs the environment of the tests.
        from tests.servers import PostgresServer

        folder.chmod(0o755)
        server = PostgresServer(folder, fsync="on", synchronous_commit="on", shared_buffers="128MB")
        server.start()
        try:
            server.create("ledger")
            yield server.url("ledger")
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(stores: Sequence[str], seconds: float) -> Iterator[str]:
    yield f"{os.cpu_count()} cores shared by all, Python {sys.version.split()[0]}, {seconds:g} s each, one hot budget"
    yield ""
    yield "| store | what | processes | at once | a second | hold p50 / p99, ms | CPU, µs | operations a commit |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for store in stores:
        for case in CASES:
            with place(store) as address:
                found = uvloop.run(measure(address, case, seconds))
            yield f"| {' | '.join([store, case.name, str(case.processes), str(case.callers), *found])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--stores", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        address, callers, settle, processes, seconds = json.loads(options.worker)
        did = uvloop.run(work(address, Case(callers, settle, processes), seconds, wait_for_the_others))
        # Not `print`: without buffers (PYTHONUNBUFFERED) it loses what a pipe does not take at once.
        with open(1, "wb", closefd=False) as out:
            out.write(json.dumps(did).encode())
        return
    for line in table(options.stores, options.seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
