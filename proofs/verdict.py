"""The ledger of a fleet against the bill of its host, request by request."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proofs.clients import Seen
from proofs.fleet import Fleet

CHARGES: Final = """
    SELECT hold.rid, hold.state, hold.nano, coalesce(charge.nano, 0), coalesce(charge.firsts, 0), coalesce(charge.reported, 0)
    FROM hold LEFT JOIN (
        SELECT rid, sum(nano) AS nano, sum(CASE WHEN kind <> 'adjust' THEN 1 ELSE 0 END) AS firsts,
            max(CASE WHEN source = 'reported' THEN 1 ELSE 0 END) AS reported
        FROM entry GROUP BY rid
    ) AS charge ON charge.rid = hold.rid"""
OVERRUNS: Final = "SELECT coalesce(sum(overrun), 0) FROM budget"


@dataclass
class Verdict:
    """What a proof found: its figures, and what it did not accept."""

    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def require(self, holds: bool, text: str) -> None:
        if not holds:
            self.problems.append(text)


@dataclass(frozen=True)
class _Charge:
    """What the ledger made of one request."""

    state: str
    held: int
    nano: int
    firsts: int
    reported: bool


async def judge(fleet: Fleet, seen: Sequence[Seen], bills: list[dict[str, Any]]) -> Verdict:
    """Nothing billed without a hold, without a charge or with two; what a client saw to its end, and what was reported, is exact."""
    rows = await fleet.evidence.read(CHARGES)
    charges = {rid: _Charge(state, held, int(nano), int(firsts), bool(reported)) for rid, state, held, nano, firsts, reported in rows}
    [(overrun,)] = await fleet.evidence.read(OVERRUNS)
    verdict = Verdict()
    billed = defaultdict[str, int](int)
    for row in bills:
        billed[row["id"]] += row["nano"] or 0
    _compare(verdict, billed, charges, {one.id for one in seen if one.whole})
    _pay_once(verdict, bills, seen)
    beyond = sum(max(0, charge.nano - charge.held) for charge in charges.values())
    verdict.require(int(overrun) <= beyond, f"overruns of {overrun} nano are recorded, and charges beyond their holds explain {beyond}")
    states = Counter(charge.state for charge in charges.values())
    verdict.figures |= {"billed": len(billed), "holds": dict(states), "overrun_nano": int(overrun), "answers": _answers(seen)}
    verdict.figures |= {"charged_nano": sum(charge.nano for charge in charges.values()), "billed_nano": sum(billed.values())}
    return verdict


def _compare(verdict: Verdict, billed: dict[str, int], charges: dict[str, _Charge], whole: set[str]) -> None:
    unheld = sorted(id for id in billed if id not in charges)
    lost = sorted(id for id, nano in billed.items() if nano and id in charges and not charges[id].nano)
    # An answer that a budget stopped has no report: its host has not said how many tokens that was, so we have counted them.
    final = [id for id in whole if id in billed and id in charges and charges[id].reported]
    lost += sorted(id for id in final if charges[id].nano < billed[id])
    double = sorted(id for id, charge in charges.items() if charge.firsts > 1)
    double += sorted(id for id in final if charges[id].nano > billed[id])
    settled = [id for id, charge in charges.items() if charge.state == "settled" and charge.reported and id in billed]
    wrong = [id for id in settled if charges[id].nano != billed[id]]
    open = [id for id, charge in charges.items() if charge.state == "held"]

    def told(ids: list[str]) -> list[str]:
        return [f"{id}: billed {billed.get(id)}, {charges.get(id)}{', seen whole' if id in whole else ''}" for id in ids[:3]]

    verdict.require(not unheld, f"{len(unheld)} billed without a hold: {unheld[:3]}")
    verdict.require(not lost, f"{len(lost)} billed and not charged: {told(lost)}")
    verdict.require(not double, f"{len(double)} charged twice: {told(double)}")
    verdict.require(not wrong, f"{len(wrong)} charged otherwise than reported: {told(wrong)}")
    verdict.require(not open, f"{len(open)} holds are still open: {told(open)}")
    verdict.require(len(final) > 0, "nothing was settled: this run proves nothing")
    # By estimate: the gateway died, or counted an answer that was cut; each has its charge, and it may differ.
    guessed = [id for id in billed if id in charges and charges[id].nano != billed[id]]
    under = [billed[id] - charges[id].nano for id in guessed if charges[id].nano < billed[id]]
    verdict.figures |= {"unheld": len(unheld), "lost": len(lost), "double": len(double), "exact": len(billed) - len(guessed)}
    verdict.figures |= {"estimated": len(guessed), "estimated_below_bill": len(under), "below_bill_nano": sum(under)}


def _pay_once(verdict: Verdict, bills: list[dict[str, Any]], seen: Sequence[Seen]) -> None:
    """Whoever sends an Idempotency-Key is billed once at most, however often it tries."""
    keyed = {one.ask.tag for one in seen if one.ask.idempotency}
    times = Counter(row.get("tag", "") for row in bills if row["nano"])
    twice = sorted(tag for tag in keyed if times[tag] > 1)
    verdict.require(not twice, f"{len(twice)} paid twice under one Idempotency-Key: {twice[:3]}")
    verdict.figures |= {"keyed": len(keyed), "paid_twice": len(twice)}


def _answers(seen: Sequence[Seen]) -> dict[str, int]:
    """How often clients saw what."""
    return dict(Counter("whole" if one.whole else one.trouble or f"{one.status} {one.code}".strip() for one in seen).most_common())
