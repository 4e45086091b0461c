"""Server-sent events on bytes: lines end at CR, LF or CRLF and nowhere else, wherever the reads happen to be cut.

Text functions are no use here: they also split at characters that a model may write inside a JSON string.
"""

from __future__ import annotations

import re

LINE_LIMIT = 1 << 20
EVENT_LIMIT = 4 << 20

_END = rb"(?>\r\n|\n|\r)"
_LINE_END = re.compile(_END)
_EVENT_END = re.compile(_END + _END)
# A CRLF pair twice over, less the byte that has just come.
_LOOKBACK = 3


class BadStream(Exception):
    """A stream that cannot be read on; `events` came whole before the fault."""

    def __init__(self, message: str, events: list[bytes]) -> None:
        super().__init__(message)
        self.events = events


class Splitter:
    """Cuts a byte stream into whole raw events; the result does not depend on how the stream was read."""

    def __init__(self, line_limit: int = LINE_LIMIT, event_limit: int = EVENT_LIMIT) -> None:
        self._line_limit = line_limit
        self._event_limit = event_limit
        self._pending = bytearray()
        self._line = 0
        self._scanned = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its line ends; a lone blank line is an event too.

        Raises BadStream for a line or an event over its limit.
        """
        if self._pending:
            start = max(len(self._pending) - _LOOKBACK, 0)
            self._pending += data
            # Only a blank line whose CR came last can stand at the beginning here.
            if self._pending[:1] != b"\r" and not _EVENT_END.search(self._pending, start):
                self._check_pending([])
                return []
            data = bytes(self._pending)
            self._pending.clear()
            self._line = self._scanned = 0
        events, rest = _cut(data)
        for number, event in enumerate(events):
            if len(event) > self._line_limit:
                self._check(event, events[:number])
        if rest:
            self._pending += rest
            self._check_pending(events)
        return events

    def rest(self) -> bytes:
        """What has come of an event that is not complete."""
        return bytes(self._pending)

    def _check_pending(self, events: list[bytes]) -> None:
        if len(self._pending) <= self._line_limit:
            return
        # Only what is new is searched, so that a slow drip of one long line costs no more than one pass over it.
        for end in _LINE_END.finditer(self._pending, self._scanned):
            self._measure(end.start() - self._line, events)
            self._line = end.end()
        self._scanned = len(self._pending)
        self._measure(len(self._pending) - self._line, events)
        self._measure_event(len(self._pending), events)

    def _check(self, event: bytes, before: list[bytes]) -> None:
        self._measure(max(map(len, _LINE_END.split(event))), before)
        self._measure_event(len(event), before)

    def _measure(self, line: int, events: list[bytes]) -> None:
        if line > self._line_limit:
            raise BadStream(f"a line is longer than {self._line_limit} bytes", events)

    def _measure_event(self, size: int, events: list[bytes]) -> None:
        if size > self._event_limit:
            raise BadStream(f"an event is longer than {self._event_limit} bytes", events)


def data_of(event: bytes) -> bytes | None:
    """The data of one raw event, its lines joined by LF; None for a comment, a blank line or another field."""
    values = [_value(line) for line in _LINE_END.split(event) if line[:5] == b"data:" or line == b"data"]
    return b"\n".join(values) if values else None


def event_of(data: bytes) -> bytes:
    """One event that carries `data` (one line)."""
    return b"data: " + data + b"\n\n"


def _value(line: bytes) -> bytes:
    return line[6:] if line[5:6] == b" " else line[5:]


def _cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole events of `data`, and what is left."""
    if b"\r" in data or data[:1] == b"\n" or b"\n\n\n" in data:
        return _cut_slowly(data)
    *events, rest = data.split(b"\n\n")
    return [event + b"\n\n" for event in events], rest


def _cut_slowly(data: bytes) -> tuple[list[bytes], bytes]:
    events: list[bytes] = []
    start = 0
    while found := _LINE_END.match(data, start) or _EVENT_END.search(data, start):
        end = found.end()
        if end == len(data) and data[-1:] == b"\r":
            # An LF may follow and belongs to this line end.
            break
        events.append(data[start:end])
        start = end
    return events, data[start:]
