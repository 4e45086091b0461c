"""Answers to `gateway.reports.tallies` from a ledger in PostgreSQL: on a connection of its own, in one snapshot."""

from __future__ import annotations

from typing import Final

from gateway.ledger.columns import instant, microseconds, request_row
from gateway.ledger.postgres_connection import ask, check_there, close, connect
from gateway.ledger.tallies import POSTGRES, filters, hand_over, hand_over_split, span, statements
from gateway.reports.tallies import Question, Take

# An hour of a busy ledger takes its time; one that answers nothing ends the wait.
_STATEMENT_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0


async def tally(address: str, question: Question, take: Take) -> None:
    """As Ledger.tally; LedgerUnavailable where the database has no ledger, or does not answer."""
    asked = statements(question, POSTGRES)
    only = filters(question)
    connection = await connect(address, _CONNECT_SECONDS, _STATEMENT_SECONDS)
    try:
        await ask(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", (), _STATEMENT_SECONDS)
        await check_there(connection, address, _STATEMENT_SECONDS)
        period = question.period
        bounds = await ask(connection, asked.bounds, (microseconds(period.start), microseconds(period.end)), _STATEMENT_SECONDS)
        first, last = bounds[0]
        if first is None:
            return
        for slice in period.slices(instant(first), instant(last)):
            groups = await ask(connection, asked.sums, (*span(slice), *only), _STATEMENT_SECONDS)
            if hand_over(question, slice, map(tuple, groups), take):
                rows = await ask(connection, asked.split, (*span(slice), *only[:3]), _STATEMENT_SECONDS)
                hand_over_split(question, slice, (request_row(tuple(row)) for row in rows), take)
    finally:
        await close(connection, _CLOSE_SECONDS)
