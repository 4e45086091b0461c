"""Bedrock, through litellm in a process of its own: the gateway never imports it, and it never sees another host's key.

The worker (litellm_worker) is started for the first request, speaks HTTP with OpenAI's bodies on a socket in a private folder, and
ends with the gateway. Its answers are read like any host's. Beside the body it says whether anything was sent at all, and whether AWS
may bill what it lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.client import HttpAnswer
from gateway.upstream.connection import BILLED, UNSENT, Connection
from gateway.upstream.pool import Pool
from gateway.upstream.port import Call

URL = "worker://bedrock"
EXTRA = "litellm"
# The worker's whole environment: what Python needs, and which certificates to trust.
PASSED = ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
# How AWS gives a role's temporary keys to a machine's programs; what they have in common is that somebody renews the keys.
ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_PROFILE")
ROLE = (
    *ROLES,
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "HOME",
)
# Seconds to import litellm on a machine that is busy; then, how long a failed start is remembered; then, for a worker to end.
START_WITHIN = 60.0
RETRY_AFTER = 10.0
END_WITHIN = 5.0

PROGRAM = Path(__file__).with_name("litellm_worker.py")

Variable = Callable[[str], SecretStr | None]


@dataclass(frozen=True, slots=True)
class Worker:
    """How the worker is started: an interpreter that has litellm, and what it reaches the host with. The account is not in the repr."""

    python: Path
    account: Mapping[str, str] = field(repr=False)
    connect: float
    total: float
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Path = PROGRAM


def needs(variable: Variable, python: Path | None) -> str | None:
    """What is missing for Bedrock, with the remedy; None where nothing is."""
    named = any(variable(name) for name in ROLES) and variable("AWS_ACCESS_KEY_ID") is None
    missing = [] if named else [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if variable(name) is None]
    missing += [] if _region(variable) else ["AWS_REGION"]
    if missing:
        return " and ".join(missing)
    if interpreter(python) is not None:
        return None
    if python is not None:
        return f"litellm where FAREGATE_LITELLM_PYTHON points: {python} has none"
    return "litellm: run `make litellm`, or name an interpreter that has it in FAREGATE_LITELLM_PYTHON"


def interpreter(named: Path | None) -> Path | None:
    """An interpreter that has litellm: the one that is named, else the one that `make litellm` made, else our own."""
    if named is not None:
        return named if has_litellm(named) else None
    made = Path(sys.prefix) / EXTRA / "bin" / "python"
    if has_litellm(made):
        return made
    return Path(sys.executable) if find_spec(EXTRA) is not None else None


def has_litellm(python: Path) -> bool:
    """Whether an interpreter's environment has litellm, as far as its folders show; nothing is started."""
    home = Path(os.path.abspath(python)).parent.parent
    return python.is_file() and any(home.glob(f"lib/python3*/*-packages/{EXTRA}/__init__.py"))


def worker_for(variable: Variable, python: Path | None, endpoint: str | None, connect: float, total: float) -> Worker | None:
    """The worker of these settings; None where something is missing."""
    chosen = interpreter(python)
    if needs(variable, python) is not None or chosen is None:
        return None
    names = {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "aws_session_token": "AWS_SESSION_TOKEN",
    }
    found = {name: secret.get_secret_value() for name, from_ in names.items() if (secret := variable(from_))}
    found["aws_region_name"] = _region(variable) or ""
    if endpoint is not None:
        found["aws_bedrock_runtime_endpoint"] = endpoint
    wanted = PASSED if "aws_access_key_id" in found else (*PASSED, *ROLE)
    environment = {name: secret.get_secret_value() for name in wanted if (secret := variable(name))}
    return Worker(chosen, found, connect, total, environment)


def _region(variable: Variable) -> str | None:
    secret = variable("AWS_REGION") or variable("AWS_DEFAULT_REGION")
    return secret.get_secret_value() if secret else None


class LitellmUpstream:
    """See port.Upstream. One worker at a time; one that has died is replaced by the next request."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self.folder: Path | None = None
        """Where the worker's socket is, once one was started; nobody else may enter."""
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._failed: tuple[float, str] | None = None
        self._pool = Pool(1.0)

    @property
    def pid(self) -> int | None:
        """The process id of the worker; None where none is running: before the first request, after `close`, after its death."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def open(self, call: Call) -> HttpAnswer:
        connection = await self._connect()
        call.sent = True
        await connection.ask(f"POST / HTTP/1.1\r\ncontent-length: {len(call.body)}\r\n\r\n".encode() + call.body)
        billed = connection.fields.get(BILLED)
        if billed is not None:
            connection.abort()
            kind, text = (UpstreamTimeout, "took too long") if billed == b"timeout" else (UpstreamError, "broke off, or has no end")
            raise kind(f"Bedrock's answer {text}; it may have been billed.", dispatched=True)
        unsent = connection.fields.get(UNSENT)
        if unsent is not None:
            # A litellm that refuses is no host that was asked; the worker knows from the socket.
            call.sent = False
            if connection.status >= 500:
                connection.abort()
                kind = UpstreamTimeout if unsent == b"timeout" else UpstreamError
                raise kind("Bedrock could not be reached; nothing was sent.", dispatched=False)
        return HttpAnswer(connection, self._pool)

    async def close(self) -> None:
        """End the worker: its input ends, and it has a moment to follow."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        self._pool.close()
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _connect(self) -> Connection:
        await self._started()
        assert self.folder is not None
        try:
            return (await self._loop.create_unix_connection(Connection, str(self.folder / "s")))[1]
        except OSError as error:
            raise UpstreamError("The worker for Bedrock does not answer; nothing was sent.", dispatched=False) from error

    async def _started(self) -> None:
        """A worker that listens. Whoever waits for a start may leave; the start goes on for the others."""
        if self.pid is not None:
            return
        if self._failed is not None and self._loop.time() < self._failed[0]:
            raise UpstreamError(self._failed[1], dispatched=False)
        if self._starting is None:
            self._starting = self._loop.create_task(self._start())
            self._starting.add_done_callback(self._finished)
        await asyncio.shield(self._starting)

    def _finished(self, start: asyncio.Task[None]) -> None:
        self._starting = None
        # Looked at, so that nobody needs to wait for it.
        if not start.cancelled():
            start.exception()

    async def _start(self) -> None:
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="faregate-"))
        (self.folder / "s").unlink(missing_ok=True)
        worker = self._worker
        command = [str(worker.python), "-I", str(worker.program), "--socket", str(self.folder / "s")]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=dict(worker.environment), start_new_session=True
            )
        except OSError as error:
            raise self._failure(f"{worker.python} cannot be started ({type(error).__name__})") from None
        try:
            said = await self._hear(process)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if said != "ready":
            await _end(process)
            raise self._failure(said or "it ended without a word")
        self._process = process

    async def _hear(self, process: Process) -> str:
        """Its one line of output, after it was told how to reach the host."""
        assert process.stdin is not None and process.stdout is not None
        told = {"account": dict(self._worker.account), "connect": self._worker.connect, "total": self._worker.total}
        try:
            async with asyncio.timeout(START_WITHIN):
                process.stdin.write(json.dumps(told).encode() + b"\n")
                await process.stdin.drain()
                return (await process.stdout.readline()).decode("utf-8", "replace").strip()[:200]
        except TimeoutError:
            return f"it is not ready after {START_WITHIN:.0f} seconds"
        except ConnectionError:
            return ""

    def _failure(self, reason: str) -> UpstreamError:
        text = f"The worker for Bedrock cannot start: {reason}. Nothing was sent; the operator must mend it."
        self._failed = self._loop.time() + RETRY_AFTER, text
        return UpstreamError(text, dispatched=False)


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_WITHIN):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
