"""Proposals: corrections that bring the ledger to what the host billed, derived from the findings. Pure.

A correction is of one day, model and class, and of one team, key and route: the gap of a cell is shared out by whose requests it is about,
to the nano. Its id says where it belongs and how many are there already: the same findings give the same ids, so that applying
them twice has no effect, and a later export of the same days corrects what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final

from gateway.outcome import Correction
from gateway.reconcile.charges import NOBODY, Who
from gateway.reconcile.reasons import SETTLED, Finding, Part, Reason

# Corrected only where it is asked for: the bill may be incomplete, or the traffic somebody else's.
HELD_BACK: Final[tuple[Reason, ...]] = (
    "missing_day",
    "missing_model",
    "not_in_ledger",
    "other_traffic",
    "not_billed",
    "extras",
    "unexplained",
)
_MARK: Final = "reconcile: "
_LENGTH: Final = 16
# The instant, the model and the class of a correction: its cell.
_Place = tuple[datetime, str, str]


def proposals(
    findings: Iterable[Finding], there: Collection[Correction], host: str, currency: str, account: str, include: Collection[Reason] = ()
) -> list[Correction]:
    """What to append: for each cell, what its reasons come to, less what was corrected before (`there`)."""
    taken, asked, had = _numbers(there), _asked(there), _had(there)
    found: list[Correction] = []
    for finding in findings:
        place = _middle(finding), finding.cell.model, finding.cell.cls
        wanted = {*include, *asked.get(place, ())}
        left_out = {*SETTLED, *(reason for reason in HELD_BACK if reason not in wanted)}
        parts = [part for part in finding.parts if part.reason not in left_out]
        nano = sum(part.nano for part in parts)
        if nano:
            found += _of_cell(finding, parts, nano, (host, currency, account), taken, had.get(place, {}))
    return found


def _had(there: Iterable[Correction]) -> dict[_Place, dict[Who, int]]:
    """What each was corrected by before, by cell."""
    found: dict[_Place, dict[Who, int]] = {}
    for one in there:
        shares, who = found.setdefault((one.at, one.model, one.cls), {}), Who(one.team, one.key, one.route)
        shares[who] = shares.get(who, 0) + one.nano
    return found


def _asked(there: Iterable[Correction]) -> dict[_Place, set[str]]:
    """What earlier corrections of a cell were for: who asked for it once need not say so each time."""
    found: dict[_Place, set[str]] = {}
    for correction in there:
        if correction.reason.startswith(_MARK):
            place = (correction.at, correction.model, correction.cls)
            found.setdefault(place, set()).update(correction.reason.removeprefix(_MARK).split(", "))
    return found


def held_back(findings: Iterable[Finding], include: Collection[Reason] = (), there: Collection[Correction] = ()) -> dict[Reason, int]:
    """What is not proposed, in nano by reason. What was asked for once (`there`) is kept up by itself."""
    asked, found = _asked(there), dict[Reason, int]()
    for finding in findings:
        wanted = {*include, *asked.get((_middle(finding), finding.cell.model, finding.cell.cls), ())}
        for part in finding.parts:
            if part.reason in HELD_BACK and part.reason not in wanted:
                found[part.reason] = found.get(part.reason, 0) + part.nano
    return found


def _of_cell(
    finding: Finding, parts: list[Part], nano: int, account: tuple[str, str, str], taken: Mapping[str, int], had: Mapping[Who, int]
) -> Iterator[Correction]:
    cell, (host, currency, name) = finding.cell, account
    reason = ", ".join(dict.fromkeys(part.reason for part in parts if part.reason != "corrected")) or "corrected"
    for who, share in _shares(parts, nano, had):
        place = "/".join((host, name, cell.span.start.isoformat(), cell.span.end.isoformat(), cell.model, cell.cls, *who))
        base = f"reconcile-{host}-{cell.span.name}-{sha256(place.encode()).hexdigest()[:_LENGTH]}"
        yield Correction(
            id=f"{base}-{taken.get(base, 0) + 1}",
            at=_middle(finding),
            team=who.team,
            key=who.key,
            route=who.route,
            host=host,
            model=cell.model,
            currency=currency,
            nano=share,
            cls=cell.cls,
            reason=f"{_MARK}{reason}",
            source=f"{host}'s usage export",
        )


def _middle(finding: Finding) -> datetime:
    """An instant of the host's day that has its date in most zones."""
    span = finding.cell.span
    return span.start + (span.end - span.start) / 2


def _numbers(there: Iterable[Correction]) -> dict[str, int]:
    """The highest number of each place."""
    found: dict[str, int] = {}
    for correction in there:
        base, _, number = correction.id.rpartition("-")
        if base.startswith("reconcile-") and number.isdecimal():
            found[base] = max(found.get(base, 0), int(number))
    return found


def _shares(parts: list[Part], nano: int, had: Mapping[Who, int]) -> list[tuple[Who, int]]:
    """An amount shared out by whose requests it is about: each part by its own weights, less what each had before. They sum to it."""
    sums: dict[Who, int] = {}
    for part in parts:
        if part.reason != "corrected":
            for who, share in _split(part.nano, part.who or {NOBODY: 1}):
                sums[who] = sums.get(who, 0) + share
    if sum(sums.values()) - sum(had.values()) == nano:
        sums = {who: sums.get(who, 0) - had.get(who, 0) for who in {*sums, *had}}
    elif sum(sums.values()) != nano:
        # Some of it was corrected elsewhere: what is left goes in the same proportion.
        sums = dict(_split(nano, {who: abs(share) for who, share in sums.items()} or {NOBODY: 1}))
    return [(who, share) for who, share in sorted(sums.items()) if share]


def _split(nano: int, weights: Mapping[Who, int]) -> Iterator[tuple[Who, int]]:
    """Shares in proportion, rounded so that they sum to the whole."""
    positive = {who: weight for who, weight in weights.items() if weight > 0} or {NOBODY: 1}
    total, given, seen = sum(positive.values()), 0, 0
    for who, weight in sorted(positive.items()):
        seen += weight
        upto = nano * seen // total
        yield who, upto - given
        given = upto
