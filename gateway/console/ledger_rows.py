"""Requests as rows of a table: the overview's newest, and the pages of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.console.figures import NONE, count, instant, money, places
from gateway.console.frame import Cell, Column, Tone, link, mark, table
from gateway.console.markup import Html, join, tag
from gateway.outcome import LedgerRow, Status

TONES: Final[dict[Status, Tone]] = {
    "ok": "ok",
    "stopped": "warn",
    "client_gone": "warn",
    "client_error": "warn",
    "denied": "warn",
    "rate_limited": "warn",
    "upstream_error": "bad",
    "timeout": "bad",
    "gateway_error": "bad",
}
WORDS: Final[dict[Status, str]] = {
    "ok": "ok",
    "stopped": "stopped",
    "client_gone": "client left",
    "client_error": "client's error",
    "denied": "denied",
    "rate_limited": "rate limited",
    "upstream_error": "host failed",
    "timeout": "timed out",
    "gateway_error": "gateway failed",
}
_COLUMNS: Final = (
    Column("Request"),
    Column("Ended"),
    Column("Team"),
    Column("Route"),
    Column("Served by"),
    Column("Prompt", number=True, hint="prompt tokens, and how many of them came from a cache"),
    Column("Output", number=True, hint="output tokens, reasoning among them"),
    Column("Charge", number=True),
    Column("Outcome"),
)


def listed(name: str, rows: Sequence[LedgerRow], caption: str = "Requests, the newest first", *, hide_caption: bool = False) -> Html:
    digits = places(row.nano for row in rows)
    return table(name, caption, _COLUMNS, [_row(row, digits) for row in rows], hide_caption=hide_caption)


def _row(row: LedgerRow, digits: int) -> tuple[Cell, ...]:
    usage = row.usage
    return (
        Cell(link(f"/requests/{row.id}", tag("code", short(row.id)), title=row.id) if linkable(row.id) else tag("code", row.id), row.id),
        Cell(instant(row.ended), row.ended.isoformat()),
        Cell(join(row.team, tag("span", f" {row.key}", class_="note")), row.team),
        Cell(row.route),
        Cell(join(row.model, tag("span", f"at {row.host}", class_="note")), f"{row.host}/{row.model}"),
        Cell(NONE, 0) if usage is None else Cell(_prompt(usage.prompt, usage.cache_hit), usage.prompt),
        Cell(NONE, 0) if usage is None else Cell(count(usage.output), usage.output),
        Cell(money(row.nano, row.currency, digits), row.nano),
        Cell(mark(WORDS.get(row.status, row.status), TONES.get(row.status, "quiet")), row.status),
    )


def _prompt(prompt: int, hit: int) -> Html:
    return join(count(prompt), tag("span", f" {count(hit)} cached", class_="note") if hit else None)


def short(id: str) -> str:
    return id if len(id) <= 14 else f"{id[:12]}…"


def linkable(id: str) -> bool:
    """Whether an id can stand in a path as it is: ours all can."""
    return id.isascii() and id.replace("-", "").replace("_", "").replace(".", "").isalnum() and id.strip(".") != ""
