"""The servers behind a gateway, started for the benchmark alone: PostgreSQL with real flushes, and Redis. Ended with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.procs import family
from benchmarks.servers import cores

# Seconds after which a backend of PostgreSQL shows, with its next commit, what it has counted.
COUNTED_WITHIN = 1.1
ENVIRONMENT = "`make bench` installs what it needs"


@dataclass(frozen=True)
class Behind:
    """One server that is running: its address, its process, and the folder of its programs."""

    url: str
    pid: int
    programs: Path | None = None

    def flushes(self) -> int:
        """How often PostgreSQL has flushed its log by now, as far as its backends have told."""
        assert self.programs is not None
        argv = [str(self.programs / "psql"), "-XAtc", "SELECT wal_sync FROM pg_stat_wal", self.url]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def without_postgres() -> str:
    """Why there can be no PostgreSQL; "" where there can."""
    return _without("postgres", "PostgreSQL is not installed (Debian: postgresql)", "asyncpg")


def without_redis() -> str:
    return _without("redis-server", "Redis is not installed (Debian: redis-server)", "redis")


def _without(program: str, text: str, library: str) -> str:
    try:
        __import__(library)
        from tests.servers import POSTGRES_FOLDERS
    except ImportError as problem:
        return f"{problem.name} is not here: {ENVIRONMENT}"
    found = any(shutil.which(program, path=folder) for folder in (None, *POSTGRES_FOLDERS))
    return "" if found else text


@contextmanager
def postgres() -> Iterator[Behind]:
    """An empty database, on the generator's core."""
    from tests.servers import PostgresServer

    with _folder() as folder:
        server = PostgresServer(folder, fsync="on", synchronous_commit="on", shared_buffers="128MB")
        server.start()
        try:
            server.create("ledger")
            pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            _pin(pid)
            yield Behind(server.url("ledger"), pid, _programs(pid))
        finally:
            server.stop()


@contextmanager
def redis() -> Iterator[Behind]:
    """An empty Redis, on the generator's core."""
    from tests.servers import RedisServer

    with _folder() as folder:
        server = RedisServer(folder)
        server.start()
        try:
            pid = _child(folder)
            _pin(pid)
            yield Behind(server.url, pid)
        finally:
            server.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faregate-bench-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(folder: Path) -> int:
    """The child of this process that runs in the folder."""
    for pid in family(os.getpid()):
        if Path(f"/proc/{pid}/cwd").resolve() == folder:
            return pid
    raise RuntimeError(f"nothing runs in {folder}")


def _programs(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").resolve().parent


def _pin(pid: int) -> None:
    """Every thread of the family, and so whatever it starts from now on."""
    for member in family(pid):
        for thread in Path(f"/proc/{member}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cores()[1]})


def let_it_be_counted() -> None:
    """Wait so long that the next commit of a backend shows all that it has counted before."""
    time.sleep(COUNTED_WITHIN)
