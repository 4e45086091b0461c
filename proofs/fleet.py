"""Three gateways over one ledger, before emulated hosts: every process is real, in a folder of its own, and can be killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal

import apsw

from proofs.evidence import Evidence, PostgresEvidence, SqliteEvidence
from tests.harness import ADMIN, EmulatedHost, Process, environment, variable
from tests.servers import POSTGRES_FOLDERS, PostgresServer, RedisServer, free_port

ROOT = Path(__file__).resolve().parent.parent
TRIES: Final = 10
Kind = Literal["sqlite", "postgresql"]


class Missing(Exception):
    """A program that the proof needs is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Plan:
    """What to start. `teams` are files of policies/teams by name; `keys` are FAREGATE_KEYS; `mutation`: a planted fault."""

    teams: dict[str, str]
    keys: dict[str, str]
    store: Kind = "sqlite"
    redis: bool = False
    replicas: int = 3
    clock: str = "2025-02-03T12:00:00Z"
    mutation: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    vocabulary: str = "deepseek"


class Replica:
    """One `faregate serve` on a port that it keeps when it is started again."""

    def __init__(self, number: int, folder: Path, plan: Plan, settings: dict[str, str]) -> None:
        self.name = f"gateway-{number}"
        self.port, self.admin_port = free_port(), free_port()
        self.data = folder / self.name
        self._folder, self._starts = folder, 0
        words = ["proofs.mutant", plan.mutation, "serve"] if plan.mutation else ["gateway", "serve"]
        self._command = [sys.executable, "-m", *words]
        own = {"FAREGATE_PORT": str(self.port), "FAREGATE_ADMIN_PORT": str(self.admin_port), "FAREGATE_DATA": str(self.data)}
        self._environment = environment(PYTHONPATH=str(ROOT), **settings, **own)
        self.process: Process | None = None
        self.serving = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def launch(self) -> None:
        self._starts += 1
        self.process = Process(self._command, self._environment, self._folder / f"{self.name}-{self._starts}.log")

    def start(self) -> None:
        """Returns when it serves."""
        if self.process is None:
            self.launch()
        assert self.process is not None
        self.process.wait_for("serving on ")
        self.serving = True

    def start_again(self) -> None:
        """As a supervisor does: a gateway that cannot start, since its database is away just now, is tried again."""
        for _ in range(TRIES):
            try:
                self.start()
                return
            except AssertionError:
                self.kill()
                time.sleep(0.5)
        self.start()

    def kill(self) -> None:
        """`kill -9`, and its end."""
        self.serving = False
        if self.process is not None:
            self.process.process.send_signal(signal.SIGKILL)
            self.process.close()
            self.process = None

    def close(self) -> int:
        """SIGTERM; its exit status."""
        process, self.process = self.process, None
        return 0 if process is None else process.close()

    def logs(self) -> str:
        return "".join(log.read_text() for log in sorted(self._folder.glob(f"{self.name}-*.log")))


@dataclass
class Fleet:
    """What is running, and where its evidence lies."""

    folder: Path
    address: str
    host: EmulatedHost
    replicas: list[Replica]
    evidence: Evidence
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None

    def verify(self) -> list[str]:
        """What `faregate verify` has to say: [] when every invariant holds."""
        command = [sys.executable, "-m", "gateway", "verify", "--ledger", self.address, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment(PYTHONPATH=str(ROOT)), check=False)
        if done.returncode == 0:
            return []
        try:
            problems: list[str] = json.loads(done.stdout)["problems"]
        except (ValueError, KeyError):
            return [(done.stderr or done.stdout).strip()[-500:]]
        return problems


@contextmanager
def fleet(plan: Plan) -> Iterator[Fleet]:
    """Everything of a plan, started; ended and removed afterwards."""
    _check_programs(plan)
    with ExitStack() as stack:
        folder = _folder(stack, "faregate-proof-")
        redis = stack.enter_context(_redis(_folder(stack, "faregate-proof-redis-"))) if plan.redis else None
        postgres = stack.enter_context(_postgres(_folder(stack, "faregate-proof-postgres-"))) if plan.store == "postgresql" else None
        address = postgres.url() if postgres else f"sqlite:///{folder / 'ledger.db'}"
        host = EmulatedHost("deepseek", folder, f"{plan.clock}", "--vocabulary", plan.vocabulary)
        stack.callback(host.close)
        settings = _settings(plan, folder, host, address, redis)
        replicas = [Replica(number, folder, plan, settings) for number in range(1, plan.replicas + 1)]
        for replica in replicas:
            stack.callback(replica.kill)
            replica.launch()
        for replica in replicas:
            replica.start()
        evidence = PostgresEvidence(address) if postgres else SqliteEvidence(folder / "ledger.db")
        yield Fleet(folder, address, host, replicas, evidence, postgres, redis)


def _check_programs(plan: Plan) -> None:
    if plan.redis and shutil.which("redis-server") is None:
        raise Missing("redis-server is not installed: apt-get install redis-server")
    folders = [None, *POSTGRES_FOLDERS]
    if plan.store == "postgresql" and not any(shutil.which("postgres", path=folder) for folder in folders):
        raise Missing("postgres is not installed: apt-get install postgresql")


def _folder(stack: ExitStack, prefix: str) -> Path:
    folder = Path(mkdtemp(prefix=prefix))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _redis(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextmanager
def _postgres(folder: Path) -> Iterator[PostgresServer]:
    """With real flushes: what it acknowledged, it keeps."""
    server = PostgresServer(folder, fsync="on")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _settings(plan: Plan, folder: Path, host: EmulatedHost, address: str, redis: RedisServer | None) -> dict[str, str]:
    settings = {
        "FAREGATE_LEDGER": address,
        "FAREGATE_POLICIES": str(_policies(plan.teams, folder)),
        "FAREGATE_KEYS": ",".join(f"{team}:{key}" for team, key in plan.keys.items()),
        "FAREGATE_KEY_PEPPER": "0123456789abcdef0123456789abcdef",
        "FAREGATE_ADMIN_TOKEN": ADMIN,
        "FAREGATE_LOG_FORMAT": "text",
        "FAREGATE_CLOCK": plan.clock,
        f"FAREGATE_BASE_URL_{variable(host.host)}": host.url,
        "DEEPSEEK_API_KEY": "emulated-deepseek",
        **plan.settings,
    }
    return settings | ({"FAREGATE_REDIS": redis.url} if redis else {})


def _policies(teams: dict[str, str], folder: Path) -> Path:
    """The shipped policies, and these teams."""
    policies = folder / "policies"
    shutil.copytree(ROOT / "policies", policies)
    (policies / "teams").mkdir(exist_ok=True)
    for name, text in teams.items():
        (policies / "teams" / f"{name}.yaml").write_text(text)
    return policies


def spooled(replicas: Sequence[Replica]) -> int:
    """How many charges wait in the spools of these gateways for a ledger that did not take them; read when they have ended."""
    return sum(_records(file) for replica in replicas for file in (replica.data / "spool").glob("*.db"))


def _records(file: Path) -> int:
    connection = apsw.Connection(str(file))
    try:
        return int(connection.execute("SELECT count(*) FROM record").get)
    finally:
        connection.close()


def clean_up_when_told() -> None:
    """SIGTERM ends this process as Ctrl-C does: everything that it has started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
