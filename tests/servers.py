"""Real servers for tests: a private Redis and a private PostgreSQL, each in a temporary folder and on a port of its own.

A program that is missing is a failure in CI, and elsewhere a skip that says what to install.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from pwd import getpwnam
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any, Final, NoReturn

import pytest

START_WITHIN = 30.0
# initdb and postgres refuse to run as root.
ANOTHER_USER: Final = "nobody"
POSTGRES_FOLDERS: Final = [f"/usr/lib/postgresql/{version}/bin" for version in range(18, 13, -1)]


def program(name: str, package: str, folders: Sequence[str] = ()) -> str:
    """The path of a program; without it, the test fails in CI and is skipped elsewhere."""
    found = next(filter(None, (shutil.which(name, path=folder) for folder in (None, *folders))), None)
    return found or missing(f"{name} is not installed: apt-get install {package}")


def missing(text: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """One server program that this process has started, and the only one that it ends: by its own process id."""

    ends = signal.SIGTERM

    def __init__(self, command: Sequence[str], folder: Path, answers: Callable[[], bool], user: str | None = None) -> None:
        self._command, self._folder, self._answers = list(command), folder, answers
        self._as = as_user(user)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log, **self._as)
        until = time.monotonic() + START_WITHIN
        while not self._answers():
            if not self.running or time.monotonic() > until:
                raise AssertionError(f"{self._command[0]} did not start:\n{(self._folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals | None = None) -> None:
        """End it, and wait for its end. One that is paused goes on first."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self.signal(how or self.ends)
        self._process.wait(START_WITHIN)

    def kill(self) -> None:
        """As `kill -9` of every process of it: it writes nothing any more."""
        self.stop(signal.SIGKILL)

    def restart(self, how: signal.Signals | None = None) -> None:
        self.stop(how)
        self.start()

    def pause(self) -> None:
        """It keeps its connections and answers nothing, like a machine that hangs."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)


def as_user(user: str | None) -> dict[str, Any]:
    """What makes a child process run as another user, where this one is root."""
    return {"user": user, "group": getpwnam(user).pw_gid, "extra_groups": []} if user and os.geteuid() == 0 else {}


def alive(pid: str) -> bool:
    """Whether a process runs; one that has ended, and that nobody has asked about, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def talks(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.settimeout(1)
            client.sendall(question)
            return client.recv(100).startswith(answer)
    except OSError:
        return False


class RedisServer(Server):
    """A private Redis without persistence: a restart loses everything, as a failover may."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [program("redis-server", "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *options]
        super().__init__(command, folder, lambda: talks(self.port, b"PING\r\n", b"+PONG"))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test: `url`, and stop(), start(), restart(), pause(), resume()."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


class PostgresServer(Server):
    """A private PostgreSQL cluster: `url(database)`. Commits are asynchronous unless a connection says otherwise."""

    # It would wait for its clients to leave at a SIGTERM.
    ends = signal.SIGINT

    def __init__(self, folder: Path, **options: str) -> None:
        self.port = free_port()
        self._programs = Path(program("postgres", "postgresql", POSTGRES_FOLDERS)).resolve().parent
        data = folder / "data"
        if os.geteuid() == 0:
            shutil.chown(folder, ANOTHER_USER)
        self._initialise(folder, data)
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", "max_connections": "50"}
        settings |= {"fsync": "off", "synchronous_commit": "off", "shared_buffers": "64MB", **options}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        super().__init__([str(self._programs / "postgres"), "-D", str(data), *words], folder, self._accepts, ANOTHER_USER)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://faregate@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        self.run("createdb", "--maintenance-db", self.url(), database)

    def run(self, name: str, *words: str) -> None:
        """One of the programs that come with the server."""
        subprocess.run([str(self._programs / name), *words], check=True)

    def signal(self, which: signal.Signals) -> None:
        """To the process and to its children, which would go on without it."""
        assert self._process is not None
        if which is signal.SIGKILL:
            # So that it starts no child between the look at them and their end.
            self._process.send_signal(signal.SIGSTOP)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.send_signal(which)
        if which in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(int(child), which)
        if which is signal.SIGKILL:
            # The next one would find their shared memory still in use.
            until = time.monotonic() + START_WITHIN
            while any(map(alive, children)) and time.monotonic() < until:
                time.sleep(0.005)

    def _initialise(self, folder: Path, data: Path) -> None:
        command = [
            str(self._programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "faregate",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **as_user(ANOTHER_USER))
        assert done.returncode == 0, done.stderr

    def _accepts(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-d", "postgres", "-U", "faregate"]
        return subprocess.run(ready, check=False).returncode == 0


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresServer]:
    """The PostgreSQL that all tests of a run share."""
    # Not pytest's own temporary folder: no other user may look into that.
    folder = Path(mkdtemp(prefix="faregate-postgres-"))
    server: PostgresServer | None = None
    try:
        server = PostgresServer(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_server(postgres_cluster: PostgresServer) -> Iterator[PostgresServer]:
    """The same for one test, which may stop, kill or pause it."""
    yield postgres_cluster
    if postgres_cluster.running:
        postgres_cluster.resume()
    else:
        postgres_cluster.start()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database for one test."""
    name = f"test_{token_hex(6)}"
    postgres_server.create(name)
    return postgres_server.url(name)
