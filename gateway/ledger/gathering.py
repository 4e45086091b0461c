"""Filling a report from a ledger: what requests were charged, what was corrected, what is left of archived months."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from gateway.errors import LedgerUnavailable
from gateway.ledger.port import Closed
from gateway.outcome import Correction
from gateway.reports.periods import Period, Slice
from gateway.reports.tallies import Question, Sums, Take


class Report(Protocol):
    """What is filled: it knows its period and its question, and what to do with the answers."""

    @property
    def period(self) -> Period: ...

    @property
    def question(self) -> Question: ...

    def take(self, slice: Slice, names: Sequence[str], currency: str, sums: Sums, /) -> None: ...

    def correct(self, corrections: Sequence[Correction], /) -> None: ...

    def archive(self, months: Sequence[Closed], /) -> None: ...


class Asked(Protocol):
    """What a report asks of a ledger, or of a reader beside one."""

    async def tally(self, question: Question, take: Take) -> None: ...

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]: ...

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]: ...


async def gather(ledger: Asked, report: Report) -> None:
    """Everything that the ledger knows of the report's period; LedgerUnavailable where it cannot be asked, or is being archived."""
    period, question = report.period, report.question
    team = question.only.get("team")
    months = await ledger.closed(period.start, period.end, team)
    await ledger.tally(question, report.take)
    report.correct(await ledger.corrections(period.start, period.end, team))
    await settled(ledger, months, period.start, period.end, team)
    report.archive(months)


async def settled(ledger: Asked, months: Sequence[Closed], start: datetime, end: datetime, team: str | None = None) -> None:
    """LedgerUnavailable where requests have left for an archive since `months` was read: some would count twice, or not at all."""
    if await ledger.closed(start, end, team) != months:
        raise LedgerUnavailable("Requests of this time are being archived just now. Remedy: ask again when that is done.", retry_after=60)
