"""What limits on the rate cost a request: prints one JSON line for each way of counting and each concurrency.

CPU is this process's for one admit and one finish; `redis_us` is the server's own, where there is one. Times are those that a
request waits. Needs redis-server; a private one is started.

    python -m benchmarks.limits [--requests 5000] [--rounds 5] [--concurrency 1 50]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from gateway.shared.link import Link
from gateway.shared.memory import MemoryLimits
from gateway.shared.port import Limits
from gateway.shared.redis import RedisLimits
from gateway.teams import LimitsRow
from gateway.timekeeping import RealClock

ALL = LimitsRow(requests_per_minute=10**9, tokens_per_minute=10**12, concurrent=10**6)
WAYS = {"none": LimitsRow(), "memory": ALL, "redis": ALL}


class Nobody:
    def redis_call(self, op: str, outcome: str) -> None:
        assert outcome == "ok", (op, outcome)

    def redis_up(self, up: bool) -> None:
        assert up


@asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed: apt-get install redis-server"
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            while process.returncode is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                await asyncio.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            await process.wait()


async def client(limits: Limits, rules: LimitsRow, ids: range, waited: list[float]) -> None:
    for number in ids:
        rid = f"0199a5c0-0000-7000-8000-{number:012x}"
        begun = time.perf_counter()
        await limits.admit(rid, "search", rules, 4_000)
        await limits.finish(rid, "search", rules, 4_000, 2_600)
        waited.append(time.perf_counter() - begun)


async def server_cpu(link: Link | None) -> float:
    if link is None:
        return 0.0
    found: dict[str, Any] = await link.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def measure(limits: Limits, link: Link | None, way: str, requests: int, concurrency: int) -> dict[str, Any]:
    each, waited = requests // concurrency, list[float]()
    there = await server_cpu(link)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client(limits, WAYS[way], range(start, start + each), waited) for start in range(0, each * concurrency, each)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    there = await server_cpu(link) - there
    done = each * concurrency
    waited.sort()
    return {
        "limits": way,
        "concurrency": concurrency,
        "requests_per_second": round(done / wall),
        "cpu_us": round(cpu / done * 1e6, 1),
        "redis_us": round(there / done * 1e6, 1),
        "wait_us_p50": round(waited[done // 2] * 1e6, 1),
        "wait_us_p99": round(waited[done * 99 // 100] * 1e6, 1),
    }


async def run(requests: int, rounds: int, concurrencies: list[int]) -> None:
    async with redis_server() as url:
        link = Link(url, Nobody(), budget=5)
        shared = RedisLimits(link, MemoryLimits(RealClock()))
        await shared.start()
        for concurrency in concurrencies:
            # Side by side: each round measures every way, so that a busy machine is busy for all.
            best: dict[str, dict[str, Any]] = {}
            for _ in range(rounds):
                for way in WAYS:
                    limits: Limits = shared if way == "redis" else MemoryLimits(RealClock())
                    found = await measure(limits, link if way == "redis" else None, way, requests, concurrency)
                    if way not in best or found["cpu_us"] < best[way]["cpu_us"]:
                        best[way] = found
            for found in best.values():
                print(json.dumps(found))
        await shared.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="What limits on the rate cost a request.")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 50])
    given = parser.parse_args()
    uvloop.run(run(given.requests, given.rounds, given.concurrency))


if __name__ == "__main__":
    main()
