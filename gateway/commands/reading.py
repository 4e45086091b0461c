"""The ledger that a command asks: the one named, else that of the settings; read beside the gateways that write it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol, TypeVar

from gateway.app import ledger_file, on_postgres
from gateway.cli import CommandError
from gateway.ledger.port import Spend, SpendBy
from gateway.ledger.postgres_reading import PostgresReader
from gateway.ledger.reading import SqliteReader
from gateway.outcome import BudgetState
from gateway.settings import Settings, SettingsError, load

HELP: Final = "sqlite:///PATH or postgresql://… (default: FAREGATE_LEDGER, or the file in FAREGATE_DATA)"
T = TypeVar("T")


class Reader(Protocol):
    """The questions to a store that a command may ask."""

    async def start(self) -> None: ...

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]: ...

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]: ...

    async def close(self) -> None: ...


def settings_with(address: str | None) -> Settings:
    """The settings of the environment, with another ledger where one is named; CommandError where they cannot be read."""
    try:
        settings = load()
        return settings.model_copy(update={"ledger": load({"FAREGATE_LEDGER": address}, None).ledger}) if address else settings
    except SettingsError as error:
        raise CommandError(str(error)) from None


def ask(settings: Settings, questions: Callable[[Reader], Awaitable[T]]) -> T:
    """The answers of the settings' ledger; LedgerUnavailable with the remedy where there is none."""
    return asyncio.run(_ask(_reader(settings), questions))


async def _ask(reader: Reader, questions: Callable[[Reader], Awaitable[T]]) -> T:
    await reader.start()
    try:
        return await questions(reader)
    finally:
        await reader.close()


def _reader(settings: Settings) -> Reader:
    return PostgresReader(settings.ledger_address) if on_postgres(settings) else SqliteReader(ledger_file(settings))
