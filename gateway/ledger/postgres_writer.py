"""Batches for a ledger in PostgreSQL: what is submitted while one is under way goes with the next, on one connection.

A batch is one statement, and so one transaction: whoever waits for an operation of it goes on after the commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from gateway.budgets import SHARE
from gateway.errors import LedgerUnavailable
from gateway.ledger.port import TRANSITIONS, HoldError
from gateway.ledger.postgres_connection import close, connect, failures, is_about_connection, is_about_data, unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH: Final = 128
# For so long after the connection was lost, operations wait for the next one; then they are refused at once.
GRACE_SECONDS: Final = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_APPLY: Final = "SELECT faregate.apply($1::jsonb, $2::jsonb)"
_RENEW: Final = "SELECT faregate.renew($1::text[], $2::bigint)"
_REAP: Final = "SELECT faregate.reap($1::jsonb, $2::int)"
_CORRECT: Final = "SELECT faregate.correct($1::jsonb)"
_FINISH_GONE: Final = "SELECT faregate.finish_gone($1::jsonb, $2::jsonb, $3::jsonb)"


def _rules() -> str:
    """What `apply` is told of the rules, which are made elsewhere and only there: which event leads where, and the share of a grant."""
    steps: dict[str, dict[str, list[str | None]]] = {}
    for (state, event), step in TRANSITIONS.items():
        steps.setdefault(event, {})[state] = [step.to, step.entry]
    return msgspec.json.encode({"share": SHARE, "steps": steps}).decode()


RULES: Final = _rules()


class Answer(msgspec.Struct):
    """What `apply` says of one operation."""

    nano: int = 0
    budgets: list[tuple[int, int, int, int, int, int | None]] = []
    done: bool = False
    error: str = ""
    id: str = ""
    claim: int = 0
    asked: int = 0


_answers = msgspec.json.Decoder(list[Answer]).decode
_answer = msgspec.json.Decoder(Answer).decode


class Refused(Exception):
    """The database cannot keep this: nothing was written, and to try again would end in the same way."""


@dataclass(slots=True)
class _Job:
    """One operation as JSON, what it is about (no batch has one of these twice), and who waits for it."""

    operation: bytes
    about: tuple[str, ...]
    future: asyncio.Future[Answer]
    sent: bool = False


@dataclass(slots=True)
class _Call:
    """A statement of its own, which goes between two batches."""

    query: str
    values: tuple[Any, ...]
    future: asyncio.Future[Any]


@dataclass(slots=True)
class Figures:
    """What the writer has done, for measurements."""

    batches: int = 0
    operations: int = 0
    connections: int = 0
    failures: dict[str, int] = field(default_factory=dict)


class Writer:
    """One connection that writes, kept open: connected again in the background, with longer and longer pauses.

    Whoever waits gets an answer or LedgerUnavailable within twice `patience`, also from a server that hangs.
    """

    def __init__(self, address: str, patience: float, batch: int = BATCH) -> None:
        self._address = address
        self._patience = patience
        self._batch = batch
        self._queue: deque[_Job] = deque()
        self._calls: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._down = False
        # Whether it has been down for longer than anybody is to wait for it.
        self._away = False
        self._task: asyncio.Task[None] | None = None
        self.figures = Figures()

    def start(self, connection: Any) -> None:
        """Write on this connection, and when it is lost on the next."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(connection))

    @property
    def connected(self) -> bool:
        return self._task is not None and not self._down and not self._closing

    async def submit(self, operation: bytes, about: tuple[str, ...], undo: bytes | None = None) -> Answer:
        """The answer to one operation, once it is committed. Where the caller leaves after it was sent, `undo` is applied too."""
        job = self._enqueue(operation, about)
        try:
            return await job.future
        except asyncio.CancelledError:
            if undo is not None and job.sent:
                with suppress(LedgerUnavailable):
                    # Nobody waits for it. Where it is lost, the lease of the hold runs out.
                    self._enqueue(undo, about).future.add_done_callback(_unheard)
            raise

    def _enqueue(self, operation: bytes, about: tuple[str, ...]) -> _Job:
        self._check()
        job = _Job(operation, about, self._loop.create_future())
        self._queue.append(job)
        self._wake.set()
        return job

    async def renew(self, ids: list[str], lease: int) -> int:
        return int(await self._call(_RENEW, ids, lease))

    async def reap(self, most: int) -> int:
        return int(await self._call(_REAP, RULES, most))

    async def correct(self, correction: bytes) -> str:
        return str(await self._call(_CORRECT, correction.decode()))

    async def finish_gone(self, operation: bytes, late: bytes) -> Answer:
        return _answer(await self._call(_FINISH_GONE, operation.decode(), RULES, late.decode()))

    async def close(self) -> None:
        """What was submitted is written, if the database takes it."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def _call(self, query: str, *values: Any) -> asyncio.Future[Any]:
        self._check()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.append(_Call(query, values, future))
        self._wake.set()
        return future

    def _check(self) -> None:
        if self._task is None or self._closing:
            raise LedgerUnavailable("The ledger is not open.")
        if self._away:
            raise _unreachable()

    async def _run(self, connection: Any) -> None:
        try:
            while True:
                self._down = self._away = False
                self.figures.connections += 1
                await self._serve_safely(connection)
                if self._closing:
                    break
                self._down = True
                next_one = await self._connect_again()
                if next_one is None:
                    break
                connection = next_one
        finally:
            self._closing = True
            self._refuse(LedgerUnavailable("The ledger is closed."))

    async def _serve_safely(self, connection: Any) -> None:
        """A mistake of ours, or of the driver's, costs the connection and not the ledger."""
        try:
            await self._serve(connection)
        except Exception:
            log.exception("ledger: the connection is given up")
            connection.terminate()

    async def _connect_again(self) -> Any:
        """The next connection; None when the ledger closes meanwhile."""
        pause = _FIRST_PAUSE
        refusal = self._loop.call_later(GRACE_SECONDS, self._give_up)
        try:
            while not self._closing:
                try:
                    found = await connect(self._address, self._patience)
                    log.warning("ledger: connected to the database again")
                    return found
                except LedgerUnavailable as problem:
                    log.error("ledger: %s", problem)
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            return None
        finally:
            refusal.cancel()

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until the ledger closes."""
        until = self._loop.time() + seconds
        while not self._closing and (left := until - self._loop.time()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _serve(self, connection: Any) -> None:
        """Until the connection is lost, or the ledger closes and nothing is left to write."""
        connection.add_termination_listener(lambda _connection: self._wake.set())
        while not connection.is_closed():
            while self._calls and not connection.is_closed():
                await self._make(connection, self._calls.popleft())
            if self._queue and not connection.is_closed():
                await self._write(connection, self._next_batch())
            elif not self._calls:
                if self._closing:
                    await close(connection, self._patience)
                    return
                self._wake.clear()
                await self._wake.wait()

    def _next_batch(self) -> list[_Job]:
        """As many as fit, in their order, up to the first that is about the same request as an earlier one."""
        found: list[_Job] = []
        about: set[str] = set()
        while self._queue and len(found) < self._batch and about.isdisjoint(self._queue[0].about):
            job = self._queue.popleft()
            # A caller that left while it waited: nothing has been sent.
            if not job.future.cancelled():
                job.sent = True
                found.append(job)
                about.update(job.about)
        return found

    async def _write(self, connection: Any, jobs: list[_Job]) -> None:
        try:
            answers = await self._apply(connection, jobs) if jobs else []
        except Refused as problem:
            await self._write_each(connection, jobs, problem)
        except LedgerUnavailable as problem:
            _fail(jobs, problem)
        else:
            for job, answer in zip(jobs, answers, strict=True):
                if not job.future.done():
                    job.future.set_result(answer)
        finally:
            # Whatever happens, nobody waits for ever: this has an effect only when the task itself is ended.
            _fail(jobs, LedgerUnavailable("The ledger is closed."))

    async def _write_each(self, connection: Any, jobs: list[_Job], problem: Refused) -> None:
        """One of them cannot be written, so nothing was: each is tried alone, and only that one fails."""
        if len(jobs) > 1:
            for job in jobs:
                await self._write(connection, [job])
        else:
            log.error("ledger: an operation cannot be kept: %s", problem)
            _fail(jobs, HoldError(str(problem)))

    async def _apply(self, connection: Any, jobs: list[_Job]) -> list[Answer]:
        batch = b"[" + b",".join(job.operation for job in jobs) + b"]"
        text = await self._within(connection, lambda: connection.fetchval(_APPLY, batch.decode(), RULES))
        self.figures.batches += 1
        self.figures.operations += len(jobs)
        return _answers(text)

    async def _make(self, connection: Any, call: _Call) -> None:
        try:
            if call.future.done():
                return
            result = await self._within(connection, lambda: connection.fetchval(call.query, *call.values))
        except (LedgerUnavailable, Refused) as problem:
            _fail([call], problem)
        else:
            if not call.future.done():
                call.future.set_result(result)
        finally:
            _fail([call], LedgerUnavailable("The ledger is closed."))

    async def _within(self, connection: Any, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result; LedgerUnavailable when it is not known, or not to be had; Refused when it never will be."""
        # Not a timeout of asyncpg's: that would ask the server to cancel, and wait for one that hangs.
        timer = self._loop.call_later(self._patience, connection.terminate)
        try:
            return await work()
        except failures() as problem:
            self._count(problem)
            if is_about_data(problem):
                raise Refused(f"the database refuses it ({getattr(problem, 'sqlstate', '')})") from problem
            if is_about_connection(problem):
                connection.terminate()
            raise unavailable(problem) from problem
        finally:
            timer.cancel()

    def _count(self, problem: BaseException) -> None:
        name = type(problem).__name__
        self.figures.failures[name] = self.figures.failures.get(name, 0) + 1

    def _give_up(self) -> None:
        """Nobody waits from now on: who asks again at once would wait until the database is back, for this is called once."""
        self._away = True
        self._refuse(_unreachable())

    def _refuse(self, problem: LedgerUnavailable) -> None:
        """Everything that waits: none of it has been sent."""
        _fail(self._queue, problem)
        self._queue.clear()
        _fail(self._calls, problem)
        self._calls.clear()


def _unreachable() -> LedgerUnavailable:
    return LedgerUnavailable("The ledger's database cannot be reached.", retry_after=1)


def _fail(jobs: Iterable[_Job | _Call], problem: Exception) -> None:
    """Each gets an error of its own: an exception that many raise would gather the traces of all."""
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(copy(problem))


def _unheard(future: asyncio.Future[Answer]) -> None:
    """An answer that nobody waits for: an error in it is no surprise to the event loop."""
    if not future.cancelled():
        future.exception()
