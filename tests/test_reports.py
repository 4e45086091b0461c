"""Spend reports: every grouping of every period sums to the ledger, to the nano, in both stores."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.clock import parse_instant
from gateway.ledger.columns import microseconds
from gateway.ledger.gathering import gather
from gateway.ledger.port import Closed, Store
from gateway.ledger.tallies import tally
from gateway.money import MILLION, NANO, decimal_text
from gateway.outcome import Attempt, Correction, LedgerRow
from gateway.policies import Policies, default_folder, load
from gateway.reports.chart import bars, svg
from gateway.reports.periods import Period, PeriodError, Slice, between, instant, last, month, today, zone_of
from gateway.reports.spending import BY, By, Group, Spending, by_of, tariffs
from gateway.reports.tallies import Sums, Three, lines_of, shared_out
from gateway.reports.writing import csv_text, hit_share, per_cent, report_json, table
from tests.ledgers import HOLD, ROW
from tests.stores import LEASE, Place, charged
from tests.tallied import START, Maker, file_of

UTC_ZONE = ZoneInfo("UTC")
ZONES = [
    "UTC",
    "Asia/Shanghai",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
]
NOW = parse_instant("2026-11-20T02:30:00Z")
WHOLE = Period(START - timedelta(days=1), START + timedelta(days=40), UTC_ZONE)


@cache
def policies() -> Policies:
    return load(default_folder())


@cache
def made() -> tuple[tuple[LedgerRow, ...], apsw.Connection]:
    rows = tuple(Maker(policies(), 7).rows(800))
    return rows, file_of(rows)


def report_of(
    db: apsw.Connection, by: str, period: Period = WHOLE, only: Mapping[str, str] | None = None, corrections: Sequence[Correction] = ()
) -> Spending:
    report = Spending(by_of(by), period, only or {}, tariffs(policies()))
    tally(db, report.question, report.take)
    report.correct(corrections)
    return report


# Periods


@given(st.integers(0, 900 * 1440), st.integers(1, 3000), st.sampled_from(ZONES))
def test_hours_cover_a_period_without_gap_or_overlap(start: int, minutes: int, zone: str) -> None:
    where, first = ZoneInfo(zone), datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    period = Period(first, first + timedelta(minutes=minutes), where)
    slices = list(period.slices())
    assert [slices[0].start, slices[-1].end] == [period.start, period.end]
    assert [one.end for one in slices[:-1]] == [one.start for one in slices[1:]]
    for one in slices:
        local, end = one.start.astimezone(where), (one.end - timedelta(microseconds=1)).astimezone(where)
        assert (one.day, one.hour[:13], one.hour[-6:]) == (f"{local:%Y-%m-%d}", f"{local:%Y-%m-%dT%H}", local.isoformat()[-6:])
        assert (local.date(), local.hour, local.utcoffset()) == (end.date(), end.hour, end.utcoffset())
    assert len({one.hour for one in slices}) == len(slices)


@given(st.integers(0, 2000), st.integers(0, 2000), st.sampled_from(ZONES))
def test_hours_from_the_first_row_to_the_last_are_those_of_the_whole_period(first: int, minutes: int, zone: str) -> None:
    period = Period(WHOLE.start, WHOLE.start + timedelta(days=3), ZoneInfo(zone))
    start = period.start + timedelta(minutes=first)
    end = start + timedelta(minutes=minutes)
    assert list(period.slices(start, end)) == [one for one in period.slices() if one.end > start and one.start <= end]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", "2026-10-25", 24),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-03-29", 23),
        ("America/New_York", "2026-11-01", 25),
        # Half an hour: the hour in which the clocks change is twice there, once for half of it.
        ("Australia/Lord_Howe", "2026-04-05", 25),
        # They skip midnight: the day begins at one.
        ("Africa/Cairo", "2026-04-24", 23),
    ],
)
def test_a_day_is_from_midnight_to_midnight_also_where_the_clocks_change(zone: str, day: str, hours: int) -> None:
    where = zone_of(zone)
    after = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    period = between(day, after, NOW, where)
    assert len(list(period.slices())) == hours
    assert {one.day for one in period.slices()} == {day}


def test_periods_are_what_they_are_called() -> None:
    shanghai = zone_of("Asia/Shanghai")
    assert today(NOW, shanghai) == Period(parse_instant("2026-11-19T16:00:00Z"), NOW, shanghai)
    assert month("2026-12", shanghai) == Period(parse_instant("2026-11-30T16:00:00Z"), parse_instant("2026-12-31T16:00:00Z"), shanghai)
    assert last("36h", NOW, UTC_ZONE).start == parse_instant("2026-11-18T14:30:00Z")
    # Seven days ago at the same time of day, though the clocks have changed since.
    berlin = zone_of("Europe/Berlin")
    assert last("1w", parse_instant("2026-10-28T12:00:00Z"), berlin).start == parse_instant("2026-10-21T11:00:00Z")
    assert between(None, None, NOW, UTC_ZONE) == today(NOW, UTC_ZONE)
    assert instant("2026-11-20 08:00:00 08:00".replace(" ", "T", 1), UTC_ZONE) == parse_instant("2026-11-20T00:00:00Z")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: month("2026-13", UTC_ZONE), "Write it as 2026-11."),
        (lambda: month("november", UTC_ZONE), "Write it as 2026-11."),
        (lambda: month("0001-01", ZoneInfo("Asia/Shanghai")), "Write it as 2026-11."),
        (lambda: last("7x", NOW, UTC_ZONE), "Write it as 24h, 7d or 4w."),
        (lambda: last("0d", NOW, UTC_ZONE), "Write it as 24h, 7d or 4w."),
        (lambda: instant("2026-02-30", UTC_ZONE), "is no instant"),
        (lambda: instant("2026-11-20T02:00:00", UTC_ZONE), "has no time zone"),
        (lambda: between("2026-11-20", "2026-11-20", NOW, UTC_ZONE), "2026-11-20 is not after 2026-11-20, so nothing lies between"),
        (lambda: between(None, "2026-01-01", NOW, UTC_ZONE), "2026-01-01 is not after the last midnight"),
        (lambda: between("2036-01-01", None, NOW, UTC_ZONE), "now is not after 2036-01-01"),
        (lambda: zone_of("Asia/Bejing"), "not an IANA time zone"),
        (lambda: by_of("team,colour"), "cannot group by 'colour': choose of day, hour, team"),
        (lambda: by_of("team,team"), "twice"),
        (lambda: by_of(","), "cannot group by ','"),
    ],
)
def test_what_is_no_period_says_how_to_write_one(wrong: Any, text: str) -> None:
    with pytest.raises(PeriodError, match=text.replace("(", r"\(")):
        wrong()


# Requests that are split


@given(st.tuples(*[st.integers(0, 50) | st.integers(0, 10**12)] * 3), st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
def test_parts_are_shared_out_to_the_nano(parts: Three, weights: list[int]) -> None:
    whole, left, costs = sum(parts), sum(parts), list[int]()
    for weight in weights[:-1]:
        costs.append(min(left, whole * weight // max(1, sum(weights))))
        left -= costs[-1]
    costs.append(left)
    shares = shared_out(parts, costs)
    assert [sum(share) for share in shares] == costs
    assert tuple(map(sum, zip(*shares, strict=True))) == parts
    assert min(number for share in shares for number in share) >= 0


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_lines_of_a_request_sum_to_it(seed: int) -> None:
    for row in Maker(policies(), seed).rows(20):
        lines = list(lines_of(row))
        sums = [sum(numbers) for numbers in zip(*(line.sums for line in lines), strict=True)]
        used, parts = row.usage, row.parts
        assert (sums[0], sums[1]) == (1, row.nano)
        assert [(line.host, line.model) for line in lines] == [(each.host, each.model) for each in row.attempts]
        if used is not None and parts is not None:
            assert sums[2:6] == [used.cache_hit, used.cache_miss, used.output, used.reasoning]
            assert sums[6:9] == [parts.cache_hit, parts.cache_miss, parts.output]
        assert all(number >= 0 for line in lines for number in line.sums)
        assert [line.sums.nano for line in lines[:-1]] == [each.nano for each in row.attempts[:-1]]


def test_a_line_that_says_what_it_used_is_believed_and_one_that_does_not_is_shared_out() -> None:
    told = (
        Attempt("a", "m", "timeout", "possible", 60, (4, 6, 2), (10, 20, 30), "a-card", "peak"),
        Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 340, (60, 4, 28), (40, 130, 170), "card", "standard"),
    )
    row = replace(ROW, attempts=told)
    first, second = lines_of(row)
    assert (first.card, first.window, first.estimated, first.sums[2:9]) == ("a-card", "peak", True, (4, 6, 2, 0, 10, 20, 30))
    assert (second.card, second.window, second.estimated, second.sums[2:9]) == ("card", "standard", False, (60, 4, 28, 12, 40, 130, 170))
    silent = replace(row, attempts=tuple(Attempt(each.host, each.model, each.outcome, each.billed, each.nano) for each in told))
    first, second = lines_of(silent)
    assert (first.card, second.card, second.window) == ("", "card", "peak")
    assert (first.sums[6:9], second.sums[6:9]) == ((7, 22, 31), (43, 128, 169))


# Groups


def tokens(row: LedgerRow) -> Three:
    """What a request used; of one that expired, what is known of its earlier attempts."""
    if row.usage is not None:
        return row.usage.cache_hit, row.usage.cache_miss, row.usage.output
    hit, miss, output = zip((0, 0, 0), *(each.tokens for each in row.attempts if each.tokens), strict=True)
    return sum(hit), sum(miss), sum(output)


def truth(rows: Iterable[LedgerRow], by: Sequence[By], zone: ZoneInfo) -> Counter[tuple[Any, ...]]:
    """What each group was charged, said anew: from the attempts of each request and, where it has one host, its parts."""
    found: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        local = row.ended.astimezone(zone)
        known = {"team": row.team, "key": row.key, "route": row.route, "day": local.date().isoformat()}
        known["hour"] = local.replace(minute=0, second=0, microsecond=0).isoformat("T", "minutes")
        rest = row.nano - sum(each.nano for each in row.attempts[:-1])
        for each, nano in zip(row.attempts, [*(one.nano for one in row.attempts[:-1]), rest], strict=True):
            names = {**known, "host": each.host, "model": each.model}
            found[(*(names[name] for name in by), row.currency)] += nano
    return +found


@given(
    st.lists(st.sampled_from([name for name in BY if name not in ("class", "card", "window")]), min_size=1, unique=True),
    st.sampled_from(ZONES),
)
@settings(max_examples=25, deadline=None)
def test_every_grouping_is_the_sum_of_its_requests(by: list[By], zone: str) -> None:
    rows, db = made()
    where = ZoneInfo(zone)
    lines = report_of(db, ",".join(by), Period(WHOLE.start, WHOLE.end, where)).lines()
    found = Counter({(*line.names, line.currency): line.group.nano for line in lines})
    assert +found == truth(rows, by, where)
    assert sum(line.group.requests for line in lines) == len(rows)


@given(st.lists(st.sampled_from(BY), min_size=1, unique=True), st.integers(0, 30 * 1440), st.integers(1, 20 * 1440))
@settings(max_examples=25, deadline=None)
def test_the_lines_of_any_report_sum_to_the_requests_of_its_period(by: list[By], begin: int, minutes: int) -> None:
    rows, db = made()
    start = START + timedelta(minutes=begin)
    period = Period(start, start + timedelta(minutes=minutes), UTC_ZONE)
    inside = [row for row in rows if period.start <= row.ended < period.end]
    report = report_of(db, ",".join(by), period)
    sums: Counter[str] = Counter()
    for line in report.lines():
        sums[line.currency] += line.group.nano
    expected: Counter[str] = Counter()
    for row in inside:
        expected[row.currency] += row.nano
    assert +sums == +expected
    totals = {line.currency: line.group for line in report.totals()}
    for place, name in enumerate(("cache_hit", "cache_miss", "output")):
        assert sum(getattr(group, name) for group in totals.values()) == sum(tokens(row)[place] for row in inside)
    guessed = sum(each.nano for row in inside for each in row.attempts if each.billed == "possible")
    assert sum(group.estimated for group in totals.values()) == guessed


def test_classes_are_the_parts_and_what_was_charged_by_estimate_has_none() -> None:
    rows, db = made()
    found: Counter[str] = Counter()
    for line in report_of(db, "class").lines():
        found[line.names[0]] += line.group.nano
    parts = [(row.parts.cache_hit, row.parts.cache_miss, row.parts.output) for row in rows if row.parts]
    gone = [row for row in rows if row.stopped == "expired"]
    parts += [each.parts for row in gone for each in row.attempts if each.parts]
    sums = dict(zip(("cache_hit", "cache_miss", "output"), map(sum, zip(*parts, strict=True)), strict=True))
    assert found == {**sums, "unknown": sum(row.attempts[-1].nano for row in gone)}


@pytest.mark.parametrize(
    "only", [{"team": "ads"}, {"host": "novita"}, {"route": "v4", "host": "deepseek"}, {"key": "ads-1"}, {"team": "x"}]
)
def test_filters_leave_out_the_rest_and_nothing_else(only: dict[str, str]) -> None:
    rows, db = made()
    names: list[By] = ["team", "key", "route", "host", "model"]
    expected = Counter(
        {key: nano for key, nano in truth(rows, names, UTC_ZONE).items() if only.items() <= dict(zip(names, key, strict=False)).items()}
    )
    lines = report_of(db, ",".join(names), only=only).lines()
    assert +Counter({(*line.names, line.currency): line.group.nano for line in lines}) == expected


def test_what_ends_with_an_hour_or_a_period_belongs_to_the_next_one() -> None:
    start = parse_instant("2026-11-20T00:00:00Z")
    ended = [start + timedelta(hours=hours, microseconds=late) for hours in (0, 1, 2) for late in (-1, 0)]
    rows = [charged(f"r{number}", 10**number, ended=at, attempts=()) for number, at in enumerate(ended)]
    lines = report_of(file_of(rows), "hour", Period(start, start + timedelta(hours=2), UTC_ZONE)).lines()
    assert [(line.names[0], line.group.nano) for line in lines] == [("2026-11-20T00:00+00:00", 110), ("2026-11-20T01:00+00:00", 11_000)]


def test_an_hour_that_comes_twice_is_two_lines_in_the_order_of_time() -> None:
    ended = [parse_instant(f"2026-10-25T{hour}:30:00Z") for hour in ("00", "01", "02")]
    rows = [charged(f"r{number}", 1, ended=at, attempts=()) for number, at in enumerate(ended)]
    period = between("2026-10-25", "2026-10-26", NOW, zone_of("Europe/Berlin"))
    lines = report_of(file_of(rows), "hour", period).lines()
    assert [line.names[0] for line in lines] == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"]
    assert [line.names[0] for line in report_of(file_of(rows), "day", period).lines()] == ["2026-10-25"]


def test_hits_save_what_a_miss_would_have_cost_and_o1_is_priced_by_its_card() -> None:
    at = parse_instant("2026-11-20T02:00:00Z")
    card = policies().prices.card("deepseek", "deepseek-v4-pro", "USD", at)
    peak = card.band(at)
    used = ROW.usage
    assert used is not None
    row = charged("r", 5, card=card.name, window=peak.window, ended=at, attempts=())
    (line,) = report_of(file_of([row]), "team").lines()
    baseline = policies().prices.baseline(at)
    assert baseline is not None
    assert line.group.saved_nano == used.cache_hit * (peak.rates.cache_miss - peak.rates.cache_hit) // MILLION > 0
    assert line.group.baseline_nano == -(-(used.prompt * baseline.rates.cache_miss + used.output * baseline.rates.output) // MILLION) > 0
    # What was saved is rounded down, what it would have cost up.
    assert (Group(saved=MILLION - 1).saved_nano, Group(baseline=1).baseline_nano) == (0, 1)
    unknown = replace(row, card="no-such-card")
    assert report_of(file_of([unknown]), "team").lines()[0].group.saved_nano == 0


def test_a_hit_rate_leaves_out_the_hosts_that_do_not_say() -> None:
    used = ROW.usage
    assert used is not None
    silent = charged(
        "silent", 1, usage=replace(used, cache_hit=0, cache_miss=900, sources=replace(used.sources, cache_hit="unknown")), attempts=()
    )
    group = report_of(file_of([charged("told", 1, attempts=()), silent]), "team").lines()[0].group
    assert (hit_share(group), group.cache_miss) == ("86.5", 910)
    assert hit_share(report_of(file_of([silent]), "team").lines()[0].group) is None


CORRECTION = Correction("c1", START + timedelta(days=3), "ads", "", "", "deepseek", "", "USD", -7, "output", "peak edge", "usage.csv")


def test_corrections_are_lines_of_their_own() -> None:
    rows, db = made()
    others = (replace(CORRECTION, id="c2", nano=9, cls=""), replace(CORRECTION, id="c3", team="chat", currency="CNY", nano=100))
    report = report_of(db, "team,class", corrections=(CORRECTION, *others))
    corrected = [(line.names, line.currency, line.group.nano) for line in report.lines() if line.kind == "correction"]
    assert corrected == [(("ads", ""), "USD", 9), (("ads", "output"), "USD", -7), (("chat", "output"), "CNY", 100)]
    totals = {(line.kind, line.currency): line.group.nano for line in report.totals()}
    assert totals["correction", "USD"] == 2
    assert totals["charge", "USD"] == sum(row.nano for row in rows if row.currency == "USD")
    only = report_of(db, "host", only={"team": "chat"}, corrections=(CORRECTION, *others))
    assert [(line.names, line.group.nano) for line in only.lines() if line.kind == "correction"] == [(("deepseek",), 100)]


def test_what_is_left_of_an_archived_month_is_a_line_or_a_note() -> None:
    months = [Closed("2026-11", "ads", "USD", 70, 3, 20)]
    inside, part = report_of(file_of([]), "team,day"), report_of(file_of([]), "team", between("2026-11-02", None, NOW, UTC_ZONE))
    narrow = report_of(file_of([]), "team", only={"host": "deepseek"})
    for report in (inside, part, narrow):
        report.archive(months * 2)
    assert [(line.names, line.kind, line.group.nano, line.group.requests) for line in inside.lines()] == [(("ads", ""), "archived", 140, 6)]
    for report in (part, narrow):
        assert report.lines() == []
        assert report.notes == ["requests of 2026-11 (UTC) are archived: what of them belongs here is not counted"]
    assert "archived" in table(inside) and "are archived" in table(part)
    assert "0.00000014" in svg(report_of_archived("team")) and "<svg" in svg(inside)
    assert "are archived" in svg(part)


def report_of_archived(by: str) -> Spending:
    report = report_of(file_of([]), by)
    report.archive([Closed("2026-11", "ads", "USD", 140, 6, 20)])
    return report


def test_no_name_is_a_formula_to_a_sheet() -> None:
    report = report_of(file_of([]), "team,model,host", corrections=[replace(CORRECTION, team="=cmd()", model="@SUM(1)", host="-1+1")])
    (line,) = list(csv.reader(list(csv_text(report))[1:]))
    assert line[:6] == ["'=cmd()", "'@SUM(1)", "'-1+1", "correction", "USD", "-0.000000007"]


STEERS = "a\x1b[2Jb\u202ec\nd"
SHOWN = r"a\x1b[2Jb\u202ec\nd"


def test_no_name_steers_a_terminal_or_breaks_a_picture() -> None:
    rows = [charged("r1", 5 * NANO, team=STEERS, host="深度", attempts=())]
    for by in ("team,host", "day,team"):
        report = report_of(file_of(rows), by, only={"team": STEERS})
        for text in (table(report), bars(report)):
            assert SHOWN in text and all(line.isprintable() for line in text.split("\n"))
        assert ElementTree.fromstring(svg(report)).tag.endswith("svg") and SHOWN in svg(report)
    nothing = report_of(file_of([]), "team", only={"team": STEERS})
    assert "\x1b" not in table(nothing) + bars(nothing)
    head, line, *_ = table(report_of(file_of(rows), "team,host")).split("\n")
    assert line.startswith(f"{SHOWN}  深度  ") and head.index("host") == line.index("深度"), "a column is as wide as what is shown of it"


def test_csv_and_json_have_names_as_they_are() -> None:
    report = report_of(file_of([charged("r1", 5, team=STEERS, attempts=())]), "team")
    assert next(iter(list(csv.reader(io.StringIO("".join(csv_text(report)))))[1:]))[0] == STEERS
    assert report_json(report)["lines"][0]["team"] == STEERS


# The stores


async def filled(store: Store, rows: Iterable[LedgerRow]) -> None:
    async def one(row: LedgerRow) -> None:
        await store.hold(replace(HOLD, id=row.id, currency=row.currency), "me", LEASE)
        await store.finish("settle", row)

    await asyncio.gather(*map(one, rows))


async def test_both_stores_answer_as_the_requests_say(store: Store, place: Place) -> None:
    rows = list(Maker(policies(), 3).rows(150))
    await filled(store, rows)
    # Late truth and an expired hold: counted once, with what they are charged in the end.
    await store.hold(replace(HOLD, id="late"), "me", 0)
    await store.hold(replace(HOLD, id="gone"), "me", 0)
    while await store.reap():
        pass
    late = charged("late", 123, attempts=(Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 123),))
    await store.finish("settle", late)
    gone = await store.request("gone")
    assert gone is not None and gone.nano == HOLD.expected
    rows += [late, gone]
    await store.correct([CORRECTION])
    entries = dict(await place.look("SELECT currency, sum(nano) FROM entry GROUP BY currency"))

    forever = Period(START - timedelta(days=9), parse_instant("2100-01-01T00:00:00Z"), ZoneInfo("Asia/Kolkata"))
    for by in ("team", "day,host,model", "hour,key,class", "route"):
        report = Spending(by_of(by), forever, {}, tariffs(policies()))
        await gather(store, report)
        totals = {(line.kind, line.currency): line.group.nano for line in report.totals()}
        assert totals == {("charge", "CNY"): entries["CNY"], ("charge", "USD"): entries["USD"], ("correction", "USD"): -7}
        if "class" not in by:
            found = Counter({(*line.names, line.currency): line.group.nano for line in report.lines() if line.kind == "charge"})
            assert +found == truth(rows, by_of(by), forever.zone)
    narrow = Spending(by_of("team"), forever, {"host": "novita", "team": "ads"}, tariffs(policies()))
    await gather(store, narrow)
    wanted = {key[2:]: nano for key, nano in truth(rows, by_of("team,host"), forever.zone).items() if key[:2] == ("ads", "novita")}
    assert {(line.currency,): line.group.nano for line in narrow.lines()} == wanted


async def test_a_report_is_one_snapshot_of_the_ledger(store: Store, place: Place) -> None:
    """What is learned late moves a request to another hour: it is in one of them, and not in both."""
    start = parse_instant("2026-11-20T00:00:00Z")
    await filled(store, [charged(f"r{hour}", 10**hour, ended=start + timedelta(hours=hour), attempts=()) for hour in (0, 2)])
    report = Spending(("hour",), Period(start, start + timedelta(hours=3), UTC_ZONE), {}, tariffs(policies()))
    moved = f"UPDATE request SET ended = {microseconds(start + timedelta(hours=2))} WHERE rid = 'r0'"

    def take(slice: Slice, names: Sequence[str], currency: str, sums: Sums) -> None:
        if slice.start == start:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, place.look(moved)).result(20)
        report.take(slice, names, currency, sums)

    await store.tally(report.question, take)
    assert [(line.names[0][11:13], line.group.nano) for line in report.lines()] == [("00", 1), ("02", 100)]


# How they are written


def amounts(texts: Iterable[str]) -> int:
    return sum(int(Decimal(text) * NANO) for text in texts)


def test_the_csv_and_the_json_say_the_same_exactly() -> None:
    rows, db = made()
    report = report_of(db, "team,day,class", corrections=(CORRECTION,))
    found = report_json(report)
    written = list(csv.DictReader(io.StringIO("".join(csv_text(report)))))
    assert [(row["team"], row["day"], row["class"], row["kind"], row["spent"]) for row in written] == [
        (line["team"], line["day"], line["class"], line["kind"], line["spent"]) for line in found["lines"]
    ]
    assert amounts(row["spent"] for row in written) == sum(row.nano for row in rows) - 7
    assert all(line["spent"] == decimal_text(line["nano"]) and line["requests"] is None for line in found["lines"])
    assert {total["currency"]: total["nano"] for total in found["totals"] if total["kind"] == "charge"} == {
        currency: sum(row.nano for row in rows if row.currency == currency) for currency in ("CNY", "USD")
    }
    assert (found["by"], found["zone"], found["from"]) == (["team", "day", "class"], "UTC", "2026-10-30T15:00:00Z")


def test_the_table_has_aligned_columns_and_a_total_for_each_currency() -> None:
    rows, db = made()
    lines = table(report_of(db, "team", corrections=(CORRECTION,))).splitlines()
    assert lines[0].split()[:5] == ["team", "kind", "currency", "spent", "estimated"]
    totals = [line.split() for line in lines if line.startswith("total")]
    usd = sum(row.nano for row in rows if row.currency == "USD")
    assert [words[:4] for words in totals] == [
        ["total", "CNY", decimal_text(sum(row.nano for row in rows if row.currency == "CNY")), totals[0][3]],
        ["total", "USD", decimal_text(usd), totals[1][3]],
        ["total", "corrections", "correction", "USD"],
    ]
    end = lines[0].index("spent") + len("spent")
    assert all(line[end - 1 : end + 1].strip().isdigit() for line in lines[1:-1])
    assert "nothing was charged" in table(report_of(file_of([]), "team"))


def test_a_column_that_says_nothing_is_left_out() -> None:
    lines = table(report_of(file_of([charged("r", 5, attempts=())]), "team")).splitlines()
    assert "kind" not in lines[0] and "estimated" not in lines[0] and "requests" in lines[0]


def shapes(picture: str) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect")


@pytest.mark.parametrize("by", ["team", "day,team", "model", "hour,key,route"])
def test_a_picture_is_whole_and_nothing_leaves_it(by: str) -> None:
    _rows, db = made()
    for shape in shapes(svg(report_of(db, by, corrections=(CORRECTION,)))):
        left, top, wide, high = (int(shape.get(name, "0")) for name in ("x", "y", "width", "height"))
        assert 0 <= left <= left + wide <= 960 and top >= 0 and wide > 0 and high > 0
    assert len(list(shapes(svg(report_of(file_of([]), by))))) == 1


def test_bars_are_as_long_as_what_they_show() -> None:
    rows = [charged(id, nano, team=id, attempts=()) for id, nano in (("half", 5 * NANO), ("whole", 10 * NANO), ("little", 1), ("none", 0))]
    lines = {words[0]: words[1:] for words in map(str.split, bars(report_of(file_of(rows), "team")).splitlines())}
    assert lines["whole"] == ["█" * 40, "10"]
    assert lines["half"] == ["█" * 20, "5"]
    assert lines["little"] == ["▏", "0.000000001"]
    assert lines["none"] == ["0"]
    assert "nothing was charged" in bars(report_of(file_of([]), "team"))


def test_a_bar_without_a_name_says_what_it_is() -> None:
    """A correction of a whole bill names nobody."""
    rows = [charged("r1", 5 * NANO, team="ads", host="deepseek", attempts=())]
    bill = replace(CORRECTION, id="c2", team="", host="", nano=NANO)
    drawn = bars(report_of(file_of(rows), "team,host", corrections=(bill, replace(bill, id="c3", team="ads", nano=2 * NANO))))
    assert [line.split("  ")[0] for line in drawn.splitlines()[1:]] == ["corrections", "ads corrections", "ads deepseek"]
    assert "(none)" not in drawn and ">corrections<" in svg(report_of(file_of(rows), "team", corrections=(bill,)))
    assert ">corrections<" in svg(report_of(file_of(rows), "day,team", corrections=(bill,)))
    assert "archived" in bars(report_of_archived("day"))


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 7, "0.0"), (7, 7, "100.0"), (4015, 10_000, "40.2"), (4014, 10_000, "40.1"), (1, 10**9, "0.1"), (10**9 - 1, 10**9, "99.9"),
     (8, 7, "114.3"), (-1, 3, "-33.3"), (-1, 10**9, "-0.1")],
)  # fmt: skip
def test_only_all_is_a_hundred_per_cent_and_only_nothing_is_none(part: int, whole: int, text: str) -> None:
    assert per_cent(part, whole) == text
