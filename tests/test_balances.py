"""Balances: what hosts say is left, and what it fell by beyond what was charged; against real emulated hosts, without a word of the key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from gateway.balances import Balances, Figure, Unreadable, figures
from gateway.clock import parse_instant
from gateway.errors import LedgerUnavailable
from gateway.hosts import Balance, Host
from gateway.policies import default_folder, load
from gateway.upstream.accounts import Account
from tests.emulated import Client, Clients, chat

SECRET = "sk-not-to-be-seen-anywhere"
DEEPSEEK = Balance(path="/user/balance", each="balance_infos", currency="currency", left="total_balance")
OPENROUTER = Balance(path="/key", left="data.limit_remaining", used="data.usage", step="0.000001")

ANSWERS: dict[str, tuple[Balance, bytes, list[Figure] | None]] = {
    "deepseek": (
        DEEPSEEK,
        b'{"is_available":true,"balance_infos":[{"currency":"CNY","total_balance":"110.00","granted_balance":"10.00"},'
        b'{"currency":"USD","total_balance":"0.07"}]}',
        [Figure("CNY", 110_000_000_000, None), Figure("USD", 70_000_000, None)],
    ),
    "openrouter": (OPENROUTER, b'{"data":{"limit_remaining":12.5,"usage":1.5e-7}}', [Figure("EUR", 12_500_000_000, 150)]),
    "a key without a limit": (OPENROUTER, b'{"data":{"limit_remaining":null,"usage":3}}', [Figure("EUR", None, 3_000_000_000)]),
    "a debt": (DEEPSEEK, b'{"balance_infos":[{"currency":"USD","total_balance":"-0.01"}]}', [Figure("USD", -10_000_000, None)]),
    "nobody's account": (DEEPSEEK, b'{"balance_infos":[]}', []),
    "no list": (DEEPSEEK, b'{"error":"?"}', None),
    "no number": (DEEPSEEK, b'{"balance_infos":[{"currency":"USD","total_balance":"much"}]}', None),
    "not finite": (DEEPSEEK, b'{"balance_infos":[{"currency":"USD","total_balance":"Infinity"}]}', None),
    "an attack": (DEEPSEEK, b'{"balance_infos":[{"currency":"USD","total_balance":"1e99999999"}]}', None),
    "no currency": (DEEPSEEK, b'{"balance_infos":[{"currency":["USD"],"total_balance":"1"}]}', None),
    "true": (OPENROUTER, b'{"data":{"limit_remaining":true,"usage":1}}', None),
    "deep": (DEEPSEEK, b"[" * 100_000, None),
    "no json": (DEEPSEEK, b"<html>", None),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_figures_are_read_where_the_hosts_row_says_or_not_at_all(case: str) -> None:
    row, body, found = ANSWERS[case]
    if found is None:
        with pytest.raises(Unreadable):
            figures(body, row, "EUR")
    else:
        assert figures(body, row, "EUR") == found


def test_the_shipped_rows_say_where() -> None:
    hosts = load(default_folder()).hosts
    assert {name: host.balance for name, host in hosts.items() if host.balance} == {"deepseek": DEEPSEEK, "openrouter": OPENROUTER}


class Times:
    """A clock whose minutes pass when a look is over."""

    def __init__(self) -> None:
        self.minutes = 0

    def now(self) -> datetime:
        return parse_instant(f"2026-11-20T02:{self.minutes:02d}:00Z")

    def monotonic(self) -> float:
        return 60.0 * self.minutes


class Desk:
    """One emulated host, and a ledger that charged what a test says, by the minute in which it did."""

    def __init__(self, host: Host, client: Client) -> None:
        self.client = client
        self.clock = Times()
        self.ledger_down = False
        self.charged: dict[int, int] = {}
        account = Account(host.host, client.emulator.base_url, "USD", key=SECRET)
        self.balances = Balances(lambda: [(host, account)], self._spent, self.clock)
        self.host = host.host

    async def _spent(self, start: datetime, end: datetime) -> Mapping[tuple[str, str], int]:
        if self.ledger_down:
            raise LedgerUnavailable("The ledger's store does not answer.")
        whole = sum(nano for minute, nano in self.charged.items() if start.minute <= minute < end.minute)
        return {(self.host, "USD"): whole, ("another", "USD"): 10**12}

    async def spend(self, charged: bool = True) -> int:
        """A request of some ten cents; its cost in nano."""
        model = {"deepseek": "deepseek-v4-pro", "openrouter": "deepseek/deepseek-r1-0528"}[self.host]
        status, body = await self.client.post(chat(model, "[[answer=30000]]"), Authorization=f"Bearer {SECRET}")
        assert status == 200, body
        nano = int((await self.client.bill())[-1]["nano"])
        if charged:
            # Since the last look.
            minute = self.clock.minutes - 1
            self.charged[minute] = self.charged.get(minute, 0) + nano
        return nano

    async def look(self) -> dict[str, float]:
        await self.balances.look()
        self.clock.minutes += 1
        return {name.removeprefix("faregate_"): value for name, found in self.balances.samples().items() for labels, value in found}


@pytest.fixture(params=["deepseek", "openrouter"])
def host(request: pytest.FixtureRequest) -> Host:
    return load(default_folder()).hosts[request.param]


async def test_what_is_charged_is_no_gap_and_what_is_not_is_one(host: Host) -> None:
    async with Clients() as clients:
        desk = Desk(host, await clients.start(host.host, key=SECRET))
        assert await desk.look() == {"host_balance": 100.0}
        await desk.spend()
        first = await desk.look()
        assert 99 < first["host_balance"] < 100
        assert first["balance_gap"] == 0.0
        spent = await desk.spend(charged=False)
        shown = (await desk.look())["balance_gap"]
        assert 0 < shown <= spent / 1e9
        assert spent / 1e9 - shown < 0.022, "no more than what two figures of cents can hide"
        await desk.spend()
        assert (await desk.look())["balance_gap"] == pytest.approx(shown, abs=0.021)


async def test_a_charge_that_is_written_late_is_counted_in_the_next_look(host: Host) -> None:
    async with Clients() as clients:
        desk = Desk(host, await clients.start(host.host, key=SECRET))
        await desk.look()
        nano = await desk.spend(charged=False)
        assert (await desk.look())["balance_gap"] > 0
        desk.charged[desk.clock.minutes - 2] = nano
        assert (await desk.look())["balance_gap"] == 0.0


async def test_money_that_is_paid_in_is_no_gap() -> None:
    async with Clients() as clients:
        client = await clients.start("deepseek", key=SECRET)
        desk = Desk(load(default_folder()).hosts["deepseek"], client)
        await desk.look()
        await desk.spend(charged=False)
        assert (await desk.look())["balance_gap"] > 0
        await desk.spend()
        async with client.session.post(client.emulator.url + "/_emulator/credit", json={"amount": "250.00"}) as answer:
            assert answer.status == 200
        assert (await desk.look()).keys() == {"host_balance"}, "from here on it is compared anew"
        assert (await desk.look())["balance_gap"] == 0.0
        assert (await desk.look())["balance_gap"] == 0.0


async def test_a_host_that_does_not_answer_shows_nothing_is_said_once_and_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    async with Clients() as clients:
        client = await clients.start("deepseek", key=SECRET)
        desk = Desk(load(default_folder()).hosts["deepseek"], client)
        await desk.look()
        port = client.emulator.port
        await client.emulator.stop()
        with caplog.at_level(logging.INFO):
            assert await desk.look() == {}
            assert await desk.look() == {}
            client.emulator.setup = replace(client.emulator.setup, port=port)
            await client.emulator.start()
            assert await desk.look() == {"host_balance": 100.0, "balance_gap": 0.0}
        assert [record.levelname for record in caplog.records if record.name == "gateway.balances"] == ["WARNING", "INFO"]
        assert SECRET not in caplog.text


async def test_what_was_seen_is_kept_while_a_host_or_the_ledger_does_not_answer(host: Host) -> None:
    async with Clients() as clients:
        client = await clients.start(host.host, key=SECRET)
        desk = Desk(host, client)
        await desk.look()
        await desk.spend(charged=False)
        shown = (await desk.look())["balance_gap"]
        assert shown > 0
        # Charged, and read by the host's next answer: it is no part of the gap.
        await desk.spend()
        await client.emulator.stop()
        assert [await desk.look(), await desk.look()] == [{}, {}]
        client.emulator.setup = replace(client.emulator.setup, port=client.emulator.port)
        await client.emulator.start()
        assert (await desk.look())["balance_gap"] == pytest.approx(shown, abs=0.021)
        await desk.spend()
        desk.ledger_down = True
        assert (await desk.look())["balance_gap"] == pytest.approx(shown, abs=0.021)
        desk.ledger_down = False
        assert (await desk.look())["balance_gap"] == pytest.approx(shown, abs=0.021)


async def test_a_refused_key_is_an_answer_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Clients() as clients:
        client = await clients.start("deepseek")
        row = load(default_folder()).hosts["deepseek"]
        account = Account("deepseek", client.emulator.base_url, "USD", key=SECRET + "-invalid")

        async def spent(start: datetime, end: datetime) -> Mapping[tuple[str, str], int]:
            return {}

        balances = Balances(lambda: [(row, account)], spent, Times())
        await balances.look()
        assert balances.samples() == {"faregate_host_balance": [], "faregate_balance_gap": []}
        assert "status 401" in caplog.text
        assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", ""),
        (b"", f"http://{'a' * 80}.example"),
        (b"", "http://127.0.0.1:99999"),
    ],
    ids=["another protocol", "another place", "no name", "no port"],
)
async def test_no_answer_ends_the_watch(answer: bytes, address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    account = Account("deepseek", address or f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "USD", key=SECRET)

    async def spent(_start: datetime, _end: datetime) -> Mapping[tuple[str, str], int]:
        return {}

    balances = Balances(lambda: [(load(default_folder()).hosts["deepseek"], account)], spent, Times())
    await balances.look()
    server.close()
    assert balances.left() == {}
    assert "the balance at deepseek is not known" in caplog.text and SECRET not in caplog.text
