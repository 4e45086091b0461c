"""Reconciled: the last reconciliation of every host, kept in a small file of the data folder, from which /metrics reads it.

A command writes it and gateways read it, so both need the same FAREGATE_DATA. It is no part of the ledger: losing it loses two gauges
until the next reconciliation.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from gateway.money import NANO

log = logging.getLogger(__name__)
FILE: Final = "reconcile.json"


class LastTime(msgspec.Struct, frozen=True):
    """What a reconciliation found: `gap` is theirs minus ours in nano, of the days from `start` to `end`; `at` is when it was made."""

    host: str
    currency: str
    gap: int
    at: datetime
    start: datetime
    end: datetime


_decode = msgspec.json.Decoder(dict[str, LastTime]).decode
Samples = list[tuple[tuple[str, ...], float]]


class Reconciliations:
    """The file in one data folder."""

    def __init__(self, data: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = data / FILE
        self._now = now
        self._seen: tuple[int, int] | None = None
        self._known: dict[str, LastTime] = {}

    def keep(self, last: LastTime) -> None:
        """Written as a whole or not at all; what other hosts have stays. OSError where the folder cannot be written."""
        found = dict(self.last()) | {f"{last.host} {last.currency}": last}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f".{FILE}.{os.getpid()}")
        new.write_bytes(msgspec.json.encode(found) + b"\n")
        new.replace(self._path)

    def last(self) -> Mapping[str, LastTime]:
        """By host and currency; read again only where the file is another one by now. Empty where there is none, or it is no such file."""
        try:
            state = self._path.stat()
            seen = state.st_mtime_ns, state.st_ino
            if seen != self._seen:
                self._known = _decode(self._path.read_bytes())
                self._seen = seen
        except FileNotFoundError:
            self._known, self._seen = {}, None
        except (OSError, msgspec.DecodeError) as problem:
            log.warning("%s cannot be read (%s): run `faregate reconcile` again", self._path, type(problem).__name__)
            self._known = {}
        return self._known

    def samples(self) -> dict[str, Samples]:
        """The gauges, in whole units and seconds."""
        found, now = self.last().values(), self._now()
        ages: dict[str, float] = {}
        for one in found:
            age = max(0.0, (now - one.at).total_seconds())
            ages[one.host] = min(age, ages.get(one.host, age))
        return {
            "faregate_reconcile_gap": [((one.host, one.currency), one.gap / NANO) for one in found],
            "faregate_reconcile_age_seconds": [((host,), age) for host, age in ages.items()],
        }
