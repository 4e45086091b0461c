"""The stage of the demonstration: the processes that run behind it, started, awaited and ended together."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.cli import CommandError
from gateway.demo.engine import available as installed

EMULATED = ("deepseek", "openrouter", "novita")
READY_WITHIN = 60.0


@dataclass
class Stage:
    """What is running. `key` is the client's key; `admin_token` opens the receipts."""

    folder: Path
    port: int
    admin_port: int
    key: str = field(default_factory=lambda: "demo-" + secrets.token_hex(12), repr=False)
    admin_token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    real: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    local: bool = False
    _running: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open(self, keys: Mapping[str, str], clock: str | None, emulated: Sequence[str] = EMULATED, *, engine: bool = True) -> None:
        """Start every process and wait until the gateway answers. `keys`: host -> the variable that holds its real key."""
        environment = dict(os.environ)
        self.real = tuple(keys)
        self.emulated = tuple(host for host in emulated if host not in keys)
        for host in self.emulated:
            environment |= self._emulate(host, clock)
        if engine and installed():
            self.local = True
            command = [sys.executable, "-m", "gateway.demo.engine", "--models", str(self.folder)]
            environment["FAREGATE_BASE_URL_LOCAL"] = self._url_of(command)
        environment |= {
            "FAREGATE_DATA": str(self.folder),
            "FAREGATE_PORT": str(self.port),
            "FAREGATE_ADMIN_PORT": str(self.admin_port),
            "FAREGATE_ADMIN_TOKEN": self.admin_token,
            "FAREGATE_KEYS": f"demo:{self.key}",
        }
        if clock:
            environment["FAREGATE_CLOCK"] = clock
        self._start([sys.executable, "-m", "gateway", "serve"], environment, quiet=False)
        self._await_ready()

    def _emulate(self, host: str, clock: str | None) -> dict[str, str]:
        options = [] if clock is None else ["--clock", clock]
        url = self._url_of([sys.executable, "-m", "gateway", "emulate", "--host", host, "--port", "0", *options])
        name = host.upper().replace("-", "_")
        return {f"FAREGATE_BASE_URL_{name}": url, f"{name}_API_KEY": f"emulated-{host}"}

    def _url_of(self, command: Sequence[str]) -> str:
        """Start a process whose first line says where it serves: JSON with `base_url`, or a last word that is the URL."""
        process = self._start(command, dict(os.environ), quiet=True)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        url: str = json.loads(line)["base_url"] if line.startswith("{") else line.rpartition(" ")[2]
        if not url.startswith("http://"):
            raise CommandError(f"{' '.join(command[2:4])} did not start: {line or 'it ended without a word'}")
        return url

    def _start(self, command: Sequence[str], environment: dict[str, str], *, quiet: bool) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else (self.folder / "gateway.log").open("w"),
            stderr=subprocess.DEVNULL if quiet else subprocess.STDOUT,
        )
        self._running.append(process)
        return process

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if self._running[-1].poll() is not None:
                raise CommandError("the gateway did not start:\n" + (self.folder / "gateway.log").read_text()[-2000:])
            if self._found_ports() and self._answers():
                return
            time.sleep(0.05)
        raise CommandError(f"the gateway was not ready within {READY_WITHIN:.0f} s")

    def _found_ports(self) -> bool:
        """Whether the gateway has said where it listens; asked for port 0, it chose one itself."""
        said = re.search(r"serving on http://[^:]+:(\d+)/v1, admin on http://[^:]+:(\d+)", (self.folder / "gateway.log").read_text())
        if said is not None:
            self.port, self.admin_port = int(said[1]), int(said[2])
        return said is not None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def receipt(self, id: str) -> dict[str, object]:
        """The ledger's row of one request, by the admin API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}/admin/v1/requests/{id}", headers={"authorization": f"Bearer {self.admin_token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            row: dict[str, object] = json.load(answer)
        return row

    def wait(self) -> None:
        """Serve until the gateway ends."""
        self._running[-1].wait()

    def close(self) -> None:
        """End what was started here, and nothing else."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.stdout is not None:
                process.stdout.close()
