"""Edits: every change made to a request or an answer has a name that the client sees. What is changed is decided elsewhere.

Written as `drop_reasoning_content=3` (in three messages), `max_tokens=9000->8192` (from, to) or `disable_thinking`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Edit:
    """One named change; `value` is a count of messages, or `from->to`, or None."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def dropped(field: str, messages: int | None = None) -> Edit:
    """A field that was left out, of the request or of so many messages."""
    return Edit(f"drop_{safe(field)}", None if messages is None else str(messages))


def renamed(field: str, messages: int | None = None) -> Edit:
    """A field that is sent under another name or in another form, in the request or in so many messages."""
    return Edit(f"rename_{safe(field)}", None if messages is None else str(messages))


def changed(name: str, before: object, after: object) -> Edit:
    """A value that was `before` and is sent as `after`."""
    return Edit(name, f"{before}->{after}")


def parse(text: str) -> Edit:
    """An edit as it was written."""
    name, _, value = text.partition("=")
    return Edit(name, value or None)


def safe(field: str) -> str:
    """A caller's field name that can stand in a header; a name with anything else in it is written `other`."""
    return field if SAFE_NAME.fullmatch(field) else "other"


def header(edits: Iterable[Edit | str]) -> str:
    """The value of x-faregate-edits: in the order made, comma and space between."""
    return ", ".join(map(str, edits))
