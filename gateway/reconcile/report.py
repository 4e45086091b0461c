"""What a reconciliation says, as JSON and as text. Pure. Amounts are decimal strings of whole units, differences are theirs minus ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.clock import instant_text
from gateway.money import decimal_text
from gateway.outcome import Correction
from gateway.reconcile.bills import Rate, Span
from gateway.reconcile.compare import Beside, Cell, Pile, Table
from gateway.reconcile.proposals import held_back
from gateway.reconcile.reasons import MEANINGS, SETTLED, Finding, Part, Reason
from gateway.reports.text import columns, many, seen

_HEAD: Final = ("day", "model", "class", "billed", "charged", "difference", "tokens", "likely reason")
_NUMBERS: Final = range(3, 7)
_PROPOSED: Final = ("at", "team", "route", "model", "class", "amount", "reason")
_AMOUNT: Final = (5,)


@dataclass(frozen=True)
class Reconciled:
    """One comparison with all that came of it. `owners`: who has the keys that are not this ledger's, by the key's name."""

    host: str
    currency: str
    account: str
    table: Table
    findings: Sequence[Finding]
    proposed: Sequence[Correction] = ()
    include: frozenset[Reason] = frozenset()
    owners: Mapping[str, str] | None = None
    notes: Sequence[str] = ()
    applied: int | None = None
    there: Sequence[Correction] = ()

    @property
    def gap(self) -> int:
        """Theirs minus ours in nano, without rounding and without what lies in the day beside."""
        return sum(finding.gap for finding in self.findings)

    @property
    def billed(self) -> int:
        return sum(finding.cell.billed for finding in self.findings)

    @property
    def charged(self) -> int:
        return sum(finding.cell.charged for finding in self.findings)

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.table.spans

    def reasons(self) -> dict[Reason, tuple[int, int]]:
        """Nano and cells by reason, the largest first."""
        found: dict[Reason, tuple[int, int]] = {}
        for finding in self.findings:
            for part in finding.parts:
                nano, cells = found.get(part.reason, (0, 0))
                found[part.reason] = nano + part.nano, cells + 1
        return dict(sorted(found.items(), key=lambda item: -abs(item[1][0])))


# --- JSON --------------------------------------------------------------------------------------------------------------


def json_of(done: Reconciled) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "host": done.host,
        "account": done.account,
        "currency": done.currency,
        "from": instant_text(done.spans[0].start),
        "to": instant_text(done.spans[-1].end),
        "billed": decimal_text(done.billed),
        "charged": decimal_text(done.charged),
        "difference": decimal_text(done.billed - done.charged),
        "gap": decimal_text(done.gap),
        "reasons": [
            {"reason": reason, "amount": decimal_text(nano), "cells": cells, "meaning": MEANINGS[reason]}
            for reason, (nano, cells) in done.reasons().items()
        ],
        "cells": [_cell(finding) for finding in done.findings if _matters(finding)],
        "other_keys": [_beside(other, done.owners or {}) for other in done.table.beside.values()],
        "proposed": [correction_json(each) for each in done.proposed],
        "not_proposed": {reason: decimal_text(nano) for reason, nano in held_back(done.findings, done.include, done.there).items()},
        "applied": done.applied,
        "notes": list(done.notes),
    }


def correction_json(correction: Correction) -> dict[str, Any]:
    """A correction as it would stand in the ledger."""
    return {
        "id": correction.id,
        "at": instant_text(correction.at),
        "team": correction.team,
        "key": correction.key,
        "route": correction.route,
        "host": correction.host,
        "model": correction.model,
        "class": correction.cls,
        "currency": correction.currency,
        "amount": decimal_text(correction.nano),
        "reason": correction.reason,
        "source": correction.source,
    }


def _matters(finding: Finding) -> bool:
    return bool(finding.parts or finding.difference)


def _cell(finding: Finding) -> dict[str, Any]:
    cell = finding.cell
    return {
        "day": cell.span.name,
        "from": instant_text(cell.span.start),
        "to": instant_text(cell.span.end),
        "model": cell.model,
        "class": cell.cls or None,
        "billed": decimal_text(cell.billed),
        "charged": decimal_text(cell.charged),
        "difference": decimal_text(finding.difference),
        "prices": [_price(cell, rate) for rate in _rates(cell)],
        "parts": [_part(part) for part in finding.parts],
    }


def _part(part: Part) -> dict[str, Any]:
    return {"reason": part.reason, "amount": decimal_text(part.nano), "tokens": part.tokens, "detail": part.detail}


def _rates(cell: Cell) -> list[Rate]:
    return sorted({*cell.theirs, *cell.ours}, key=lambda rate: (rate is None, rate or 0))


def _price(cell: Cell, rate: Rate) -> dict[str, Any]:
    theirs, ours = cell.theirs.get(rate, Pile()), cell.ours.get(rate, Pile())
    return {
        "per_million": None if rate is None else decimal_text(rate),
        "card": cell.cards.get(rate),
        "billed": {"tokens": theirs.tokens, "amount": decimal_text(theirs.nano)},
        "charged": {"tokens": ours.tokens, "amount": decimal_text(ours.nano)},
    }


def _beside(other: Beside, owners: Mapping[str, str]) -> dict[str, Any]:
    return {
        "key": str(other.key),
        "owner": owners.get(str(other.key)),
        "amount": decimal_text(other.nano),
        "tokens": other.tokens,
        "requests": other.requests,
    }


# --- text --------------------------------------------------------------------------------------------------------------


def text_of(done: Reconciled) -> str:
    """A table with one line for each part of a difference, and what it comes to; what corrections have settled is in the sums only."""
    lines = [_title(done)]
    rows = [row for finding in done.findings if not _settled(finding) for row in _rows(finding)]
    lines += ["", *columns([_HEAD, *rows], _NUMBERS)] if rows else ["", "nothing is left to explain"]
    lines += ["", *_sums(done)]
    return "\n".join(map(seen, lines))


def _title(done: Reconciled) -> str:
    account = f" account {done.account}" if done.account else ""
    days = f"{done.spans[0].name} to {done.spans[-1].name}" if len(done.spans) > 1 else done.spans[0].name
    return (
        f"{done.host}{account}, {days}: billed {decimal_text(done.billed)} {done.currency}, charged {decimal_text(done.charged)}, "
        f"difference {decimal_text(done.billed - done.charged)}"
    )


def _rows(finding: Finding) -> Iterator[tuple[str, ...]]:
    cell, first = finding.cell, True
    for part in finding.parts:
        if part.reason == "rounding":
            continue
        amounts = (decimal_text(cell.billed), decimal_text(cell.charged)) if first else ("", "")
        yield (cell.span.name, cell.model, cell.cls or "all", *amounts, _signed(part.nano), _tokens(part), _reason(part))
        first = False


def _settled(finding: Finding) -> bool:
    """Whether earlier corrections make up for it."""
    return not finding.gap and any(part.reason == "corrected" for part in finding.parts)


def _signed(nano: int) -> str:
    return f"+{decimal_text(nano)}" if nano > 0 else decimal_text(nano)


def _tokens(part: Part) -> str:
    return f"{part.tokens:+d}" if part.tokens else ""


def _reason(part: Part) -> str:
    return f"{part.reason} ({part.detail})" if part.detail else part.reason


def _sums(done: Reconciled) -> Iterator[str]:
    reasons = done.reasons()
    for reason, (nano, _) in reasons.items():
        balanced = ", in no gap" if reason in SETTLED else ""
        yield f"{_signed(nano):>16}  {reason}: {MEANINGS[reason]}{balanced}"
    for other in done.table.beside.values():
        owner = (done.owners or {}).get(str(other.key))
        whose = f", {owner}'s" if owner else ", not this ledger's"
        yield f"{'':>16}  beside it: key {other.key}{whose}, was billed {decimal_text(other.nano)} for {many(other.tokens, 'token')}"
    yield f"{_signed(done.gap):>16}  gap"
    yield from (f"note: {note}" for note in done.notes)
    yield from _next(done)


def _next(done: Reconciled) -> Iterator[str]:
    """What can be done about it."""
    if done.applied is not None:
        yield f"{many(done.applied, 'correction')} appended"
        return
    if done.proposed:
        whole = sum(each.nano for each in done.proposed)
        yield f"proposed: {many(len(done.proposed), 'correction')} of {_signed(whole)} {done.currency} together; --apply appends them"
    left = {reason: nano for reason, nano in held_back(done.findings, done.include, done.there).items() if nano}
    if left:
        names = ", ".join(f"{reason} {_signed(nano)}" for reason, nano in left.items())
        yield f"not proposed: {names}; --include REASON proposes them too"


def lines_of(corrections: Iterable[Correction]) -> str:
    """Proposed corrections, one a line."""
    rows = [_PROPOSED]
    rows += [
        (instant_text(each.at), each.team or "-", each.route or "-", each.model, each.cls or "all", _signed(each.nano), each.reason)
        for each in corrections
    ]
    return "\n".join(columns(rows, _AMOUNT))
