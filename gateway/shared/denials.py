"""Denials: what the ledger has just refused is refused again without asking it, for one second at most.

The ledger alone decides what a budget grants. A note says only that it had no room for an amount a moment ago: whoever needs
as much of the same budget, period and limit need not ask again, until money comes back or the second is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import DecodeError, Struct
from msgspec.json import Decoder, Encoder

from gateway.budgets import exceeded
from gateway.clock import Clock
from gateway.errors import BudgetExceeded
from gateway.money import MoneyError, exact_nano
from gateway.outcome import BudgetState, Claim, Hold

# Seconds that a note lives; one that another replica wrote was on its way for a part of them.
LIFE: Final = 1.0
HEARD: Final = 0.9
# Notes of one team; further ones are not kept, and their budgets ask the ledger.
MOST: Final = 1000

_Key = tuple[str, str, str, str, int]


class _Note(Struct, frozen=True):
    """The budget as the ledger saw it, what it had no room for, and until when that is believed (this process's own clock)."""

    state: BudgetState
    asked: int
    until: float = 0.0


class _News(Struct, frozen=True):
    """What one replica tells the others; `note` None: money of this team came back."""

    team: str
    note: _Note | None


_encode: Final = Encoder().encode
_decode: Final = Decoder(_News).decode


class Denials:
    """The notes of one process. `tell` hands them to other replicas, whose notes come in by `hear`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._teams: dict[str, dict[_Key, _Note]] = {}
        self.tell: Callable[[bytes], None] = lambda message: None

    def check(self, hold: Hold) -> BudgetExceeded | None:
        """The refusal of this hold where the ledger has just refused as much; None: ask the ledger.

        One with an Idempotency-Key always asks: what was paid already is told so, however full the budget is.
        """
        notes = self._teams.get(hold.team)
        if notes is None or hold.idempotency is not None:
            return None
        now = self._clock.monotonic()
        for claim in hold.claims:
            note = notes.get(_key(claim))
            asked = claim.cost(hold.least)
            if note is not None and now < note.until and asked >= note.asked:
                return exceeded(note.state, asked)
        return None

    def note(self, hold: Hold, error: BudgetExceeded) -> None:
        """The ledger refused this hold, or a stretch of it."""
        found = _state(hold, error)
        if found is not None:
            state, asked = found
            self._keep(_Note(state, asked, self._clock.monotonic() + LIFE))
            self.tell(_encode(_News(hold.team, _Note(state, asked))))

    def forget(self, team: str) -> None:
        """Money of this team came back: a settle or a release."""
        if self._teams.pop(team, None) is not None:
            self.tell(_encode(_News(team, None)))

    def hear(self, message: bytes | str) -> None:
        """What another replica tells; anything else is ignored."""
        try:
            news = _decode(message)
        except (DecodeError, UnicodeDecodeError):
            return
        if news.note is None:
            self._teams.pop(news.team, None)
        elif news.note.state.team == news.team:
            self._keep(_Note(news.note.state, news.note.asked, self._clock.monotonic() + HEARD))

    def _keep(self, note: _Note) -> None:
        """One note for a budget: of two that count, the one that asked for less says more."""
        notes = self._teams.setdefault(note.state.team, {})
        state, now = note.state, self._clock.monotonic()
        key = (state.budget, state.key, state.period, state.currency, state.limit)
        former = notes.get(key)
        if former is not None and now < former.until and former.asked <= note.asked:
            return
        if len(notes) >= MOST:
            for old in [key for key, kept in notes.items() if kept.until <= now]:
                del notes[old]
        if len(notes) < MOST or key in notes:
            notes[key] = note


def _key(claim: Claim) -> _Key:
    return claim.budget, claim.key, claim.period, claim.currency, claim.limit


def _state(hold: Hold, error: BudgetExceeded) -> tuple[BudgetState, int] | None:
    """The budget that refused, and what was asked of it; None where the error does not say which of the claims it was."""
    found = error.details or {}
    claims = [claim for claim in hold.claims if claim.budget == found.get("budget") and claim.currency == found.get("currency")]
    if len(claims) != 1:
        return None
    (claim,) = claims
    try:
        limit, spent, held, asked = (exact_nano(str(found[name])) for name in ("limit", "spent", "held", "asked"))
    except (KeyError, MoneyError):
        return None
    if limit != claim.limit or not asked:
        return None
    state = BudgetState(
        hold.team, claim.budget, claim.key, claim.period, claim.currency, limit, spent, held, spent + held, 0, claim.resets_at
    )
    return state, asked
