"""What an emulated host hands out about its bill: the same money as the bill, in days of the right zone, and readable by our own reader."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest

from gateway.emulator.book import Counts, Price, bill_row
from gateway.emulator.export import ExportRefused, archive, generations, offset_of, tables
from gateway.emulator.reader import instant
from gateway.reconcile.exports import read
from tests.bills import BEIJING


def row(at: str, tokens: tuple[int, int, int] = (100, 200, 300), account: str = "sk-0123456789", peak: bool = False) -> dict[str, Any]:
    price = Price(*((44_000_000, 1_320_000_000, 3_960_000_000) if peak else (3_625_000, 435_000_000, 870_000_000)), "card", "window")
    more = {"model": "deepseek-v4-pro", "account": account, "finish": "stop"}
    return bill_row("req", Counts(*tokens), price, "USD", instant(at), "ok", **more)


ROWS = [
    row("2026-11-20T15:59:59Z"),
    row("2026-11-20T16:00:00Z", (7, 0, 9)),
    row("2026-11-20T17:00:00Z", peak=True),
    row("2026-11-21T00:00:00Z"),
]


def cost(one: dict[str, Any]) -> Fraction:
    """In nano, unrounded."""
    return Fraction(sum(one[name] * rate for name, rate in zip(("hit", "miss", "output"), one["rates"], strict=True)), 10**6)


@pytest.mark.parametrize(("columns", "days"), [("new", ["2026-11-20", "2026-11-21"]), ("old", ["2026-11-20", "2026-11-21"])])
def test_an_export_has_the_money_of_the_bill(columns: str, days: list[str]) -> None:
    bill = read("usage.zip", archive(tables(ROWS, columns, BEIJING)))
    assert [span.name for span in bill.spans] == days
    exact = sum(map(cost, ROWS), Fraction(0))
    assert abs(sum(line.nano for line in bill.lines) - exact) <= len(bill.lines)
    assert abs(sum(total.nano for total in bill.totals) - exact) <= len(bill.totals)
    assert sum(count.requests for count in bill.counts) == len(ROWS)
    assert {line.rate for line in bill.lines if line.cls == "output"} == {870_000_000, 3_960_000_000}


@pytest.mark.parametrize(("columns", "first"), [("old", 3), ("new", 1)])
def test_days_are_those_of_utc_in_the_old_columns_and_the_viewers_in_the_new(columns: str, first: int) -> None:
    bill = read("usage.zip", archive(tables(ROWS, columns, BEIJING)))
    assert [count.requests for count in bill.counts] == [first, len(ROWS) - first]
    assert bill.spans[0].start == instant("2026-11-20T00:00:00Z" if columns == "old" else "2026-11-19T16:00:00Z")


def test_keys_are_told_apart_and_masked() -> None:
    files = tables([*ROWS, row("2026-11-20T02:00:00Z", account="sk-another-one")], "new", BEIJING)
    assert {str(line.key) for line in read("usage.zip", archive(files)).lines} == {"key-1", "key-2"}
    assert not any(key in text for text in files.values() for key in ("sk-0123456789", "sk-another-one"))
    with zipfile.ZipFile(io.BytesIO(archive(files))) as folder:
        assert folder.namelist() == ["amount-2026-11-20_2026-11-21.csv", "cost-2026-11-20_2026-11-21.csv"]


def test_records_have_the_exact_cost_of_each_request() -> None:
    (line, later) = read("g", generations(ROWS).encode()).lines
    assert line.nano + later.nano == sum(one["nano"] for one in ROWS)


def test_an_offset_is_hours_and_minutes() -> None:
    assert offset_of("+08:00").utcoffset(None) == timedelta(hours=8)
    assert offset_of("-03:30") == timezone(-timedelta(hours=3, minutes=30))
    for wrong in ("", "east", "+99:00"):
        with pytest.raises(ExportRefused):
            offset_of(wrong)
    with pytest.raises(ExportRefused, match="new or old"):
        tables(ROWS, "middle", UTC)


def test_an_empty_bill_is_an_export_of_nothing() -> None:
    assert read("usage.zip", archive(tables([], "new", BEIJING))).lines == ()
