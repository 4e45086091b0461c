"""Splitting: the same events however the stream is read; lines end at CR, LF and CRLF only; limits hold."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import BadStream, Splitter, data_of, event_of

TABLE = [
    (b"data: a\n\n", [b"data: a\n\n"], b""),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a\r\n\r\n", b"data: b\r\n\r\n"], b""),
    (b"data: a\r\rdata: b\r\rx", [b"data: a\r\r", b"data: b\r\r"], b"x"),
    (b"data: a\n\r\ndata: b\r\n\n", [b"data: a\n\r\n", b"data: b\r\n\n"], b""),
    (b": ping\n\ndata: a\n\n", [b": ping\n\n", b"data: a\n\n"], b""),
    (b"\n\ndata: a\n\n\ndata: b\n\n", [b"\n", b"\n", b"data: a\n\n", b"\n", b"data: b\n\n"], b""),
    (b"event: x\ndata: 1\ndata: 2\n\n", [b"event: x\ndata: 1\ndata: 2\n\n"], b""),
    (b"data: a\n", [], b"data: a\n"),
    (b"data: a\r\n\r", [], b"data: a\r\n\r"),
    ("data: \u2028\u2029\u0085\x0b\x0c\x1c\n\n".encode(), ["data: \u2028\u2029\u0085\x0b\x0c\x1c\n\n".encode()], b""),
]


def events_of(reads: list[bytes], **limits: int) -> tuple[list[bytes], bytes]:
    splitter = Splitter(**limits)
    events = [event for read in reads for event in splitter.feed(read)]
    return events, splitter.rest()


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(("data", "events", "rest"), TABLE)
def test_events_end_at_a_blank_line_however_it_is_written(data: bytes, events: list[bytes], rest: bytes) -> None:
    assert events_of([data]) == (events, rest)
    assert events_of(single(data)) == (events, rest)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: x", b": c", b"data:", b"\xe2\x80\xa8"]), max_size=24), st.data())
def test_the_way_of_reading_changes_nothing(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reads = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    events, rest = events_of([whole])

    assert events_of(reads) == (events, rest)
    assert events_of(single(whole)) == (events, rest)
    assert b"".join(events) + rest == whole


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a b\n\n", b"a b"),
        (b"data:a\r\n\r\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"id: 7\ndata: 1\nevent: x\ndata: 2\r\n\n", b"1\n2"),
        (b"data\n\n", b""),
        (b": data: a\n\n", None),
        (b"\n", None),
        (b"database: a\n\n", None),
        (b"event: ping\n\n", None),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_an_event_holds_its_data() -> None:
    assert data_of(event_of(b'{"a":1}')) == b'{"a":1}'


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"data: " + b"x" * 100, "line is longer than 64"),
        (b"data: " + b"x" * 100 + b"\n\n", "line is longer than 64"),
        (b"data: xxxxxxx\n" * 20, "event is longer than 200"),
        (b"data: xxxxxxx\r\n" * 20 + b"\n\n", "event is longer than 200"),
    ],
)
def test_a_line_or_event_over_its_limit_ends_the_stream_after_what_came_before(tail: bytes, words: str, step: int) -> None:
    data = b"data: first\n\n" + tail
    splitter, seen = Splitter(line_limit=64, event_limit=200), []

    with pytest.raises(BadStream, match=words) as bad:
        for start in range(0, len(data), step):
            seen += splitter.feed(data[start : start + step])

    assert seen + bad.value.events == [b"data: first\n\n"]


def test_many_lines_in_one_event_are_measured_one_by_one() -> None:
    data = b"data: xxxxxxx\n" * 10 + b"\n"
    for reads in ([data], single(data)):
        assert events_of(reads, line_limit=20, event_limit=200) == ([data], b"")


def test_a_slow_drip_of_one_long_line_costs_one_pass() -> None:
    splitter, drop = Splitter(), b"x" * 8
    started = time.process_time()
    for _ in range(100_000):
        splitter.feed(drop)
    assert time.process_time() - started < 2
