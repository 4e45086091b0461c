"""What one hold and one settle cost: prints one JSON line for each concurrency.

CPU is this process's (event loop, flushing thread and SQLite together), user and system. A flush is one sync of the log, for
all charges that waited for it.

    python -m benchmarks.ledger [--requests 20000] [--concurrency 1 50]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from gateway.ledger.sqlite import SqliteLedger
from gateway.money import Parts
from gateway.outcome import Attempt, Hold, LedgerRow
from gateway.usage import Usage

AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
HOLD = Hold("", "search", "search-1a2b3c", "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", "USD", 9_000, 5_000, 9_000, "card", "9f9f", AT)
ROW = LedgerRow(
    "", "search", "search-1a2b3c", "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", "deepseek-v4-pro", ("max_tokens=9000->8192",),
    Usage(640, 100, 300, 120), "USD", 4_000, Parts(500, 1_500, 2_000), "card", "standard", "9f" * 8, AT, AT, "ok", None,
    (Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 4_000),), 5_000, 9_000,
)  # fmt: skip


async def client(ledger: SqliteLedger, ids: range) -> None:
    for number in ids:
        rid = f"0199a5c0-0000-7000-8000-{number:012x}"
        await ledger.hold(replace(HOLD, id=rid))
        await ledger.settle(replace(ROW, id=rid))


async def measure(requests: int, concurrency: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder, "ledger.db"))
        await ledger.start()
        each = requests // concurrency
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client(ledger, range(start, start + each)) for start in range(0, each * concurrency, each)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        commits, flushes = ledger.commits, ledger.flushes
        await ledger.close()
    done = each * concurrency
    return {
        "concurrency": concurrency,
        "requests": done,
        "requests_per_second": round(done / wall),
        "cpu_us_per_request": round(cpu / done * 1e6, 1),
        "commits": commits,
        "flushes": flushes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 50])
    options = parser.parse_args()
    for concurrency in options.concurrency:
        requests = options.requests if concurrency > 1 else options.requests // 10
        print(json.dumps(asyncio.run(measure(requests, concurrency))))


if __name__ == "__main__":
    main()
