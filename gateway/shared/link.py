"""Link: calls to one Redis, at most one call budget long, and none at all while it is down.

What is asked at the same time goes in one batch, so that a burst costs the process a fraction, and its calls keep their
order. A call that fails may still have had its effect: nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.shared.breaker import Breaker

Outcome = Literal["ok", "error", "timeout", "skipped"]
# Seconds that a request waits for Redis at most.
BUDGET: Final = 0.05
# Seconds between two looks at a Redis that is down, and in which such a look may connect.
PROBE: Final = 0.2
CONNECT: Final = 1.0
# Seconds between two words to a Redis that is up: it takes three failures to be left alone, whether anybody needs it or not.
PULSE: Final = 1.0
BATCH: Final = 128
# A timer that rings later than this part of the budget too late was kept waiting by this process itself.
LATE: Final = 0.1
# Connections: one for calls, one for the probe, one that listens, and one to spare.
CONNECTIONS: Final = 4
_PROBE_KEY: Final = "faregate:probe"
log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Who learns of calls and of Redis coming and going: metrics."""

    def redis_call(self, op: str, outcome: Outcome) -> None: ...

    def redis_up(self, up: bool) -> None: ...


class Down(Exception):
    """Redis did not answer this call, or was not asked. `sent`: the call may have had its effect."""

    def __init__(self, sent: bool) -> None:
        super().__init__("redis is down")
        self.sent = sent


class Script(NamedTuple):
    """A Lua file of this package and the name under which a server keeps it."""

    text: str
    digest: str


@cache
def script(name: str) -> Script:
    text = (files("gateway.shared") / "lua" / f"{name}.lua").read_text("utf-8")
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class _Call(NamedTuple):
    """`answer` is None where nobody waits for it."""

    op: str
    script: Script | None
    words: tuple[Any, ...]
    answer: asyncio.Future[Any] | None

    @property
    def command(self) -> tuple[Any, ...]:
        return self.words if self.script is None else ("EVALSHA", self.script.digest, *self.words)


class Link:
    """One Redis. `on_up` is called when it has come back. Raises ValueError for an address that cannot be one."""

    def __init__(self, url: str, watcher: Watcher, budget: float = BUDGET, *, quiet: bool = False) -> None:
        """`quiet`: another link to the same Redis tells the log of its coming and going."""
        self._watcher = watcher
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._counted = watcher.redis_call
        self._budget = budget
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=CONNECT,
            protocol=2,
            # The budget of a whole batch is ours; a limit for each read would cost more than the read.
            socket_timeout=None,
            socket_connect_timeout=CONNECT,
            # A peer that vanished without a word; a socket of this machine has no such option.
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            decode_responses=True,
        )
        # An address with an option that there is not is refused now, not at the first connection.
        self._pool.make_connection()  # type: ignore[no-untyped-call]
        self.client = Redis(connection_pool=self._pool)
        self._breaker = Breaker()
        self._queue: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._pulsing: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[list[Any]]] = set()
        self._said: set[str] = set()
        self.on_up: Callable[[], None] = lambda: None

    @property
    def database(self) -> int:
        return int(self._pool.connection_kwargs.get("db", 0))

    @property
    def up(self) -> bool:
        return self._breaker.closed

    async def start(self) -> None:
        """Look for it once, so that the first request need not; raises nothing where it is down."""
        try:
            await self._look()
            self._watcher.redis_up(True)
        except (RedisError, OSError, TimeoutError) as problem:
            while not self._breaker.failed():
                pass
            self._opened(problem)
        self._pulsing = asyncio.create_task(self._pulse())

    async def close(self) -> None:
        for task in (self._pulsing, self._sending, self._probing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._drop_queue()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.client.aclose()
        await self._pool.disconnect()

    async def call(self, op: str, script: Script, keys: Sequence[str], *values: Any) -> Any:
        """The script's answer. Raises Down within the budget, and at once where Redis is known to be down."""
        if not self._breaker.closed:
            self._counted(op, "skipped")
            raise Down(sent=False)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Call(op, script, (len(keys), *keys, *values), answer))
        return await answer

    def post(self, op: str, script: Script, keys: Sequence[str], *values: Any) -> None:
        """The same without waiting; lost where Redis is down."""
        if self._breaker.closed:
            self._put(_Call(op, script, (len(keys), *keys, *values), None))

    def publish(self, channel: str, message: bytes) -> None:
        if self._breaker.closed:
            self._put(_Call("publish", None, ("PUBLISH", channel, message), None))

    def _put(self, call: _Call) -> None:
        self._queue.append(call)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        """Batch after batch, until nothing waits; one at a time, so that calls keep their order."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                answers = await self._in_time(batch)
            except (RedisError, OSError, TimeoutError) as problem:
                await self._lost(batch, problem)
            except BaseException:
                self._fail(batch, "error")
                raise
            else:
                self._answer(batch, answers)

    async def _in_time(self, batch: Sequence[_Call]) -> list[Any]:
        """The answers within the budget, or TimeoutError. What kept this process itself busy is not taken for a slow Redis."""
        clock = asyncio.get_running_loop().time
        asking, begun = asyncio.create_task(self._ask(batch)), clock()
        try:
            await asyncio.wait((asking,), timeout=self._budget)
            if not asking.done() and clock() - begun > (1 + LATE) * self._budget:
                await asyncio.wait((asking,), timeout=self._budget)
            if not asking.done():
                raise TimeoutError
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                # Its end closes the connection; nobody waits for that.
                self._ending.add(asking)
                asking.add_done_callback(self._ended)

    def _ended(self, asking: asyncio.Task[list[Any]]) -> None:
        self._ending.discard(asking)
        if not asking.cancelled():
            asking.exception()

    async def _ask(self, batch: Sequence[_Call]) -> list[Any]:
        answers = await self._pipeline(batch)
        missing = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            # A server that was restarted knows no scripts; what it did not know it has not run.
            for text in {call.script.text for at in missing if (call := batch[at]).script}:
                await self.client.script_load(text)
            for at, answer in zip(missing, await self._pipeline([batch[at] for at in missing]), strict=True):
                answers[at] = answer
        return answers

    async def _pipeline(self, batch: Sequence[_Call]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for call in batch:
                pipeline.execute_command(*call.command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _answer(self, batch: Sequence[_Call], answers: Sequence[Any]) -> None:
        server = next((answer for answer in answers if isinstance(answer, ResponseError) and _of_server(answer)), None)
        for call, answer in zip(batch, answers, strict=True):
            failed = isinstance(answer, Exception)
            if failed:
                self._say(call.op, answer)
            self._counted(call.op, "error" if failed else "ok")
            if call.answer is not None and not call.answer.done():
                call.answer.set_exception(Down(sent=True)) if failed else call.answer.set_result(answer)
        if server is None:
            self._breaker.succeeded()
        elif self._breaker.failed():
            self._opened(server)

    async def _lost(self, batch: Sequence[_Call], problem: Exception) -> None:
        """A batch without an answer. What waits behind a Redis that hangs has waited as long: nobody waits twice."""
        late = isinstance(problem, TimeoutError)
        self._fail(batch, "timeout" if late else "error")
        if self._breaker.failed():
            self._opened(problem)
        if late or not self._breaker.closed:
            self._drop_queue()
        # Connections to a server that is gone would each fail once.
        await self._pool.disconnect(inuse_connections=False)

    def _drop_queue(self) -> None:
        self._fail(list(self._queue), "skipped")
        self._queue.clear()

    def _fail(self, batch: Sequence[_Call], outcome: Outcome) -> None:
        for call in batch:
            self._counted(call.op, outcome)
            if call.answer is not None and not call.answer.done():
                call.answer.set_exception(Down(sent=outcome != "skipped"))

    def _opened(self, problem: Exception) -> None:
        self._watcher.redis_up(False)
        log.log(self._level, "redis is down (%s): it is left alone until it answers again", _reason(problem))
        self._probing = asyncio.create_task(self._probe())

    async def _pulse(self) -> None:
        """Ask for a sign of life in turn with the calls, so that readiness is true where nobody calls."""
        while True:
            await asyncio.sleep(PULSE)
            if self._breaker.closed:
                self._put(_Call("probe", None, ("PING",), None))

    async def _probe(self) -> None:
        """Look until it is well again; connections are made anew, to whichever server has the name now."""
        while not self._breaker.closed:
            await asyncio.sleep(PROBE)
            try:
                await self._pool.disconnect()
                await self._look()
            except (RedisError, OSError, TimeoutError) as problem:
                self._counted("probe", "timeout" if isinstance(problem, TimeoutError) else "error")
                continue
            self._breaker.close()
            self._watcher.redis_up(True)
            log.log(self._level, "redis is up again")
            self.on_up()

    async def _look(self) -> None:
        """Whether it can be reached, answers in time, and takes writes: raises where not."""
        async with asyncio.timeout(CONNECT):
            await self.client.ping()
        async with asyncio.timeout(self._budget):
            await self.client.eval(script("probe").text, 1, _PROBE_KEY)
        self._counted("probe", "ok")

    def _say(self, op: str, problem: Exception) -> None:
        """An answer that is an error, once for each kind."""
        if (about := f"{op} {type(problem).__name__}") not in self._said:
            self._said.add(about)
            log.warning("redis refused %s: %s", op, _reason(problem))


def _of_server(answer: Exception) -> bool:
    """Whether an error is the server's own state, and not one key of another type."""
    return not str(answer).startswith("WRONGTYPE")


def _reason(problem: BaseException) -> str:
    """The kind of the error and, where the server says so itself, its words: never an address."""
    kind = type(problem).__name__
    return f"{kind}: {str(problem).split(' script: ', 1)[0][:100]}" if isinstance(problem, ResponseError) else kind
