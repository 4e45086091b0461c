"""Answers to `gateway.reports.tallies`: the SQL that both stores share, and the tally of a ledger file in one snapshot of it.

An hour is one question, so that a report of any length needs the memory of an hour's groups. Rows whose attempts cost something at
several hosts are told apart in SQL and split in Python; there are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from gateway.ledger.columns import REQUEST, instant, microseconds, request_row
from gateway.outcome import LedgerRow
from gateway.reports.periods import Slice
from gateway.reports.tallies import FILTERS, Question, Sums, Take, lines_of

_BUSY_MILLISECONDS: Final = 5000


class Dialect(NamedTuple):
    """What the stores say differently: a parameter by its number, the table, whether earlier attempts cost something (most rows are
    passed over without reading their JSON), and whether the last one may have."""

    mark: str
    table: str
    several: str
    possible: str


SQLITE: Final = Dialect(
    mark="?",
    table="request",
    several="EXISTS (SELECT 1 FROM json_each(attempts) AS line"
    " WHERE line.key < json_array_length(attempts) - 1 AND line.value ->> 'nano' <> 0)",
    possible="attempts ->> '$[#-1].billed' = 'possible'",
)
POSTGRES: Final = Dialect(
    mark="$",
    table="faregate.request",
    several="EXISTS (SELECT FROM jsonb_array_elements(attempts::jsonb) WITH ORDINALITY AS line(attempt, at)"
    " WHERE at < jsonb_array_length(attempts::jsonb) AND (attempt ->> 'nano')::bigint <> 0)",
    possible="attempts::jsonb -> -1 ->> 'billed' = 'possible'",
)


class Statements(NamedTuple):
    """The statements of one question. Parameters: start, end, team, key, route, and of `sums` host and model too."""

    sums: str
    split: str
    bounds: str


def statements(question: Question, dialect: Dialect) -> Statements:
    mark, table = dialect.mark, dialect.table
    within = f"ended >= {mark}1 AND ended < {mark}2" + "".join(
        f" AND {name} = coalesce({mark}{place}, {name})" for place, name in enumerate(("team", "key", "route"), 3)
    )
    # Two objects have two ends.
    split = f"CASE WHEN attempts LIKE '%}}%}}%' THEN {dialect.several} ELSE false END"
    possible = f"CASE WHEN nano <> 0 AND attempts LIKE '%\"possible\"%' THEN {dialect.possible} ELSE false END"
    rows = (
        f"SELECT request.*, {split} AS several, CASE WHEN {possible} THEN 'true' ELSE 'false' END AS guessed,"
        f" CASE disputed WHEN 0 THEN 'false' ELSE 'true' END AS doubted FROM {table} AS request WHERE {within}"
    )
    columns = {"estimated": "guessed", "disputed": "doubted"}
    names = "".join(f'"{columns.get(name, name)}", ' for name in question.names)
    groups = ", ".join(str(place) for place in range(1, len(question.names) + 3))
    added = [
        "count(*)",
        *_totals("nano", "cache_hit", "cache_miss", "output", "reasoning", "cache_hit_nano", "cache_miss_nano", "output_nano"),
        *(
            f"coalesce(sum(CASE cache_hit_source WHEN 'unknown' THEN 0 ELSE {what} END), 0)"
            for what in ("cache_hit + cache_miss", "cache_hit")
        ),
    ]
    here = "".join(f" AND {name} = coalesce({mark}{place}, {name})" for place, name in enumerate(("host", "model"), 6))
    return Statements(
        f"SELECT {names}currency, several, {', '.join(added)} FROM ({rows}) AS found WHERE several OR (true{here}) GROUP BY {groups}",
        f"SELECT {', '.join(_quoted(REQUEST))} FROM ({rows}) AS found WHERE several ORDER BY ended",
        f"SELECT min(ended), max(ended) FROM {table} WHERE ended >= {mark}1 AND ended < {mark}2",
    )


def _totals(*names: str) -> list[str]:
    return [f"coalesce(sum({name}), 0)" for name in names]


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def filters(question: Question) -> list[str | None]:
    return [question.only.get(name) for name in FILTERS]


def span(slice: Slice) -> tuple[int, int]:
    return microseconds(slice.start), microseconds(slice.end)


def hand_over(question: Question, slice: Slice, groups: Iterable[Sequence[Any]], take: Take) -> bool:
    """Pass on the groups of an hour; whether some of its requests are split, and to be asked for one by one."""
    names, several = len(question.names), False
    for group in groups:
        if group[names + 1]:
            several = True
        else:
            take(slice, group[:names], group[names], Sums(*map(int, group[names + 2 :])))
    return several


def hand_over_split(question: Question, slice: Slice, rows: Iterable[LedgerRow], take: Take) -> None:
    """Pass on the lines of these requests, those of the same names in one."""
    groups: dict[tuple[tuple[str, ...], str], Sums] = {}
    for row in rows:
        for line in lines_of(row):
            if question.wanted(line):
                key = question.names_of(row, line), row.currency
                groups[key] = Sums(*map(add, groups[key], line.sums)) if key in groups else line.sums
    for (names, currency), sums in groups.items():
        take(slice, names, currency, sums)


def tally(db: apsw.Connection, question: Question, take: Take) -> None:
    """As Ledger.tally, on a connection to the file that nobody else uses meanwhile: one snapshot for all of it."""
    asked = statements(question, SQLITE)
    only = filters(question)
    db.execute("BEGIN")
    try:
        period = question.period
        first, last = db.execute(asked.bounds, (microseconds(period.start), microseconds(period.end))).get
        if first is None:
            return
        for slice in period.slices(instant(first), instant(last)):
            if hand_over(question, slice, db.execute(asked.sums, (*span(slice), *only)), take):
                rows = map(request_row, db.execute(asked.split, (*span(slice), *only[:3])))
                hand_over_split(question, slice, rows, take)
    finally:
        db.execute("ROLLBACK")


def tally_file(path: Path, question: Question, take: Take) -> None:
    """The same on a connection of its own, beside a gateway that has the file open."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        db.set_busy_timeout(_BUSY_MILLISECONDS)
        tally(db, question, take)
    finally:
        db.close()
