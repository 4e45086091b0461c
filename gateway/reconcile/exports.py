"""Exports: the files in which hosts say what they billed, read into a Bill. Pure: bytes in, lines out, or one clear error.

DeepSeek's usage export is a ZIP of two CSV files, daily sums and not single requests. Its columns have changed once, and both sets are
read, told apart by the header:

    user_id,utc_date,model,api_key_name,api_key,type,price,amount                          amount-*.csv until the middle of 2026
    user_id,start_time_iso,end_time_iso,model,api_key_name,api_key,type,price,amount       amount-*.csv since
    user_id,utc_date,model,wallet_type,cost,currency                                       cost-*.csv; or start_time_iso,end_time_iso

OpenRouter's is JSON: records of `GET /generation`, one a line or in a list, or the answer of `GET /activity`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final, NamedTuple, TextIO, TypeVar

from gateway.money import MILLION, NANO
from gateway.reconcile.bills import Bill, BillCount, BillKey, BillLine, BillTotal, Class, ExportError, Span, joined
from gateway.reports.text import seen

T = TypeVar("T")
# A year of a large account is some megabytes; beyond this, it is no export but an attack.
LARGEST: Final = 64 << 20
_AMOUNT: Final = frozenset("user_id model api_key_name api_key type price amount".split())
_COST: Final = frozenset("user_id model wallet_type cost currency".split())
_OLD_DAY: Final = frozenset({"utc_date"})
_NEW_DAY: Final = frozenset({"start_time_iso", "end_time_iso"})
_CLASSES: Final[Mapping[str, Class]] = {
    "input_cache_hit_tokens": "cache_hit",
    "input_cache_miss_tokens": "cache_miss",
    "input_tokens": "cache_miss",
    "output_tokens": "output",
}
_REQUESTS: Final = "request_count"
_CURRENCY: Final = re.compile("[A-Z]{3}")
_SHOWN: Final = 40
# Powers of ten beyond which a figure is no amount of money.
_LARGE: Final = 15
# A cost is told to the cent at least.
_COARSEST: Final = NANO // 100


def read(name: str, data: bytes, zone: tzinfo = UTC) -> Bill:
    """The bill in one file; `zone` is that of days which are written without one. ExportError names file, line and column."""
    if len(data) > LARGEST:
        raise ExportError(f"{name} is larger than any usage export ({LARGEST >> 20} MiB).")
    if data[:2] == b"PK":
        return _zipped(name, data, zone)
    return _records(name, data) if _decoded(name, data).lstrip()[:1] in ("{", "[") else _table(name, data, zone)


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExportError(f"{name}, byte {error.start}: is not UTF-8. It should be the file as the host gave it.") from None


def _lines(data: bytes, newline: str) -> TextIO:
    """The text line by line; the whole of it at once would take four times the file's size."""
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=newline)


def _zipped(name: str, data: bytes, zone: tzinfo) -> Bill:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as folder:
            files = [file for file in folder.infolist() if file.filename.lower().endswith((".csv", ".json", ".jsonl"))]
            if sum(file.file_size for file in files) > LARGEST:
                raise ExportError(f"{name} unpacks to more than any usage export ({LARGEST >> 20} MiB).")
            found = [read(seen(f"{name}:{file.filename}"), folder.read(file), zone) for file in files]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{name} is a ZIP file that cannot be read: {error}. Download it again.") from None
    if not found:
        raise ExportError(f"{name} has no CSV file in it. It should be DeepSeek's usage_data_….zip.")
    return joined(found)


# --- tables ------------------------------------------------------------------------------------------------------------


class _Cells(NamedTuple):
    """One row of a table, and where it stands."""

    file: str
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        return self.cells[column].strip()

    def wrong(self, column: str, why: str) -> ExportError:
        return ExportError(f"{self.file}, line {self.line}, column {column}: {self.text(column)[:_SHOWN]!r} {why}.")

    def amount(self, column: str) -> Decimal:
        try:
            found = Decimal(self.text(column))
        except InvalidOperation:
            raise self.wrong(column, "is not a number") from None
        if not found.is_finite() or found < 0 or found.adjusted() > _LARGE:
            raise self.wrong(column, "is not an amount of zero or more")
        return found

    def count(self, column: str) -> int:
        found = self.amount(column)
        if found != found.to_integral_value():
            raise self.wrong(column, "is not a whole number")
        return int(found)

    def currency(self, column: str) -> str:
        found = self.text(column).upper()
        if not _CURRENCY.fullmatch(found):
            raise self.wrong(column, "is no currency such as USD")
        return found

    def span(self, zone: tzinfo) -> Span:
        dated = "utc_date" in self.cells
        try:
            return self._day(zone) if dated else self._between("start_time_iso", "end_time_iso")
        except OverflowError:
            raise self.wrong("utc_date" if dated else "start_time_iso", "begins or ends a day beyond any calendar") from None

    def _day(self, zone: tzinfo) -> Span:
        try:
            day = date.fromisoformat(self.text("utc_date")[:10])
        except ValueError:
            raise self.wrong("utc_date", "is not a date such as 2026-11-20") from None
        return day_of(day, zone)

    def _between(self, first: str, last: str) -> Span:
        start, end = self._instant(first), self._instant(last)
        if end.microsecond or end.second == 59:
            # Some exports name the last second of a day, others the first of the next.
            end = end.replace(microsecond=0, second=59) + timedelta(seconds=1)
        if end <= start:
            raise self.wrong(last, f"is not after {first}")
        return Span(start.astimezone(UTC), end.astimezone(UTC), start.date().isoformat())

    def _instant(self, column: str) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(column).replace("Z", "+00:00"))
        except ValueError:
            raise self.wrong(column, "is not an instant such as 2026-11-20T00:00:00+08:00") from None
        if found.tzinfo is None:
            raise self.wrong(column, "has no time zone")
        return found


def day_of(day: date, zone: tzinfo) -> Span:
    """A day of a zone."""
    start, end = (datetime.combine(each, time(), zone).astimezone(UTC) for each in (day, day + timedelta(days=1)))
    return Span(start, end, day.isoformat())


def _table(name: str, data: bytes, zone: tzinfo) -> Bill:
    rows = csv.reader(_lines(data, ""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        columns = frozenset(header)
        reader = _kind_of(name, columns, header)
        cells = (_Cells(name, rows.line_num, _paired(name, rows.line_num, header, row)) for row in rows if any(map(str.strip, row)))
        return reader(cells, zone)
    except csv.Error as error:
        raise ExportError(f"{name}, line {rows.line_num}: is not CSV: {error}.") from None


def _kind_of(name: str, columns: frozenset[str], header: list[str]) -> Callable[[Iterator[_Cells], tzinfo], Bill]:
    dated = _OLD_DAY <= columns or _NEW_DAY <= columns
    if dated and columns >= _AMOUNT:
        return _amounts
    if dated and columns >= _COST:
        return _costs
    near = _AMOUNT | _NEW_DAY if "amount" in columns or "type" in columns else _COST | _NEW_DAY if "cost" in columns else frozenset()
    if near and (missing := sorted(near - columns)):
        raise ExportError(f"{name}, line 1: lacks the columns {', '.join(missing)} of DeepSeek's usage export.")
    shown = seen(", ".join(header)[: 2 * _SHOWN]) or "nothing"
    raise ExportError(f"{name}, line 1: no export that is known has these columns: {shown}. See docs/reconcile.md for those that are.")


def _paired(name: str, line: int, header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise ExportError(f"{name}, line {line}: has {len(row)} cells, and the header has {len(header)}.")
    return dict(zip(header, row, strict=True))


def _amounts(rows: Iterator[_Cells], zone: tzinfo) -> Bill:
    lines: list[BillLine] = []
    counts: list[BillCount] = []
    one = _Ones()
    for row in rows:
        span, model = one(row.span(zone)), one(row.text("model"))
        key, account, kind = one(BillKey(row.text("api_key_name"), row.text("api_key"))), one(row.text("user_id")), row.text("type")
        if kind == _REQUESTS:
            counts.append(BillCount(span, account, model, key, row.count("amount")))
        elif kind in _CLASSES:
            tokens, rate = row.count("amount"), _rate(row)
            lines.append(BillLine(span, account, model, key, _CLASSES[kind], rate, tokens, _nano(tokens, rate)))
        else:
            raise row.wrong("type", f"is none of {', '.join([*_CLASSES, _REQUESTS])}")
    return Bill("deepseek", tuple(lines), tuple(counts))


class _Ones:
    """Each thing once: a large export has the same days, models and keys on hundreds of thousands of lines."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, thing: T) -> T:
        found: T = self._known.setdefault(thing, thing)
        return found


def _rate(row: _Cells) -> int:
    """Nano for a million tokens; the file has the price of one token."""
    exact = row.amount("price") * NANO * MILLION
    if exact != exact.to_integral_value():
        raise row.wrong("price", "is finer than a billionth of a unit for a million tokens")
    return int(exact)


def _nano(tokens: int, rate: int) -> int:
    """The nearest nano."""
    return (2 * tokens * rate + MILLION) // (2 * MILLION)


def _costs(rows: Iterator[_Cells], zone: tzinfo) -> Bill:
    """One total for each day and model: the wallets together. Figures are as fine as the finest of them: zeros at the end are left out."""
    found: dict[tuple[Span, str, str, str], tuple[int, int]] = {}
    unit = _COARSEST
    for row in rows:
        cost = row.amount("cost")
        place = row.span(zone), row.text("user_id"), row.text("model"), row.currency("currency")
        nano, wallets = found.get(place, (0, 0))
        unit = min(unit, max(1, int(Decimal(NANO).scaleb(max(-9, min(0, int(cost.as_tuple().exponent)))))))
        found[place] = nano + int((cost * NANO).to_integral_value(ROUND_HALF_EVEN)), wallets + 1
    totals = [BillTotal(*place, nano, wallets * unit) for place, (nano, wallets) in found.items()]
    return Bill("deepseek", totals=tuple(totals))


# --- records -----------------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    """One JSON object, and where it stands."""

    place: str
    fields: Mapping[str, Any]

    def wrong(self, name: str, why: str) -> ExportError:
        return ExportError(f"{self.place}, {name}: {str(self.fields.get(name))[:_SHOWN]!r} {why}.")

    def cost(self, name: str) -> Decimal:
        found = self.fields.get(name)
        if isinstance(found, bool) or not isinstance(found, int | Decimal):
            raise self.wrong(name, "is not an amount")
        amount = Decimal(found)
        if not amount.is_finite() or amount < 0 or amount.adjusted() > _LARGE:
            raise self.wrong(name, "is not an amount of zero or more")
        return amount * NANO

    def count(self, name: str) -> int:
        found = self.fields.get(name)
        if found is None:
            return 0
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise self.wrong(name, "is not a count")
        return found

    def text(self, name: str) -> str:
        found = self.fields.get(name)
        if not isinstance(found, str) or not found:
            raise self.wrong(name, "is no text")
        return found

    def day(self, name: str) -> Span:
        try:
            found = datetime.fromisoformat(self.text(name).replace("Z", "+00:00"))
            at = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
            return day_of(at.date(), UTC)
        except (ValueError, OverflowError):
            raise self.wrong(name, "is no date") from None


def _records(name: str, data: bytes) -> Bill:
    lines: dict[tuple[Span, str, str], list[int]] = {}
    seen: set[str] = set()
    for record in _objects(name, data):
        if "total_cost" in record.fields:
            if (id := record.text("id")) in seen:
                continue
            seen.add(id)
            # The ledger takes such a figure up to the next nano, so it is read in the same way here.
            nano, requests = int(record.cost("total_cost").to_integral_value(ROUND_CEILING)), 1
            tokens = record.count("native_tokens_prompt") + record.count("native_tokens_completion")
            day, cancelled = record.day("created_at"), record.fields.get("cancelled") is True
        elif "usage" in record.fields and "date" in record.fields:
            nano, requests = int(record.cost("usage").to_integral_value(ROUND_HALF_EVEN)), record.count("requests")
            tokens, day, cancelled = record.count("prompt_tokens") + record.count("completion_tokens"), record.day("date"), False
        else:
            raise ExportError(f"{record.place}: is no record of /generation (total_cost) or /activity (usage, date) of OpenRouter.")
        sums = lines.setdefault((day, record.text("model"), str(record.fields.get("api_key_name") or "")), [0, 0, 0, 0])
        for index, value in enumerate((nano, tokens, requests, int(cancelled))):
            sums[index] += value
    places = [(day, model, BillKey(key, ""), sums) for (day, model, key), sums in lines.items()]
    return Bill(
        "openrouter",
        tuple(BillLine(day, "", model, key, "", None, tokens, nano) for day, model, key, (nano, tokens, _, _) in places),
        tuple(BillCount(day, "", model, key, requests, cancelled) for day, model, key, (_, _, requests, cancelled) in places),
    )


def _objects(name: str, data: bytes) -> Iterator[_Record]:
    """Every record: of one JSON document, or of one a line."""
    found: Iterable[tuple[str, Any]]
    try:
        found = [(name, json.loads(_decoded(name, data), parse_float=Decimal))]
    except (ValueError, RecursionError):
        lines = enumerate(_lines(data, "\n"), 1)
        found = ((f"{name}, line {number}", _line(name, number, line)) for number, line in lines if line.strip())
    for place, value in found:
        inner = value["data"] if isinstance(value, dict) and isinstance(value.get("data"), dict | list) else value
        records = inner if isinstance(inner, list) else [inner]
        for index, record in enumerate(records, 1):
            where = f"{place}, record {index}" if isinstance(inner, list) else place
            if not isinstance(record, dict):
                raise ExportError(f"{where}: is no JSON object.")
            fields = record["data"] if isinstance(record.get("data"), dict) else record
            yield _Record(where, fields)


def _line(name: str, number: int, text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise ExportError(f"{name}, line {number}: is not JSON.") from None
