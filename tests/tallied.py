"""A ledger made up for reports: rows of many requests, among them fallbacks, expired ones and rows of older versions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from importlib.resources import files
from typing import NamedTuple

import apsw

from gateway.clock import parse_instant
from gateway.ledger.columns import REQUEST, request_columns
from gateway.money import Parts, charge
from gateway.outcome import Attempt, LedgerRow
from gateway.policies import Policies
from gateway.prices import Band, Card
from gateway.usage import Sources, Usage

START = parse_instant("2026-10-31T15:00:00Z")
_INSERT = f"INSERT INTO request VALUES ({', '.join('?' * len(REQUEST))})"


class Made(NamedTuple):
    """One attempt: where, by which prices, what it used and what that cost."""

    model: str
    card: Card
    band: Band
    usage: Usage | None
    parts: Parts | None

    @property
    def nano(self) -> int:
        return self.parts.total if self.parts else 0

    def attempt(self, detailed: bool) -> Attempt:
        usage, parts = self.usage, self.parts
        if usage is None or parts is None:
            return Attempt(self.card.host, self.model, "upstream_error", "none", 0)
        plain = Attempt(self.card.host, self.model, "ok", "known" if usage.reported else "possible", self.nano)
        if not detailed:
            return plain
        tokens, split = (usage.cache_hit, usage.cache_miss, usage.output), (parts.cache_hit, parts.cache_miss, parts.output)
        return Attempt(plain.host, plain.model, "ok", plain.billed, plain.nano, tokens, split, self.card.name, self.band.window)


class Maker:
    """Rows of a month, the same for the same seed, charged by the cards of the policies."""

    def __init__(self, policies: Policies, seed: int = 1) -> None:
        self._random, self._number = random.Random(seed), 0
        hosts = ("deepseek", "novita", "openrouter")
        lines = (((host, model, cur), cards[-1]) for (host, model, cur), cards in policies.prices.lines() if host in hosts)
        self._cards: dict[str, list[tuple[str, Card]]] = {}
        for (_host, model, currency), card in lines:
            if card.end is None and card.start < START:
                self._cards.setdefault(currency, []).append((model, card))

    def rows(self, number: int, days: int = 31) -> Iterator[LedgerRow]:
        for _ in range(number):
            yield self.row(START + timedelta(microseconds=self._random.randrange(days * 86_400_000_000)))

    def row(self, ended: datetime) -> LedgerRow:
        some = self._random
        currency = some.choice(("USD", "USD", "CNY"))
        made = [self._made(currency, ended) for _ in range(some.choice((1, 1, 1, 1, 1, 2, 3)))]
        kind = some.choice(("plain",) * 8 + ("old", "expired", "free", "stated"))
        if kind == "free":
            made = [one._replace(usage=None, parts=None) for one in made]
        if kind == "stated":
            made = [one._replace(parts=_scaled(one.parts, some.randrange(1, 9))) for one in made]
        attempts = [one.attempt(len(made) > 1 and kind != "old") for one in made]
        if kind == "expired":
            attempts[-1] = Attempt(attempts[-1].host, attempts[-1].model, "gateway_error", "possible", some.randrange(10**7))
        return self._whole(made, tuple(attempts), kind == "expired", currency, ended)

    def _made(self, currency: str, at: datetime) -> Made:
        some = self._random
        model, card = some.choice(self._cards[currency])
        band = card.band(at)
        hit, miss, output = (some.choice((0, some.randrange(40), some.randrange(30_000))) for _ in range(3))
        sources = some.choice((Sources(), Sources(), Sources(), Sources(output="counted"), Sources(cache_hit="unknown")))
        usage = Usage(0 if sources.cache_hit == "unknown" else hit, miss, output, output // 3, sources)
        return Made(model, card, band, usage, charge(band.rates, usage.cache_hit, miss, output))

    def _whole(self, made: list[Made], attempts: tuple[Attempt, ...], expired: bool, currency: str, ended: datetime) -> LedgerRow:
        self._number += 1
        last, used = made[-1], [one for one in made if one.usage and one.parts]
        known = bool(used) and not expired
        team = self._random.choice(("search", "ads", "chat"))
        return LedgerRow(
            id=f"r{self._number}", team=team, key=f"{team}-{self._random.randrange(3)}", route=self._random.choice(("r1", "v4")),
            host=last.card.host, model=last.model, contract="", edits=(), usage=_usage(used) if known else None, currency=currency,
            nano=sum(one.nano for one in attempts), parts=_parts(used) if known else None, card=last.card.name,
            window="" if expired else last.band.window, policies="9f", started=ended, ended=ended,
            status="gateway_error" if expired else "ok", stopped="expired" if expired else None, attempts=attempts, expected_nano=0,
            worst_nano=0, disputed=self._random.random() < 0.05,
        )  # fmt: skip


def _scaled(parts: Parts | None, by: int) -> Parts | None:
    """As a host that states its own bill."""
    return None if parts is None else Parts(parts.cache_hit * by // 5, parts.cache_miss * by // 5, parts.output * by // 5 + 1)


def _usage(made: list[Made]) -> Usage:
    usages = [one.usage for one in made if one.usage]
    sums = [sum(getattr(one, name) for one in usages) for name in ("cache_hit", "cache_miss", "output", "reasoning")]
    unsure = next((one.sources for one in usages if one.sources != Sources()), Sources())
    return Usage(sums[0], sums[1], sums[2], sums[3], unsure)


def _parts(made: list[Made]) -> Parts:
    parts = [one.parts for one in made if one.parts]
    return Parts(*(sum(getattr(one, name) for one in parts) for name in ("cache_hit", "cache_miss", "output")))


def file_of(rows: Iterable[LedgerRow], path: str = ":memory:") -> apsw.Connection:
    """A ledger file with these requests and nothing else in it."""
    db = apsw.Connection(path)
    schemas = (file for file in files("gateway.ledger").iterdir() if file.name.startswith("schema"))
    for file in sorted(schemas, key=lambda file: file.name):
        db.execute(file.read_text("utf-8"))
    with db:
        db.executemany(_INSERT, map(request_columns, rows))
    return db
