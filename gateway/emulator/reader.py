"""The emulator's own reading of policies: raw YAML as numbers and texts, without the gateway's loader.

Independent on purpose: a mistake in the gateway's reading of a card must not repeat itself in the bill that checks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]


class ShelfError(ValueError):
    """The folder lacks what the emulator needs; the text names it."""


@dataclass(frozen=True)
class Shelf:
    """What the emulator knows of one host: its row, the contracts, its cards, the calendars."""

    host: Row
    contracts: dict[str, Row]
    cards: tuple[Row, ...] = ()
    calendars: dict[str, frozenset[date]] = field(default_factory=dict)

    def model(self, name: str, at: datetime) -> Row | None:
        """The row of this model (by its id on the wire) that serves at `at`."""
        return next((row for row in self.models(at) if wire_id(row) == name), None)

    def models(self, at: datetime) -> list[Row]:
        return [row for row in self.host.get("models", ()) if serves(row, at)]

    def retired(self, name: str, at: datetime) -> str | None:
        """The refusal of a model that served until some instant before `at`."""
        ended = [row for row in self.host.get("models", ()) if wire_id(row) == name and row.get("until") and instant(row["until"]) <= at]
        return str(ended[-1]["retired"]).replace("{model}", name) if ended and ended[-1].get("retired") else None


def wire_id(row: Row) -> str:
    return str(row.get("upstream") or row["model"])


def serves(row: Row, at: datetime) -> bool:
    return instant(row["from"]) <= at and (row.get("until") is None or at < instant(row["until"]))


def instant(value: Any) -> datetime:
    """A YAML time stamp (or its text) as an aware instant."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def day(value: Any) -> date:
    return value if isinstance(value, date) else date.fromisoformat(str(value))


def switch(value: Any) -> str | None:
    """`on` and `off` are booleans in YAML 1.1: their words again."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return None if value is None else str(value)


def read_shelf(folder: Path, host: str) -> Shelf:
    """Everything about one host; raises ShelfError when the folder has no row of it."""
    rows = [row for row in _rows(folder / "hosts") if row.get("host") == host]
    if not rows:
        known = sorted(str(row.get("host")) for row in _rows(folder / "hosts"))
        raise ShelfError(f"no host {host!r} under {folder.name}/hosts; known: {', '.join(known) or 'none'}")
    if rows[0].get("protocol", "openai") != "openai":
        raise ShelfError(f"{host} does not speak OpenAI's protocol, and the emulator speaks no other")
    contracts = {str(row["contract"]): row for row in _rows(folder / "contracts")}
    cards = _cards(_rows(folder / "prices", host), host)
    calendars = {str(row["calendar"]): frozenset(day(d) for d in row["days"]) for row in _rows(folder / "calendars")}
    return Shelf(rows[0], contracts, cards, calendars)


def read_cards(file: Path, host: str) -> tuple[Row, ...]:
    """The cards of a host in one file; raises ShelfError where it has none."""
    try:
        found = _cards(_documents(file.read_text(encoding="utf-8")), host)
    except (OSError, yaml.YAMLError) as error:
        raise ShelfError(f"{file}: {str(error).splitlines()[0]}") from None
    if not found:
        raise ShelfError(f"{file} has no card of host {host!r}")
    return found


def _cards(rows: list[Row], host: str) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.get("host") == host)


def _rows(folder: Path, needle: str = "") -> list[Row]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))]
    return [row for text in texts if needle in text for row in _documents(text)]


def _documents(text: str) -> list[Row]:
    found: list[Row] = []
    for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        found.extend(document if isinstance(document, list) else [document] if document else [])
    return found
