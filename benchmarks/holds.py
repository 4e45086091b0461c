"""What holds cost a request: a bare relay, and Faregate with each kind of ledger and of budgets, side by side.

All are started at once and measured in turn, round after round, so that a busy machine is busy for all of them; of each figure
the best round counts. Whole answers are of 32 tokens; of streamed answers one in eight has 800 tokens, the others 32.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.asking import body, load, order
from benchmarks.behind import Behind, let_it_be_counted, postgres, redis, without_postgres, without_redis
from benchmarks.flushes import counted, traced
from benchmarks.load import Result
from benchmarks.servers import ROOT, Plan, Running, Server, faregate, running, stub

ROUNDS = 3
BUSY = 16
FLUSH_CONNECTIONS = (1, 16, 64)
TRACED_REQUESTS = 300
# So many tokens a request may ask for that their price is no small part of the tight budget: its worst case is never granted at once.
LIMIT = 32_000
SHORT, LONG, SHORTS = 32, 800, 7
PEPPER = "0123456789abcdef0123456789abcdef"
EXTENDS = 'faregate_ledger_commit_seconds_count{op="extend"} '
AMPLE = '{budget: day, amount: "1000000", currency: USD, period: day}, {budget: month, amount: "9000000", currency: USD, period: month}'
TIGHT = '{budget: all, amount: "4", currency: USD, period: total}'
LIMITS = "{requests_per_minute: 1000000000, tokens_per_minute: 1000000000000, concurrent: 1000000}"


@dataclass(frozen=True)
class Way:
    """One row of the table: what stands in the team's file, and what stands behind the gateway."""

    name: str
    budgets: str = ""
    limits: str = ""
    postgres: bool = False
    relay: bool = False

    def missing(self) -> str:
        return (without_postgres() if self.postgres else "") or (without_redis() if self.limits else "")

    def team(self) -> str:
        parts = ["team: bench", 'routes: ["*"]', f"budgets: [{self.budgets}]"]
        return "\n".join([*parts, f"limits: {self.limits}"] if self.limits else parts) + "\n"


WAYS = (
    Way("bare relay", relay=True),
    Way("Faregate"),
    Way("Faregate, budgets", AMPLE),
    Way("Faregate, stretched", TIGHT),
    Way("Faregate, PostgreSQL", AMPLE, postgres=True),
    Way("Faregate, PostgreSQL + Redis limits", AMPLE, LIMITS, postgres=True),
)


@dataclass
class Cost:
    """The figures of one row, each of its best round; CPU in µs for a request. None: there is no such thing."""

    name: str
    cpu_us: float = 0.0
    rps: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    stream_us: float = 0.0
    extends: float | None = None  # of a streamed answer
    database_us: float | None = None
    redis_us: float | None = None
    flushes: dict[int, float] = field(default_factory=dict)  # by connections
    traced: float | None = None  # flushes of one connection as strace counts them, those of SQLite's checkpoints too


@dataclass(frozen=True)
class Target:
    """One row's servers while they run."""

    way: Way
    gateway: Running
    database: Behind | None = None
    redis: Behind | None = None

    def ask(self, text: str, *others: str, connections: int = 1, seconds: float = 1.0, warm: int = 1, chunks: int = 0) -> Result:
        beside = [server.pid for server in (self.database, self.redis) if server]
        return load(self.gateway, text, *others, connections=connections, seconds=seconds, warm=warm, chunks=chunks, beside=beside)

    def extends(self) -> int:
        """How often holds have been stretched by now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.gateway.admin}/metrics", timeout=10) as shown:
            lines = shown.read().decode().splitlines()
        return int(sum(float(line.removeprefix(EXTENDS)) for line in lines if line.startswith(EXTENDS)))


@dataclass
class Rounds:
    """What the rounds of one row have shown."""

    small: list[Result] = field(default_factory=list)
    alone: list[Result] = field(default_factory=list)
    streams: list[Result] = field(default_factory=list)
    extends: int = 0
    streamed: int = 0


def small() -> str:
    return body(limit=LIMIT)


def streamed() -> list[str]:
    return [*[order(SHORT, 0, LIMIT)] * SHORTS, order(LONG, 0, LIMIT)]


def settings(way: Way, folder: Path, database: Behind | None, cache: Behind | None) -> dict[str, str]:
    """Of a gateway that serves this row; its policies are written into the folder."""
    if not way.budgets:
        return {}
    policies = folder / "policies"
    shutil.copytree(ROOT / "policies", policies)
    (policies / "teams").mkdir(exist_ok=True)
    (policies / "teams" / "bench.yaml").write_text(way.team())
    found = {"FAREGATE_POLICIES": str(policies), "FAREGATE_KEY_PEPPER": PEPPER}
    found |= {"FAREGATE_LEDGER": database.url} if database else {}
    return found | ({"FAREGATE_REDIS": cache.url} if cache else {})


def server(way: Way, given: dict[str, str], *words: str) -> Server:
    def plan(port: int, upstream: int, folder: Path) -> Plan:
        if way.relay:
            return Plan([sys.executable, "-m", "benchmarks.bare_relay", str(port), str(upstream)])
        return faregate(port, upstream, folder, *words, **given)

    return Server(way.name, way.missing, plan)


@contextmanager
def target(way: Way, upstream: int, folder: Path, *words: str) -> Iterator[Target]:
    """The row's gateway, ready, with an empty ledger; `words` instead of `gateway` are the module that is started."""
    folder.mkdir()
    with ExitStack() as stack:
        database = stack.enter_context(postgres()) if way.postgres else None
        cache = stack.enter_context(redis()) if way.limits else None
        one = server(way, settings(way, folder, database, cache), *words)
        yield Target(way, stack.enter_context(running(one, upstream, folder)), database, cache)


def one_round(one: Target, seconds: float, found: Rounds) -> None:
    found.small.append(one.ask(small(), connections=BUSY, seconds=seconds, warm=5))
    found.alone.append(one.ask(small(), seconds=seconds, warm=10))
    first, *others = streamed()
    before = one.extends() if one.gateway.admin else 0
    found.streams.append(one.ask(first, *others, connections=BUSY, seconds=seconds, warm=0, chunks=SHORT))
    found.streamed += found.streams[-1].requests
    found.extends += (one.extends() if one.gateway.admin else 0) - before


def flushes_of_postgres(one: Target, connections: int, seconds: float) -> float:
    """For one request. Backends tell late what they have counted: a request after a pause makes them."""
    assert one.database is not None

    def told() -> int:
        assert one.database is not None
        let_it_be_counted()
        load(one.gateway, small(), connections=connections, rounds=1, warm=0)
        return one.database.flushes()

    before = told()
    result = one.ask(small(), connections=connections, seconds=seconds, warm=0)
    return (told() - before) / (result.requests + connections)


def flushes_of_sqlite(way: Way, upstream: int, folder: Path, seconds: float) -> dict[int, float]:
    """For one request, by connections; counted in a gateway of its own, that nothing else is measured on."""
    file, found = folder.with_suffix(".flushes"), dict[int, float]()
    with target(way, upstream, folder, "benchmarks.flushes", str(file)) as one:
        for connections in FLUSH_CONNECTIONS:
            before = counted(file)
            result = one.ask(small(), connections=connections, seconds=seconds, warm=0)
            found[connections] = (counted(file) - before) / result.requests
    return found


def flushes_traced(one: Target, folder: Path) -> float | None:
    """For one request at one connection, as strace counts them; None where it cannot."""
    try:
        with traced(one.gateway.pid, folder) as count:
            load(one.gateway, small(), rounds=TRACED_REQUESTS, warm=0)
            return count() / TRACED_REQUESTS
    except RuntimeError as problem:
        print(f"bench: flushes are not checked: {problem}", file=sys.stderr)
        return None


def count_flushes(one: Target, upstream: int, folder: Path, seconds: float, cost: Cost) -> None:
    if one.way.relay:
        return
    if one.database is not None:
        cost.flushes = {connections: flushes_of_postgres(one, connections, seconds) for connections in FLUSH_CONNECTIONS}
        return
    cost.flushes = flushes_of_sqlite(one.way, upstream, folder / f"{one.way.name} flushes", seconds)
    cost.traced = flushes_traced(one, folder / one.way.name)


def _beside(one: Target, results: Sequence[Result], of: Behind | None) -> float | None:
    if of is None:
        return None
    place = [server for server in (one.database, one.redis) if server].index(of)
    return min(result.beside[place] / result.requests for result in results) * 1e6


def cost_of(one: Target, found: Rounds) -> Cost:
    return Cost(
        name=one.way.name,
        cpu_us=min(result.cpu / result.requests for result in found.small) * 1e6,
        rps=max(result.requests / result.seconds for result in found.small),
        p50_ms=min(result.p50_ms for result in found.alone),
        p99_ms=min(result.p99_ms for result in found.alone),
        stream_us=min(result.cpu / result.requests for result in found.streams) * 1e6,
        extends=found.extends / found.streamed if one.gateway.admin else None,
        database_us=_beside(one, found.small, one.database),
        redis_us=_beside(one, found.small, one.redis),
    )


def compare(seconds: float, ways: Sequence[Way] = WAYS) -> tuple[list[Cost], list[str]]:
    """The rows of every way that can be measured here, after direct's, and one line for each that cannot."""
    missing = [f"{way.name}: not measured, {why}" for way in ways if (why := way.missing())]
    with stub() as upstream, tempfile.TemporaryDirectory(prefix="faregate-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        targets = [stack.enter_context(target(way, upstream, folder / way.name)) for way in ways if not way.missing()]
        direct, rounds = Rounds(), [Rounds() for _ in targets]
        for one in targets:
            one.ask(small(), connections=BUSY, seconds=seconds)
        for turn in range(ROUNDS):
            print(f"bench: holds, round {turn + 1} of {ROUNDS} …", file=sys.stderr, flush=True)
            direct.alone.append(load(Running("direct", upstream), small(), seconds=seconds, warm=10))
            for one, found in zip(targets, rounds, strict=True):
                one_round(one, seconds, found)
        costs = [cost_of(one, found) for one, found in zip(targets, rounds, strict=True)]
        print("bench: holds, disk flushes …", file=sys.stderr, flush=True)
        for one, cost in zip(targets, costs, strict=True):
            count_flushes(one, upstream, folder, seconds / 2, cost)
    p50, p99 = (min(getattr(result, name) for result in direct.alone) for name in ("p50_ms", "p99_ms"))
    return [Cost("direct", p50_ms=p50, p99_ms=p99), *costs], missing
