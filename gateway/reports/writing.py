"""A report as text: a table for people, CSV for sheets, JSON for scripts. Amounts are exact decimal texts, never floats."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from gateway.clock import instant_text
from gateway.money import decimal_text
from gateway.reports.spending import BASELINE, BASELINE_CURRENCY, By, Group, Kind, Line, Spending
from gateway.reports.text import columns, seen

CSV_COLUMNS: Final = (
    "kind", "currency", "spent", "estimated", "requests", "cache_hit_tokens", "cache_miss_tokens", "output_tokens", "reasoning_tokens",
    "cache_hit_share", "saved", f"{BASELINE}_{BASELINE_CURRENCY.lower()}",
)  # fmt: skip
_TOTAL: Final = "total"
# With what sheets take a cell for a formula; a negative number is none.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_KINDS: Final[dict[Kind, str]] = {"charge": "", "correction": "corrections", "archived": "archived"}


def per_cent(part: int, whole: int) -> str:
    """A part of a whole above zero, rounded half up to a tenth of a per cent; only the whole is 100.0, and only nothing is 0.0."""
    tenths = (2000 * abs(part) + whole) // (2 * whole)
    if 0 < abs(part) < whole:
        tenths = min(max(tenths, 1), 999)
    return f"{'-' if part < 0 else ''}{tenths // 10}.{tenths % 10}"


def hit_share(group: Group) -> str | None:
    """Prompt tokens out of a cache, of those of which the host says it: per cent with one decimal; None where no host says."""
    return per_cent(group.seen_hit, group.seen) if group.seen else None


def line_json(by: Sequence[By], line: Line) -> dict[str, Any]:
    """One line: its names, its kind, and its sums; amounts as decimal texts, `nano` as an integer. `requests` is null by class."""
    group, parted = line.group, "class" in by
    return {
        **dict(zip(by, line.names, strict=False)),
        "kind": line.kind,
        "currency": line.currency,
        "spent": decimal_text(group.nano),
        "nano": group.nano,
        "estimated": decimal_text(group.estimated),
        "requests": None if parted else group.requests,
        "tokens": {name: getattr(group, name) for name in ("cache_hit", "cache_miss", "output", "reasoning")},
        "cache_hit_share": None if parted else hit_share(group),
        "saved": decimal_text(group.saved_nano),
        "baseline": {"name": BASELINE, "currency": BASELINE_CURRENCY, "spent": decimal_text(group.baseline_nano)},
    }


def report_json(report: Spending) -> dict[str, Any]:
    """The whole report, with its period and its totals for each currency."""
    return {
        "from": instant_text(report.period.start),
        "to": instant_text(report.period.end),
        "zone": report.period.zone.key,
        "by": list(report.by),
        "lines": [line_json(report.by, line) for line in report.lines()],
        "totals": [line_json(report.by, line) for line in report.totals()],
        "notes": list(report.notes),
    }


def csv_text(report: Spending) -> Iterator[str]:
    """The lines as CSV, a text for each; the first names the columns."""
    yield _csv([*report.by, *CSV_COLUMNS])
    for line in report.lines():
        found = line_json(report.by, line)
        tokens = found["tokens"]
        cells = [
            *line.names, line.kind, line.currency, found["spent"], found["estimated"], found["requests"], tokens["cache_hit"],
            tokens["cache_miss"], tokens["output"], tokens["reasoning"], found["cache_hit_share"], found["saved"],
            found["baseline"]["spent"],
        ]  # fmt: skip
        yield _csv(cells)


def _csv(cells: Sequence[Any]) -> str:
    return csv_row(["" if cell is None else str(cell) for cell in cells])


def csv_row(cells: Iterable[str]) -> str:
    """One line. A text that a sheet would run as a formula has an apostrophe before it: names may come from elsewhere."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([f"'{cell}" if _is_formula(cell) else cell for cell in cells])
    return text.getvalue()


def _is_formula(cell: str) -> bool:
    return cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)


def narrowed(report: Spending) -> str:
    """Which requests are meant, where not all are: a misspelt name is told from a team that spent nothing."""
    return "".join(f", {name} {value} only" for name, value in report.only.items())


def table(report: Spending) -> str:
    """The lines in columns, with a total for each currency. Columns that say nothing anywhere are left out."""
    lines, totals = report.lines(), report.totals()
    when = f"{instant_text(report.period.start)} to {instant_text(report.period.end)}, days of {report.period.zone.key}{narrowed(report)}"
    if not lines:
        return "\n".join(map(seen, (f"nothing was charged from {when}", *report.notes)))
    head, rows = _head(report.by), [_row(report.by, line) for line in lines]
    sums = [_row(report.by, line) for line in totals]
    for cells, line in zip(sums, totals, strict=True):
        cells[0] = f"{_TOTAL} {_KINDS[line.kind]}".strip()
    shown = [place for place in range(len(head)) if place < len(report.by) or any(row[place] not in ("", "0") for row in [*rows, *sums])]
    right = {at for at, place in enumerate(shown) if place >= len(report.by) and head[place] not in ("kind", "currency")}
    texts = columns([[cells[place] for place in shown] for cells in (head, *rows, *sums)], right)
    return "\n".join([*texts, *map(seen, (f"from {when}", *report.notes))])


def _head(by: Sequence[By]) -> list[str]:
    counts = ["requests", "hit tokens", "miss tokens", "output", "reasoning", "hits", "saved"]
    return [*by, "kind", "currency", "spent", "estimated", *counts, f"at {BASELINE} {BASELINE_CURRENCY}"]


def _row(by: Sequence[By], line: Line) -> list[str]:
    group = line.group
    share = hit_share(group)
    amounts = [decimal_text(group.nano), decimal_text(group.estimated)]
    counts = [
        str(0 if "class" in by else group.requests),
        *(f"{getattr(group, name):,}" for name in ("cache_hit", "cache_miss", "output", "reasoning")),
    ]
    baseline = decimal_text(group.baseline_nano)
    names = line.names or ("",) * len(by)
    kind = "" if line.kind == "charge" else line.kind
    shared = "" if share is None or "class" in by else f"{share} %"
    return [*names, kind, line.currency, *amounts, *counts, shared, decimal_text(group.saved_nano), baseline]
