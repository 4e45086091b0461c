"""Log lines: one event is one line of JSON, and neither a client nor an exception's text can put anything else there."""

from __future__ import annotations

import io
import json
import logging

import pytest

from gateway.logs import JsonLines, TextLines, configure

TRICKS = ["a\r\nb", "\x1b[31mred", "x\u2028y", "ż\ud800", '{"level":"info"}', "\x00", "%s %d"]


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("gateway.x", logging.ERROR, "x.py", 1, message, (), info)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_message_stays_one_line_and_one_object(trick: str) -> None:
    line = JsonLines().format(record(trick))
    assert line.isascii() and "\n" not in line
    assert json.loads(line)["message"] == trick
    assert json.loads(line)["level"] == "error"


@pytest.mark.parametrize("trick", TRICKS)
def test_text_for_a_terminal_has_no_control_characters(trick: str) -> None:
    assert TextLines().format(record(trick)).isprintable()


def test_a_long_message_is_cut() -> None:
    assert len(JsonLines().format(record("x" * 1_000_000))) < 5000


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_an_exception_shows_where_it_came_from_and_not_its_text(formatter: logging.Formatter) -> None:
    try:
        json.loads({"secret prompt": 1}["secret key"])  # type: ignore[arg-type]
    except KeyError as error:
        text = formatter.format(record("it failed", error))
    assert "KeyError" in text and "test_logs.py" in text
    assert "KeyError: " not in text


def test_configure_sends_everything_to_one_stream_at_one_level() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    try:
        configure("warning", "json", stream)
        logging.getLogger("gateway.x").info("quiet")
        logging.getLogger("gateway.x").warning("loud")
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]
