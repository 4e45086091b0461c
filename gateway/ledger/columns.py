"""A LedgerRow as columns and back, without loss: instants are microseconds UTC, lists are JSON text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from gateway.ledger.balances import Part, Share
from gateway.ledger.notes import note_of, note_text
from gateway.ledger.port import Entry, Held, Trail
from gateway.money import Parts
from gateway.outcome import Attempt, Hold, LedgerRow
from gateway.usage import Sources, Usage

# The columns of the table `request`, in its order.
REQUEST = (
    "rid team key route host model contract edits cache_hit cache_miss output reasoning cache_hit_source cache_miss_source"
    " output_source reasoning_source currency nano cache_hit_nano cache_miss_nano output_nano card window policies started"
    " ended status stopped attempts expected worst host_nano disputed stream plan"
).split()

Columns = tuple[str | int | None, ...]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NO_USAGE: Columns = (None,) * 8
_NO_PARTS: Columns = (None,) * 3
_encode = msgspec.json.Encoder().encode
_edits = msgspec.json.Decoder(tuple[str, ...]).decode
_attempts = msgspec.json.Decoder(tuple[Attempt, ...]).decode
_parts = msgspec.json.Decoder(tuple[Part, ...]).decode


def microseconds(at: datetime) -> int:
    """An aware instant as whole microseconds since 1970, exactly (no float on the way)."""
    return (at - _EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def months(start: datetime, end: datetime) -> tuple[str, str]:
    """The first and the last month, as "2025-09" (UTC), that [start, end) touches."""
    return month_of(start), month_of(max(start, end - _MICROSECOND))


def month_of(at: datetime) -> str:
    # Not strftime: it writes a year before 1000 with fewer digits, and months are compared as texts.
    return at.astimezone(UTC).isoformat()[:7]


def hold_columns(hold: Hold) -> Columns:
    """A hold in the order of its table, but for state, expires and owner, which the store adds."""
    return (
        hold.id, hold.nano, hold.currency, hold.expected, hold.worst, hold.team, hold.key, hold.route, hold.host, hold.model,
        hold.card, hold.policies, microseconds(hold.started),
    )  # fmt: skip


def parts_text(parts: Sequence[Part]) -> str | None:
    """What a hold has of its budgets, as its row keeps it; None where it claims none."""
    return _encode(parts).decode() if parts else None


def lines_text(attempts: Sequence[Attempt]) -> str | None:
    """The attempts before the one that a hold is for, as its row keeps them; None where there are none."""
    return _encode(attempts).decode() if attempts else None


def lines_of(text: str | None) -> tuple[Attempt, ...]:
    return _attempts(text) if text else ()


def trail_of(hold: Sequence[Any], entries: Iterable[Sequence[Any]]) -> Trail:
    """A trail out of (state, currency, nano, claims) of its hold and (kind, nano, source, at) of its entries."""
    state, currency, nano, claims = hold
    held = tuple(Held(part.team, part.budget, part.key, part.period, part.currency, part.held) for part in parts_of(claims))
    return Trail(state, currency, nano, held, tuple(Entry(kind, moved, source, instant(at)) for kind, moved, source, at in entries))


def parts_of(text: str | None) -> tuple[Part, ...]:
    return _parts(text) if text else ()


def shares_text(shares: Sequence[Share]) -> str | None:
    """What an entry costs its budgets, as it keeps it."""
    return _encode(shares).decode() if shares else None


def request_columns(row: LedgerRow) -> Columns:
    """A row in the order of REQUEST."""
    return (
        row.id, row.team, row.key, row.route, row.host, row.model, row.contract,
        _encode(row.edits).decode() if row.edits else "[]",
        *(_NO_USAGE if row.usage is None else _usage_columns(row.usage)), row.currency, row.nano,
        *(_NO_PARTS if row.parts is None else (row.parts.cache_hit, row.parts.cache_miss, row.parts.output)),
        row.card, row.window, row.policies, microseconds(row.started), microseconds(row.ended), row.status, row.stopped,
        _encode(row.attempts).decode(), row.expected_nano, row.worst_nano, row.host_nano, int(row.disputed), int(row.stream),
        note_text(row),
    )  # fmt: skip


def _usage_columns(usage: Usage) -> Columns:
    sources = usage.sources
    return (
        usage.cache_hit, usage.cache_miss, usage.output, usage.reasoning,
        sources.cache_hit, sources.cache_miss, sources.output, sources.reasoning,
    )  # fmt: skip


def request_row(columns: Sequence[Any]) -> LedgerRow:
    """The row that request_columns made these columns of."""
    (
        rid, team, key, route, host, model, contract, edits, hit, miss, output, reasoning, hit_from, miss_from, output_from,
        reasoning_from, currency, nano, hit_nano, miss_nano, output_nano, card, window, policies, started, ended, status, stopped,
        attempts, expected, worst, host_nano, disputed, stream, plan,
    ) = columns  # fmt: skip
    sources = None if hit is None else Sources(hit_from, miss_from, output_from, reasoning_from)
    return LedgerRow(
        id=rid,
        team=team,
        key=key,
        route=route,
        host=host,
        model=model,
        contract=contract,
        edits=_edits(edits),
        usage=None if sources is None else Usage(hit, miss, output, reasoning, sources),
        currency=currency,
        nano=nano,
        parts=None if hit_nano is None else Parts(hit_nano, miss_nano, output_nano),
        card=card,
        window=window,
        policies=policies,
        started=instant(started),
        ended=instant(ended),
        status=status,
        stopped=stopped,
        attempts=_attempts(attempts),
        expected_nano=expected,
        worst_nano=worst,
        host_nano=host_nano,
        disputed=bool(disputed),
        stream=bool(stream),
        plan=note_of(plan, f"{host}/{model}", currency, expected, worst),
    )
