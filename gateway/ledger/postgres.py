"""The ledger in PostgreSQL, for any number of replicas: each call is one operation of a batch, done when its batch is committed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.budgets import exceeded
from gateway.errors import AlreadyDone, FaregateError, IdempotencyMismatch, InFlight
from gateway.ledger import postgres_schema
from gateway.ledger.columns import REQUEST, instant, lines_text, microseconds, request_columns
from gateway.ledger.corrections import COLUMNS as CORRECTION
from gateway.ledger.corrections import columns_of, known_otherwise, wanted
from gateway.ledger.gone import late_of
from gateway.ledger.port import Closed, Event, HoldError, Mark, Page, Rates, Spend, SpendBy, Trail, Zones, no_zone, same_currency
from gateway.ledger.postgres_connection import PATIENCE_SECONDS, close, connect_soon
from gateway.ledger.postgres_reading import PostgresReader
from gateway.ledger.postgres_verify import verify
from gateway.ledger.postgres_writer import BATCH, Answer, Writer
from gateway.outcome import BudgetState, Claim, Correction, Grant, Hold, LedgerRow
from gateway.reports.tallies import Question, Take

REAP: Final = 200
# The largest limit that a column takes, some nine billion units of a currency.
_LARGEST: Final = 2**63 - 1

# The names by which the database knows a budget.
_NAME: Final = ("team", "budget", "key", "period", "currency")

_encode = msgspec.json.Encoder().encode


class PostgresStore:
    """The port `Store` on one database, which any number of processes share.

    `patience` (seconds) bounds each statement; a caller waits at most twice as long, whatever the server does. A batch has at most
    `batch` operations.
    """

    def __init__(self, address: str, *, patience: float = PATIENCE_SECONDS, batch: int = BATCH) -> None:
        self._address = address
        self._patience = patience
        self._writer = Writer(address, patience, batch)
        self._reader = PostgresReader(address, patience=patience)

    async def start(self) -> None:
        connection = await connect_soon(self._address, self._patience)
        try:
            await postgres_schema.prepare(connection)
        except BaseException:
            # Whatever it is, raised again: a connection that nobody has must not stay open.
            await close(connection, self._patience)
            raise
        self._writer.start(connection)

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    @property
    def connected(self) -> bool:
        """Whether the database can be written to, as far as is known."""
        return self._writer.connected

    @property
    def commits(self) -> int:
        return self._writer.figures.batches

    async def hold(self, hold: Hold, owner: str, lease: float, *, forced: bool = False) -> Grant:
        operation = {"op": "hold", "owner": owner, "lease": round(lease * 1_000_000), "forced": forced, **_hold(hold)}
        about: tuple[str, ...] = (hold.id,)
        if hold.idempotency is not None:
            operation |= {"idem": hold.idempotency.key, "fp": hold.idempotency.body}
            about = (hold.id, f"idempotency {hold.idempotency.key}")
        # A caller that left never received it: nothing can have been dispatched under it, and no row is kept.
        undo = _encode({"op": "abandon", "event": "release", "rid": hold.id})
        return _grant(hold, await self._writer.submit(_encode(operation), about, undo))

    async def extend(self, hold: Hold) -> Grant:
        return _grant(hold, await self._writer.submit(_encode({"op": "extend", **_hold(hold)}), (hold.id,)))

    async def finish(self, event: Event, row: LedgerRow) -> bool:
        operation = {
            "op": "finish",
            "event": event,
            "rid": row.id,
            "nano": row.nano,
            "currency": row.currency,
            "source": _source(row),
            "row": dict(zip(REQUEST, request_columns(row), strict=True)),
        }
        answer = await self._writer.submit(_encode(operation), (row.id,))
        if answer.error == "unknown":
            late = late_of(event, row, 0, ())
            given = dict(zip(CORRECTION, columns_of(late), strict=True))
            answer = await self._writer.finish_gone(_encode({**operation, "row": None}), _encode(given))
        return _done(row, answer)

    async def renew(self, ids: Collection[str], lease: float) -> int:
        return await self._writer.renew(list(ids), round(lease * 1_000_000))

    async def reap(self) -> int:
        total = 0
        while reaped := await self._writer.reap(REAP):
            total += reaped
        return total

    async def request(self, id: str) -> LedgerRow | None:
        return await self._reader.request(id)

    async def trail(self, id: str) -> Trail | None:
        return await self._reader.trail(id)

    async def requests(self, limit: int) -> list[LedgerRow]:
        return await self._reader.requests(limit)

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        return await self._reader.page(start, end, team, after, limit)

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        return await self._reader.spend(by, start, end, team)

    async def tally(self, question: Question, take: Take) -> None:
        await self._reader.tally(question, take)

    async def correct(self, given: Sequence[Correction], rates: Rates = same_currency, zones: Zones = no_zone) -> int:
        new = 0
        for correction in given:
            columns = columns_of(correction)
            states = await self._reader.budgets(correction.at, correction.team) if correction.team else []
            claims = [{**dict(zip(_NAME, one.name, strict=True)), "nano": one.nano} for one in wanted(correction, states, rates, zones)]
            answer = await self._writer.correct(_encode({**dict(zip(CORRECTION, columns, strict=True)), "claims": claims or None}))
            if answer == "other":
                raise known_otherwise(correction.id)
            new += answer == "new"
        return new

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        return await self._reader.corrections(start, end, team)

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        return await self._reader.closed(start, end, team)

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        return await self._reader.budgets(at, team)

    async def verify(self) -> list[str]:
        return await verify(self._address)


def _hold(hold: Hold) -> dict[str, Any]:
    """A hold as `apply` reads it."""
    found: dict[str, Any] = {
        "rid": hold.id,
        "nano": hold.nano,
        "lowest": hold.least,
        "expected": hold.expected,
        "worst": hold.worst,
        "currency": hold.currency,
        "team": hold.team,
        "key": hold.key,
        "route": hold.route,
        "host": hold.host,
        "model": hold.model,
        "card": hold.card,
        "policies": hold.policies,
        "started": microseconds(hold.started),
    }
    if hold.claims:
        found["claims"] = [_claim(claim) for claim in hold.claims]
        found["lims"] = [min(claim.limit, _LARGEST) for claim in hold.claims]
        found["ends"] = [None if claim.resets_at is None else microseconds(claim.resets_at) for claim in hold.claims]
        found["finish"] = [claim.finish for claim in hold.claims]
    if hold.attempts:
        found["attempts"] = lines_text(hold.attempts)
    return found


def _claim(claim: Claim) -> dict[str, Any]:
    """What the row of a hold keeps of a claim, beside what it holds."""
    return {
        "team": claim.team,
        "budget": claim.budget,
        "key": claim.key,
        "period": claim.period,
        "currency": claim.currency,
        "rate": claim.rate,
    }


def _source(row: LedgerRow) -> str:
    if row.usage is None:
        return "none"
    return "reported" if row.usage.reported else "counted"


def _grant(hold: Hold, answer: Answer) -> Grant:
    if answer.error:
        raise _refusal(hold, answer)
    return Grant(answer.nano, _states(hold.claims, answer.budgets))


def _states(claims: Sequence[Claim], budgets: Sequence[Sequence[Any]]) -> tuple[BudgetState, ...]:
    return tuple(_state(claim, budget) for claim, budget in zip(claims, budgets, strict=False))


def _state(claim: Claim, budget: Sequence[Any]) -> BudgetState:
    lim, spent, held, peak, overrun, ends = budget
    resets_at = None if ends is None else instant(ends)
    return BudgetState(claim.team, claim.budget, claim.key, claim.period, claim.currency, lim, spent, held, peak, overrun, resets_at)


def _refusal(hold: Hold, answer: Answer) -> FaregateError | HoldError:
    match answer.error:
        case "exceeded":
            return exceeded(_state(hold.claims[answer.claim], answer.budgets[0]), answer.asked)
        case "mismatch":
            return IdempotencyMismatch("This Idempotency-Key was used for another body. Remedy: use a new key for a new request.")
        case "in_flight":
            return InFlight("The request with this Idempotency-Key is on its way.", retry_after=1)
        case "done":
            return AlreadyDone(
                f"The request with this Idempotency-Key was answered as {answer.id}, and charged.", details={"id": answer.id}
            )
        case "known":
            return HoldError(f"request {hold.id} has a hold already")
        case "others":
            return HoldError(f"request {hold.id} claims other budgets than its hold")
        case _:
            return HoldError(f"request {hold.id} has no open hold to extend")


def _done(row: LedgerRow, answer: Answer) -> bool:
    if answer.error == "currency":
        raise HoldError(f"request {row.id} is held in {answer.id} and cannot be charged in {row.currency}")
    if answer.error:
        raise HoldError(f"request {row.id} has no hold")
    return answer.done
