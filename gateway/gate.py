"""Gate: whether one deployment, one whole host or one replica takes another request now. Pure: time is handed in.

    closed --failures in a row, or the host's own wish--> open --its time is over--> one trial --answered--> coming back --> closed
                                                            ^---------- failed: twice the time ----------|

`at` is seconds since 1970 by the gateway's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final, Literal, NamedTuple

from gateway.witnesses import EVERYBODY, PARKED, PARKED_ALONE, Asker, Witnesses

Kind = Literal["failed", "late", "busy", "balance", "unpaid", "locked", "missing"]
Mood = Literal["closed", "open", "trial", "returning"]

# Failures in a row that open a gate; a time-out counts as two, for it costs a client its patience.
STREAK: Final = 5
# Seconds of the first rest without a wish of the host's; each failed trial doubles it, up to the longest.
FIRST_REST: Final = 2.0
LONGEST_REST: Final = 60.0
# So many times as long as an answer's head usually takes, and it probably hangs.
SILENT: Final = 5
# Seconds for which a limit is believed that a host stated, and one that was guessed from a refusal.
TOLD: Final = 600.0
GUESSED: Final = 10.0
# Seconds in which one that came back is given ever more: by then it may have 2 ** RETURN at a time, which is no limit.
RETURN: Final = 8
WORDS: Final[dict[Kind, str]] = {
    "failed": "it failed",
    "late": "it did not answer in time",
    "busy": "it limits the rate",
    "balance": "it allows fewer requests at a time, for want of balance; the operator must top it up",
    "unpaid": "the gateway's account there has no balance; the operator must top it up",
    "locked": "it refuses the gateway's own key; the operator must mend it",
    "missing": "it does not know the model; the operator must mend the row",
}


class Trouble(NamedTuple):
    """What a failed dispatch says of its host. `wait`: seconds that the host asks for; `limit`: requests at a time that it allows;
    `free`: whether the failure certainly cost nothing; `sure`: whether it says the same to everybody, whatever is asked; `mended`:
    whether what was wrong has been mended since, where that can be seen from here."""

    kind: Kind
    wait: int | None = None
    limit: int | None = None
    free: bool = False
    sure: bool = True
    mended: Callable[[], bool] | None = None


class Alarm(NamedTuple):
    """Something that the operator must mend, since when. `model` is "" where it is the whole host's."""

    host: str
    model: str
    kind: Kind
    text: str
    since: float


class Gate:
    """Whether one deployment, or one whole host, takes another request now."""

    __slots__ = ("alarm", "alone", "calm", "doubt", "learnt", "learnt_at", "learnt_for", "level", "limit", "mended", "open", "paid", "rest",
                 "returning", "shut", "since", "streak", "tried", "trier", "trier_at", "turn", "why", "witnesses")  # fmt: skip

    def __init__(self) -> None:
        self.limit: int | None = None
        self.open = 0
        self.calm = True
        """Nothing but `limit` to look at."""
        self.turn = 0
        """Counts the times it was shut: what was dispatched before says nothing of the time after."""
        self.alarm: Alarm | None = None
        self.witnesses = Witnesses()
        self._reset()

    def _reset(self) -> None:
        self.calm = True
        self.shut = self.tried = self.paid = False
        self.streak = self.level = 0
        self.since = self.rest = self.alone = 0.0
        self.returning: float | None = None
        self.learnt: int | None = None
        self.learnt_at = self.learnt_for = 0.0
        self.why = self.doubt = ""
        self.witnesses.forget()
        self.mended: Callable[[], bool] | None = None
        self.trier, self.trier_at = "", 0.0
        """The team whose request was refused last in a way that may be its own fault: another one is to try it next."""

    def forgive(self) -> None:
        """As if nothing had happened; what is on its way stays counted."""
        self.turn += 1
        self.alarm = None
        self._reset()

    # ---- may it be asked

    def barred(self, at: float, alone: bool = False, asker: Asker = EVERYBODY) -> str | None:
        """Why no request may be sent now; None: one may. `alone`: the request has nowhere else to go; `asker`: who sends it."""
        if not self.calm:
            reason = self._troubled(at, alone, asker)
            if reason is not None:
                return reason
        return self.full()

    def full(self) -> str | None:
        """Whether as many requests are on their way as it takes."""
        limit = self.allowed
        if limit is not None and self.open >= limit:
            return f"full: {self.open} requests are on their way, of {limit}"
        return None

    def _troubled(self, at: float, alone: bool, asker: Asker) -> str | None:
        self._look(at)
        if self.shut:
            left = self._left(at, alone, asker)
            if left > 0:
                return f"at rest for {ceil(left)} s more: {self.why}"
            if self.tried and not (alone and not self.alone):
                return f"another request is trying it: {self.why}"
        elif self.returning is not None and not alone and self.open >= (most := self._most(at)):
            return f"coming back, with {most} at a time: {self.why}"
        if not self.witnesses.idle and (left := self.witnesses.left(asker, at, alone)) > 0:
            return f"at rest for {ceil(left)} s more, for those whom it refused: {self.doubt}"
        return None

    def _look(self, at: float) -> None:
        """Forget what time has healed. A clock that was set back must not make a rest longer."""
        self.since = min(self.since, at)
        if self.shut and self.mended is not None and self.mended():
            self.forgive()
        if self.learnt is not None:
            self.learnt_at = min(self.learnt_at, at)
            if at - self.learnt_at >= self.learnt_for:
                self.learnt = None
                if self.alarm is not None and self.alarm.kind == "balance":
                    self.alarm = None
        if self.returning is not None:
            self.returning = min(self.returning, at)
            if at - self.returning >= RETURN:
                self.returning = None
                self.level = 0
        self.calm = not self.shut and self.returning is None and self.learnt is None and self.witnesses.idle

    @property
    def allowed(self) -> int | None:
        """Requests at a time: as its row says, or as it said itself of late."""
        if self.learnt is None:
            return self.limit
        return self.learnt if self.limit is None else min(self.limit, self.learnt)

    def wait(self, at: float, alone: bool = False, asker: Asker = EVERYBODY) -> float:
        """Seconds until it is worth asking again; 0: now."""
        if self.barred(at, alone, asker) is None:
            return 0.0
        return max(1.0, self._left(at, alone, asker) if self.shut else self.witnesses.left(asker, at, alone))

    def _left(self, at: float, alone: bool, asker: Asker) -> float:
        left = self.since + (self.alone if alone else self.rest) - at
        if self.trier and self.trier == asker.team:
            self.trier_at = min(self.trier_at, at)
            return max(left + PARKED_ALONE, self.trier_at + 2 * PARKED_ALONE - at)
        return left

    def _most(self, at: float) -> int:
        assert self.returning is not None
        return 2 << int(min(RETURN, at - self.returning))

    @property
    def mood(self) -> Mood:
        if self.shut:
            return "trial" if self.tried else "open"
        return "closed" if self.returning is None else "returning"

    def take(self, asker: Asker, at: float) -> None:
        """One more is on its way; where it is shut, this one tries it."""
        self.tried = self.shut
        self.open += 1
        if not self.witnesses.idle:
            self.witnesses.tried(asker, at)

    # ---- what became of it

    def shut_for(self, seconds: float, at: float, why: str, alone: float | None = None) -> None:
        """No request for so long, then one to try it; `alone`: seconds for those that have nowhere else to go (0: they may)."""
        self.shut, self.tried, self.calm = True, False, False
        self.since, self.rest, self.alone, self.why = at, seconds, seconds if alone is None else alone, why
        self.returning = self.mended = None
        self.trier = ""
        self.streak, self.paid = 0, False
        self.turn += 1

    def park(self, trouble: Trouble, at: float, asker: Asker) -> None:
        """Until somebody has mended it: tried now and then, and not by the same team's requests alone where these may be the fault."""
        self.shut_for(PARKED, at, WORDS[trouble.kind], PARKED_ALONE)
        self.witnesses.forget()
        self.mended = trouble.mended
        self.trier, self.trier_at = "" if trouble.sure else asker.team, at

    def doubted(self, trouble: Trouble, at: float, asker: Asker, prompt: int) -> Asker | None:
        """It refused in a way that may be the request's own fault. Whom that keeps away: EVERYBODY means that it is to be parked."""
        whom = self.witnesses.refused(asker, prompt, at)
        self.calm, self.doubt = False, WORDS[trouble.kind]
        if self.shut:
            self.tried, self.trier, self.trier_at = False, asker.team, at
        return whom

    def failed(self, at: float, why: str, weight: int = 1, wait: int | None = None, free: bool = False, trial: bool = False) -> None:
        """A failure that is its own. That of a trial shuts it again for twice as long, also where it had begun to answer; else enough
        of them in a row do.

        While they cost nothing, a request that has nowhere else to go is better tried than refused.
        """
        self.streak += weight
        self.paid = self.paid or not free
        if wait:
            self.shut_for(wait, at, why)
        elif self.shut or self.streak >= STREAK or (trial and self.returning is not None and at - self.returning < RETURN):
            rest = min(LONGEST_REST, FIRST_REST * 2**self.level)
            self.level += rest < LONGEST_REST
            self.shut_for(rest, at, why, rest if self.paid else 0.0)

    def answered(self, at: float, begun: float | None = None) -> None:
        """An answer, to a request that was sent at `begun`: a trial that got one opens it again, wider with every second."""
        self.streak, self.paid = 0, False
        if not (self.calm or self.witnesses.idle):
            if self.witnesses.answered(at if begun is None else begun) and not self.shut:
                self._well()
        if self.shut:
            self.shut = self.tried = False
            self.mended = None
            self.trier = ""
            self.returning = at
            self._well()

    def _well(self) -> None:
        if self.alarm is not None and self.alarm.kind != "balance":
            self.alarm = None

    def allow(self, limit: int, seconds: float, at: float) -> None:
        """Take so many at a time, for a while."""
        self.learnt, self.learnt_at, self.learnt_for = max(1, limit), at, seconds
        self.calm = False
