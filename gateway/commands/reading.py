"""The ledger that a command asks: the one named, else that of the settings; read beside the gateways that write it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol, TypeVar

from gateway.app import ledger_file, on_postgres
from gateway.cli import CommandError
from gateway.clock import parse_instant
from gateway.ledger.port import Closed, Mark, Page, Spend, SpendBy, Trail
from gateway.ledger.postgres_reading import PostgresReader
from gateway.ledger.reading import SqliteReader
from gateway.outcome import BudgetState, Correction, LedgerRow
from gateway.reports.tallies import Question, Take
from gateway.settings import Settings, SettingsError, load

HELP: Final = "sqlite:///PATH or postgresql://… (default: FAREGATE_LEDGER, or the file in FAREGATE_DATA)"
# Rows asked for at a time: a long question would hold up the gateways' housekeeping.
_PAGE: Final = 2000
T = TypeVar("T")


class Reader(Protocol):
    """The questions to a store that a command may ask."""

    async def start(self) -> None: ...

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]: ...

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]: ...

    async def tally(self, question: Question, take: Take) -> None: ...

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]: ...

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]: ...

    async def request(self, id: str) -> LedgerRow | None: ...

    async def trail(self, id: str) -> Trail | None: ...

    async def archived(self, id: str) -> str | None: ...

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page: ...

    async def close(self) -> None: ...


def settings_with(address: str | None) -> Settings:
    """The settings of the environment, with another ledger where one is named; CommandError where they cannot be read."""
    try:
        settings = load()
        return settings.model_copy(update={"ledger": load({"FAREGATE_LEDGER": address}, None).ledger}) if address else settings
    except SettingsError as error:
        raise CommandError(str(error)) from None


def instant_of(option: str, text: str | None, otherwise: datetime) -> datetime:
    """The instant that an option says: a date is its midnight, UTC. CommandError where it is none."""
    if text is None:
        return otherwise
    try:
        return parse_instant(f"{text}T00:00:00Z" if len(text) == len("2026-11-20") else text)
    except ValueError as error:
        what = "has no time zone" if "zone" in str(error) else "is no instant"
        raise CommandError(f"{option}: {text!r} {what}. Write it as 2026-11-20 or 2026-11-20T02:00:00Z.") from None


def ask(settings: Settings, questions: Callable[[Reader], Awaitable[T]]) -> T:
    """The answers of the settings' ledger; LedgerUnavailable with the remedy where there is none."""
    return asyncio.run(_ask(_reader(settings), questions))


def rows_between(settings: Settings, start: datetime, end: datetime, team: str | None = None) -> list[LedgerRow]:
    """Every request (of one team) that ended in [start, end), the oldest first."""
    return ask(settings, lambda reader: _all(reader, start, end, team))


async def _all(reader: Reader, start: datetime, end: datetime, team: str | None) -> list[LedgerRow]:
    page = await reader.page(start, end, team, None, _PAGE)
    rows = page.rows
    while page.mark is not None:
        page = await reader.page(start, end, team, page.mark, _PAGE)
        rows += page.rows
    return rows


async def _ask(reader: Reader, questions: Callable[[Reader], Awaitable[T]]) -> T:
    await reader.start()
    try:
        return await questions(reader)
    finally:
        await reader.close()


def _reader(settings: Settings) -> Reader:
    return PostgresReader(settings.ledger_address) if on_postgres(settings) else SqliteReader(ledger_file(settings))
