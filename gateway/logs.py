"""Log lines: one event is one line, whatever a client put into it; no body, key or answer is ever logged."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO

# A line longer than this says nothing more; a name that a client chose may be of any length.
LONGEST = 4000
# Marks a record whose message is lines that are written already, as they are to stand in the log.
_LINES = "lines"


class JsonLines(logging.Formatter):
    """A record as one ASCII JSON object: time, level, logger, message, and `error` (where an exception came from)."""

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, _LINES):
            return str(record.msg)
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
        }
        if where := _where(record):
            line["error"] = where
        return json.dumps(line, ensure_ascii=True)


class TextLines(logging.Formatter):
    """A record for a person's terminal; control characters are escaped, so that one event stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, _LINES):
            return str(record.msg)
        message = record.getMessage()[:LONGEST]
        text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
        line = f"{_time(record)} {record.levelname.lower():7} {text}"
        where = _where(record)
        return f"{line}\n{where}" if where else line


def configure(level: str, form: str, stream: IO[str] | None = None) -> None:
    """Send every logger to one stream (standard error) at `level`; `form` is json or text."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries tell of every connection below these levels.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "aiohttp", "watchfiles"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def lines_record(logger: str, lines: str) -> logging.LogRecord:
    """A record of level info that is written as it is: whole lines, already in the form of this log, and of any length."""
    record = logging.LogRecord(logger, logging.INFO, "", 0, lines, (), None)
    setattr(record, _LINES, True)
    return record


def _where(record: logging.LogRecord) -> str:
    """An exception's type and the lines of code it came through; not its text, which can quote a prompt or a key."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return ("".join(traceback.format_tb(record.exc_info[2])) + record.exc_info[0].__qualname__)[-LONGEST:]


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
