"""Findings: what one look showed, how bad that is, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from gateway.reports.text import many

State = Literal["ok", "warning", "failure"]


class Finding(Struct, frozen=True):
    """One look at one thing. `remedy` says what to do where the state is not ok; `figures` are for programs."""

    check: str
    subject: str
    state: State
    text: str
    remedy: str = ""
    figures: dict[str, Any] = {}

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "subject": self.subject,
            "state": self.state,
            "text": self.text,
            "remedy": self.remedy or None,
            **({"figures": self.figures} if self.figures else {}),
        }


def ok(check: str, subject: str, text: str, **figures: Any) -> Finding:
    return Finding(check, subject, "ok", text, "", figures)


def warning(check: str, subject: str, text: str, remedy: str, **figures: Any) -> Finding:
    return Finding(check, subject, "warning", text, remedy, figures)


def failure(check: str, subject: str, text: str, remedy: str, **figures: Any) -> Finding:
    return Finding(check, subject, "failure", text, remedy, figures)


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """What --json prints: `ok` is false where anything is a failure."""
    counts = Counter(one.state for one in findings)
    return {
        "ok": not counts["failure"],
        **{f"{state}s" if state != "ok" else "passed": counts[state] for state in ("failure", "warning", "ok")},
        "findings": [one.to_json() for one in findings],
    }


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For a person: one line each, the remedy below what needs one, the sum last."""
    wide = max((len(one.check) for one in findings), default=0)
    far = max((len(one.subject) for one in findings), default=0)
    for one in findings:
        yield f"{one.state:7}  {one.check:{wide}}  {one.subject:{far}}  {one.text}"
        if one.remedy:
            yield f"{'':7}  {'':{wide}}  {'':{far}}  -> {one.remedy}"
    counts = Counter(one.state for one in findings)
    yield f"{many(counts['failure'], 'failure')}, {many(counts['warning'], 'warning')}, {counts['ok']} ok"


def worst(findings: Iterable[Finding]) -> State:
    states = {one.state for one in findings}
    return "failure" if "failure" in states else "warning" if "warning" in states else "ok"
