"""What a gateway takes: ledger bytes for each request, on SQLite and PostgreSQL; memory and descriptors for each open stream; connections.

Run: `python -m benchmarks.sizing` (PostgreSQL is left out where it is not installed). docs/operations.md holds what it printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from benchmarks.asking import body, load, order
from benchmarks.behind import Behind, postgres, without_postgres
from benchmarks.procs import family, resident_mb
from benchmarks.servers import CHAT, Running, Server, faregate, running, stub

TEAM = """
team: bench
routes: ["*"]
budgets:
  - {budget: day, amount: "100000", currency: USD, period: day}
  - {budget: month, amount: "1000000", currency: USD, period: month}
"""
# Of a stream whose memory is measured: longer than the measurement, slow enough for one core.
CHUNKS, PACE = 3000, 500


@dataclass(frozen=True)
class Case:
    """One kind of gateway: with the budgets of TEAM or without, on this ledger ("" for SQLite)."""

    name: str
    budgets: bool = False
    ledger: str = ""


@contextmanager
def gateway(case: Case, upstream: int, folder: Path) -> Iterator[Running]:
    settings = {"FAREGATE_LOG_REQUESTS": "off"}
    if case.budgets:
        settings["FAREGATE_POLICIES"] = str(_with_team(folder))
    if case.ledger:
        settings |= {"FAREGATE_LEDGER": case.ledger, "FAREGATE_KEY_PEPPER": "0123456789abcdef"}
    plan = Server(case.name, lambda: "", lambda port, up, where: faregate(port, up, where, **settings))
    with running(plan, upstream, folder / "data") as found:
        yield found


def _with_team(folder: Path) -> Path:
    from gateway.policies import default_folder

    made = folder / "policies"
    subprocess.run(["cp", "-r", str(default_folder()), str(made)], check=True)
    (made / "teams").mkdir(exist_ok=True)
    (made / "teams" / "bench.yaml").write_text(TEAM)
    return made


def ledger_bytes(case: Case, upstream: int, seconds: float, behind: Behind | None = None) -> dict[str, Any]:
    """Bytes that the store grew by for each request, its indices and housekeeping with it."""
    with tempfile.TemporaryDirectory(prefix="faregate-sizing-") as name:
        folder = Path(name)
        with gateway(case, upstream, folder) as target:
            before = _size(folder, behind)
            done = load(target, body(), connections=16, seconds=seconds, warm=0)
        grown = _size(folder, behind) - before
        asked = _requests(folder, behind)
    return {
        "case": case.name,
        "requests": asked,
        "bytes_per_request": round(grown / asked),
        "requests_per_second": round(done.requests / seconds),
    }


def _size(folder: Path, behind: Behind | None) -> int:
    if behind is not None:
        return int(_ask(behind, "SELECT pg_database_size(current_database())"))
    file = folder / "data" / "ledger.db"
    return sum(path.stat().st_size for path in (file, file.with_name("ledger.db-wal")) if path.exists())


def _requests(folder: Path, behind: Behind | None) -> int:
    if behind is not None:
        return int(_ask(behind, "SELECT count(*) FROM faregate.request"))
    db = apsw.Connection(str(folder / "data" / "ledger.db"))
    try:
        return int(db.execute("SELECT count(*) FROM request").get)
    finally:
        db.close()


def _ask(behind: Behind, query: str) -> str:
    assert behind.programs is not None
    done = subprocess.run([str(behind.programs / "psql"), "-XAtc", query, behind.url], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def _open(target: Running, text: str, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """So many streams, each of which has begun."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
    question = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n{headers}\r\n{text}"
    lines = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(question.encode())
        await reader.readuntil(b"data: ")
        lines.append((reader, writer))
    return lines


async def _held(target: Running, text: str, count: int) -> tuple[float, int]:
    """(resident MB, descriptors) of the gateway while so many streams run."""
    lines = await _open(target, text, count)
    readers = [asyncio.create_task(_drain(reader)) for reader, _ in lines]
    await asyncio.sleep(3)
    found = resident_mb(target.pid), _descriptors(target.pid)
    for task in readers:
        task.cancel()
    for _, writer in lines:
        writer.transport.abort()
    return found


def _descriptors(pid: int) -> int:
    return sum(1 for member in family(pid) for _ in Path(f"/proc/{member}/fd").iterdir())


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        continue


def stream_memory(upstream: int, count: int, prompt: int) -> dict[str, Any]:
    """What open streams take, each with a prompt of so many bytes."""
    ask = json.loads(order(CHUNKS, PACE))
    ask["messages"].insert(0, {"role": "system", "content": "word " * (prompt // 5)})
    with tempfile.TemporaryDirectory(prefix="faregate-sizing-") as name, gateway(Case("streams"), upstream, Path(name)) as target:
        # What the first requests load for good is not of the streams.
        load(target, body(), connections=4, seconds=1, warm=0)
        before, files = resident_mb(target.pid), _descriptors(target.pid)
        after, open_files = asyncio.run(_held(target, json.dumps(ask), count))
    return {
        "streams": count,
        "prompt_bytes": prompt,
        "idle_mb": round(before),
        "mb_per_1000_streams": round((after - before) * 1000 / count, 1),
        "descriptors_per_stream": round((open_files - files) / count, 2),
    }


def connections(upstream: int, behind: Behind) -> dict[str, Any]:
    """Connections to PostgreSQL that one gateway keeps while it works."""
    with tempfile.TemporaryDirectory(prefix="faregate-sizing-") as name:
        with gateway(Case("connections", ledger=behind.url), upstream, Path(name)) as target:
            load(target, body(), connections=16, seconds=1, warm=0)
            time.sleep(0.5)
            kept = _ask(behind, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'faregate'")
    return {"postgresql_connections_per_gateway": int(kept)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a gateway takes of disk, memory and connections; a JSON line each.")
    parser.add_argument("--seconds", type=float, default=10, help="of load on each ledger (default 10)")
    parser.add_argument("--streams", type=int, default=1000, help="open at once (default 1000)")
    options = parser.parse_args()
    with stub() as upstream:
        for case in (Case("SQLite, no budget"), Case("SQLite, two budgets", budgets=True)):
            print(json.dumps(ledger_bytes(case, upstream, options.seconds)), flush=True)
        if why := without_postgres():
            print(json.dumps({"PostgreSQL": f"left out: {why}"}))
        else:
            for budgets in (False, True):
                with postgres() as behind:
                    case = Case(f"PostgreSQL, {'two budgets' if budgets else 'no budget'}", budgets, behind.url)
                    print(json.dumps(ledger_bytes(case, upstream, options.seconds, behind)), flush=True)
                    if not budgets:
                        print(json.dumps(connections(upstream, behind)), flush=True)
        for prompt in (1_000, 100_000):
            print(json.dumps(stream_memory(upstream, options.streams, prompt)), flush=True)


if __name__ == "__main__":
    main()
