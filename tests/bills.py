"""A ledger and a host's export of the same month, made by hand for the tests of reconciliation: every difference is planted by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from fractions import Fraction

from gateway.money import Parts, Rates, charge
from gateway.outcome import Attempt, Billed, LedgerRow, Status
from gateway.policies import Policies
from gateway.usage import Sources, Usage

BEIJING = timezone(timedelta(hours=8))
PRO, FLASH = "deepseek-v4-pro", "deepseek-flash"
KEY, FOREIGN = ("gateway", "sk-5f2a********9c1d"), ("batch-jobs", "sk-77aa********0b0b")
TYPES = ("input_cache_hit_tokens", "input_cache_miss_tokens", "output_tokens")
TOLD = Sources()
COUNTED = Sources("unknown", "counted", "counted", "counted")
Tokens = tuple[int, int, int]


@dataclass(frozen=True)
class Call:
    """One request: what the ledger has of it, and what the host billed for it (None: nothing). `ours` is None where it went past us."""

    at: datetime
    model: str
    ours: Tokens | None
    theirs: Tokens | None
    team: str = "search"
    sources: Sources = TOLD
    status: Status = "ok"
    stopped: str | None = None
    billed_at: datetime | None = None
    prices: Rates | None = None
    key: tuple[str, str] = KEY
    lasted: float = 4.0

    @property
    def ended(self) -> datetime:
        return self.billed_at or self.at


@dataclass
class Month:
    """Calls, the rows of our ledger, and the export, in both sets of columns."""

    policies: Policies
    calls: list[Call] = field(default_factory=list)
    zone: timezone = BEIJING
    silent: set[date] = field(default_factory=set)

    def rates(self, model: str, at: datetime) -> tuple[Rates, str, str]:
        card = self.policies.prices.card("deepseek", model, "USD", at)
        band = card.band(at)
        return band.rates, card.name, band.window

    def rows(self) -> list[LedgerRow]:
        return [self.row(number, call) for number, call in enumerate(self.calls) if call.ours is not None]

    def row(self, number: int, call: Call) -> LedgerRow:
        assert call.ours is not None
        rates, card, window = self.rates(call.model, call.at)
        parts = charge(rates, *call.ours)
        worst = parts.total or charge(rates, *(call.theirs or (0, 0, 0))).total
        expired = call.stopped == "expired"
        billed: Billed = "none" if call.ours == (0, 0, 0) else "known" if call.sources == TOLD and not expired else "possible"
        attempt = Attempt("deepseek", call.model, call.status, billed, parts.total)
        usage = None if expired or billed == "none" else Usage(*call.ours, sources=call.sources)
        return LedgerRow(
            id=f"req-{number}", team=call.team, key=f"{call.team}-1", route="chat", host="deepseek", model=call.model, contract="c",
            edits=(), usage=usage, currency="USD", nano=parts.total, parts=None if usage is None else parts, card=card,
            window="" if expired else window, policies="p", started=call.at - timedelta(seconds=call.lasted), ended=call.at,
            status=call.status, stopped=call.stopped, attempts=(attempt,), expected_nano=parts.total, worst_nano=4 * worst,
        )  # fmt: skip

    def billed(self) -> dict[tuple[date, str, tuple[str, str]], list[Call]]:
        found: dict[tuple[date, str, tuple[str, str]], list[Call]] = {}
        for call in self.calls:
            if call.theirs is not None and (day := call.ended.astimezone(self.zone).date()) not in self.silent:
                found.setdefault((day, call.model, call.key), []).append(call)
        return found

    def price(self, call: Call) -> Rates:
        return call.prices or self.rates(call.model, call.ended)[0]

    def cost(self) -> int:
        """What the host billed for our key, in nano and exact: a bill of its own, made request by request."""
        exact = Fraction(0)
        for (_, _, key), calls in self.billed().items():
            for call in calls if key == KEY else ():
                rates = self.price(call)
                assert call.theirs is not None
                exact += Fraction(
                    sum(n * r for n, r in zip(call.theirs, (rates.cache_hit, rates.cache_miss, rates.output), strict=True)), 10**6
                )
        return round(exact)

    def amounts(self, *, old: bool = False) -> str:
        head = ["user_id", "utc_date"] if old else ["user_id", "start_time_iso", "end_time_iso"]
        lines = [[*head, "model", "api_key_name", "api_key", "type", "price", "amount"]]
        for (day, model, key), calls in sorted(self.billed().items()):
            begin = ["u-1", *self.dated(day, old), model, *key]
            for index, kind in enumerate(TYPES):
                sums: dict[int, int] = {}
                for call in calls:
                    assert call.theirs is not None
                    rates = self.price(call)
                    rate = (rates.cache_hit, rates.cache_miss, rates.output)[index]
                    sums[rate] = sums.get(rate, 0) + call.theirs[index]
                lines += [[*begin, kind, token_price(rate), str(tokens)] for rate, tokens in sorted(sums.items()) if tokens]
            lines.append([*begin, "request_count", "", str(len(calls))])
        return table(lines)

    def dated(self, day: date, old: bool) -> list[str]:
        if old:
            return [day.isoformat()]
        return [datetime.combine(each, time(), self.zone).isoformat() for each in (day, day + timedelta(days=1))]


def token_price(rate: int) -> str:
    """Nano for a million tokens as the price of one, in whole units."""
    return f"0.{rate:015d}".rstrip("0") if rate else "0"


def table(lines: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    return text.getvalue()


def at(text: str) -> datetime:
    """An instant of November 2026, UTC: "20 02:30"."""
    day, _, clock = text.partition(" ")
    hour, minute, *second = clock.split(":")
    return datetime(2026, 11, int(day), int(hour), int(minute), int(second[0]) if second else 0, tzinfo=UTC)


def plain(policies: Policies, days: Iterable[int] = range(1, 29)) -> Month:
    """A month in which everything agrees: each day at peak and off peak, both models, two teams."""
    month = Month(policies)
    for day in days:
        for index, hour in enumerate((0, 2, 5, 8, 12, 15)):
            for model in (PRO, FLASH):
                tokens = 1000 * day + 7 * hour, 3000 + 11 * day + hour, 900 + 13 * day
                month.calls.append(Call(at(f"{day} {hour:02d}:31"), model, tokens, tokens, team=("search", "ads")[index % 2]))
    return month


def but(month: Month, chosen: int, **changes: object) -> Month:
    """The month with one of its calls changed."""
    calls = list(month.calls)
    calls[chosen] = replace(calls[chosen], **changes)  # type: ignore[arg-type]
    return replace(month, calls=calls)


def parts_of(total: int) -> Parts:
    return Parts(0, 0, total)
