"""Health: how each deployment has answered real requests lately, and when it may be asked again. Pure: time is handed in.

Nothing is probed at a price: what failed is tried again by one real request at a time, and what has come back gets twice as many
at a time with every second. All of it is one process's own view: a second gateway learns for itself.

    closed --failures in a row, or the host's own wish--> open --its time is over--> one trial --answered--> coming back --> closed
                                                            ^---------- failed: twice the time ----------|

`at` is seconds since 1970 by the gateway's clock. Names are HOST/MODEL.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Final, Literal, NamedTuple

from gateway.hosts import Deployment

Kind = Literal["failed", "late", "busy", "balance", "unpaid", "locked", "missing"]
Mood = Literal["closed", "open", "trial", "returning"]

# Failures in a row that open a gate; a time-out counts as two, for it costs a client its patience.
STREAK: Final = 5
# Seconds of the first rest without a wish of the host's; each failed trial doubles it, up to the longest.
FIRST_REST: Final = 2.0
LONGEST_REST: Final = 60.0
# So many times as long as an answer's head usually takes, and it probably hangs.
SILENT: Final = 5
# Seconds until a host without balance, with a refused key or without the model is tried again; where nothing else is left: sooner.
PARKED: Final = 600.0
PARKED_ALONE: Final = 30.0
# Seconds for which a limit is believed that a host stated, and one that was guessed from a refusal.
TOLD: Final = 600.0
GUESSED: Final = 10.0
# Seconds in which one that came back is given ever more: by then it may have 2 ** RETURN at a time, which is no limit.
RETURN: Final = 8
# What is believed of a deployment that has not answered yet: one failure in a hundred, with the weight of ten answers.
PRIOR_FAILED: Final = 0.1
PRIOR: Final = 10.0
# Answers that count in full, and seconds after which they count half.
WINDOW: Final = 64
KEPT: Final = 1 - 1 / WINDOW
HALF_LIFE: Final = 120.0
_WEIGHT: Final = 8


class Trouble(NamedTuple):
    """What a failed dispatch says of its host. `wait`: seconds that the host asks for; `limit`: requests at a time that it allows;
    `free`: whether the failure certainly cost nothing."""

    kind: Kind
    wait: int | None = None
    limit: int | None = None
    free: bool = False


class Alarm(NamedTuple):
    """Something that the operator must mend, since when. `model` is "" where it is the whole host's."""

    host: str
    model: str
    kind: Kind
    text: str
    since: float


class State(NamedTuple):
    """One deployment as it is now. `wait`: seconds until it may be asked again; `why` is "" while it may be asked."""

    host: str
    model: str
    mood: Mood
    why: str
    wait: float
    open: int
    limit: int | None
    failing: float
    first_token: float | None
    pace: float | None

    @property
    def up(self) -> bool:
        """Whether requests are sent there as a rule: it is neither at rest nor on trial."""
        return self.mood in ("closed", "returning")


class Gate:
    """Whether one deployment, or one whole host, takes another request now."""

    __slots__ = ("alarm", "alone", "calm", "learnt", "learnt_at", "learnt_for", "level", "limit", "open", "paid", "rest", "returning",
                 "shut", "since", "streak", "tried", "turn", "why")  # fmt: skip

    def __init__(self) -> None:
        self.limit: int | None = None
        self.open = 0
        self.calm = True
        """Nothing but `limit` to look at."""
        self.turn = 0
        """Counts the times it was shut: what was dispatched before says nothing of the time after."""
        self.alarm: Alarm | None = None
        self._reset()

    def _reset(self) -> None:
        self.calm = True
        self.shut = self.tried = self.paid = False
        self.streak = self.level = 0
        self.since = self.rest = self.alone = 0.0
        self.returning: float | None = None
        self.learnt: int | None = None
        self.learnt_at = self.learnt_for = 0.0
        self.why = ""

    def forgive(self) -> None:
        """As if nothing had happened; what is on its way stays counted."""
        self.turn += 1
        self.alarm = None
        self._reset()

    # ---- may it be asked

    def barred(self, at: float, alone: bool = False) -> str | None:
        """Why no request may be sent now; None: one may. `alone`: the request has nowhere else to go."""
        if not self.calm:
            reason = self._troubled(at, alone)
            if reason is not None:
                return reason
        return self.full()

    def full(self) -> str | None:
        """Whether as many requests are on their way as it takes."""
        limit = self.allowed
        if limit is not None and self.open >= limit:
            return f"full: {self.open} requests are on their way, of {limit}"
        return None

    def _troubled(self, at: float, alone: bool) -> str | None:
        self._look(at)
        if self.shut:
            left = self._left(at, alone)
            if left > 0:
                return f"at rest for {ceil(left)} s more: {self.why}"
            if self.tried and not (alone and not self.alone):
                return f"another request is trying it: {self.why}"
        elif self.returning is not None and not alone and self.open >= (most := self._most(at)):
            return f"coming back, with {most} at a time: {self.why}"
        return None

    def _look(self, at: float) -> None:
        """Forget what time has healed. A clock that was set back must not make a rest longer."""
        self.since = min(self.since, at)
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
        self.calm = not self.shut and self.returning is None and self.learnt is None

    @property
    def allowed(self) -> int | None:
        """Requests at a time: as its row says, or as it said itself of late."""
        if self.learnt is None:
            return self.limit
        return self.learnt if self.limit is None else min(self.limit, self.learnt)

    def wait(self, at: float, alone: bool = False) -> float:
        """Seconds until it is worth asking again; 0: now."""
        if self.barred(at, alone) is None:
            return 0.0
        return max(1.0, self._left(at, alone)) if self.shut else 1.0

    def _left(self, at: float, alone: bool) -> float:
        return self.since + (self.alone if alone else self.rest) - at

    def _most(self, at: float) -> int:
        assert self.returning is not None
        return 2 << int(min(RETURN, at - self.returning))

    @property
    def mood(self) -> Mood:
        if self.shut:
            return "trial" if self.tried else "open"
        return "closed" if self.returning is None else "returning"

    # ---- what became of it

    def shut_for(self, seconds: float, at: float, why: str, alone: float | None = None) -> None:
        """No request for so long, then one to try it; `alone`: seconds for those that have nowhere else to go (0: they may)."""
        self.shut, self.tried, self.calm = True, False, False
        self.since, self.rest, self.alone, self.why = at, seconds, seconds if alone is None else alone, why
        self.returning = None
        self.streak, self.paid = 0, False
        self.turn += 1

    def failed(self, at: float, why: str, weight: int = 1, wait: int | None = None, free: bool = False) -> None:
        """A failure that is its own. That of a trial shuts it again for twice as long; else enough of them in a row do.

        While they cost nothing, a request that has nowhere else to go is better tried than refused.
        """
        self.streak += weight
        self.paid = self.paid or not free
        if wait:
            self.shut_for(wait, at, why)
        elif self.shut or self.streak >= STREAK:
            rest = min(LONGEST_REST, FIRST_REST * 2**self.level)
            self.level += rest < LONGEST_REST
            self.shut_for(rest, at, why, rest if self.paid else 0.0)

    def answered(self, at: float) -> None:
        """An answer: a trial that got one opens it again, wider with every second."""
        self.streak, self.paid = 0, False
        if self.shut:
            self.shut = self.tried = False
            self.returning = at
            if self.alarm is not None and self.alarm.kind != "balance":
                self.alarm = None

    def allow(self, limit: int, seconds: float, at: float) -> None:
        """Take so many at a time, for a while."""
        self.learnt, self.learnt_at, self.learnt_for = max(1, limit), at, seconds
        self.calm = False


class _Place:
    """One deployment: its own gate, its host's, and how it answers."""

    __slots__ = ("failed", "first_token", "gate", "host", "model", "opening", "pace", "prefill", "row", "seen", "total", "whole")

    def __init__(self, host: str, model: str, whole: Gate) -> None:
        self.host, self.model = host, model
        self.gate, self.whole = Gate(), whole
        self.row: Deployment | None = None
        self.failed = self.total = self.seen = 0.0
        self.opening: float | None = None
        self.first_token: float | None = None
        self.pace: float | None = None
        self.prefill = 0

    def count(self, at: float, bad: bool) -> None:
        """One more answer; earlier ones count less with every answer and with time."""
        kept = KEPT
        if not 0 <= at - self.seen < 1:
            # Within a second, the next answers alone count for more than time does.
            kept *= 0.5 ** (max(0.0, at - self.seen) / HALF_LIFE)
        self.failed = self.failed * kept + bad
        self.total = self.total * kept + 1
        self.seen = at

    def failing(self, at: float) -> float:
        kept: float = 0.5 ** (max(0.0, at - self.seen) / HALF_LIFE)
        return (self.failed * kept + PRIOR_FAILED) / (self.total * kept + PRIOR)


class Ticket(NamedTuple):
    """One request that was sent to a deployment, as `begun` gives it and `ended` takes it back, once.

    As long as its turn is the gate's own, it was sent after the gate was shut last: then it is the trial.
    """

    place: _Place
    turn: int
    host_turn: int
    prompt_tokens: int


class Health:
    """Every deployment that was asked since the start of the process; bounded by the number of deployments."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._hosts: dict[str, Gate] = {}
        self._now = 0.0
        self._alone = False

    @property
    def alone(self) -> Health:
        """The same, as a request sees it that has nowhere else to go: what only failed at no cost may be asked, what is parked
        is tried sooner."""
        found = Health()
        found._places, found._hosts, found._now, found._alone = self._places, self._hosts, self._now, True
        return found

    # ---- before a request

    def barred(self, deployment: Deployment, at: float) -> str | None:
        """Why it may not be asked now, in words for the operator and the plan; None: it may."""
        self._now = at
        place = self._places.get(deployment.name)
        if place is None or place.row is not deployment:
            place = self._place(deployment)
        gate, whole = place.gate, place.whole
        limit, most = gate.limit, whole.limit
        if gate.calm and whole.calm and (limit is None or gate.open < limit) and (most is None or whole.open < most):
            return None
        if not deployment.host.rest:
            return whole.full() or gate.full()
        return whole.barred(at, self._alone) or gate.barred(at, self._alone)

    def wait(self, deployment: Deployment, at: float) -> float:
        """Seconds until it is worth asking it again; 0: now."""
        place = self._place(deployment)
        return max(place.whole.wait(at, self._alone), place.gate.wait(at, self._alone))

    def begun(self, deployment: Deployment, at: float, prompt_tokens: int = 0) -> Ticket | None:
        """Count a request as on its way there; None: by now it is barred. Whoever gets a ticket gives it back to `ended`."""
        if self.barred(deployment, at) is not None:
            return None
        place = self._places[deployment.name]
        gate, whole = place.gate, place.whole
        gate.tried, whole.tried = gate.shut, whole.shut
        gate.open += 1
        whole.open += 1
        place.prefill += prompt_tokens
        return Ticket(place, gate.turn, whole.turn, prompt_tokens)

    # ---- after it

    def silent(self, ticket: Ticket, at: float, seconds: float) -> None:
        """Nothing has come for so long. Where answers begin at once as a rule, it probably hangs: that counts like a failure, now, and
        not only when the request's time is up."""
        place = ticket.place
        if place.gate.turn == ticket.turn and place.opening is not None and SILENT * place.opening < seconds:
            place.gate.failed(at, "it says nothing")

    def ended(
        self,
        ticket: Ticket,
        at: float,
        trouble: Trouble | None = None,
        *,
        answered: bool = True,
        opening: float | None = None,
        first_token: float | None = None,
        pace: float | None = None,
    ) -> Alarm | None:
        """It is over. `trouble`: what went wrong at the host; `answered`: whether it proved able to answer, where nothing went wrong
        (a client that left, or a request that was wrong itself, proves nothing). `opening`, `first_token`: seconds; `pace`: tokens a
        second.

        The alarm that it raises, once, until it is mended.
        """
        place = ticket.place
        gate, whole = place.gate, place.whole
        gate.open -= 1
        whole.open -= 1
        place.prefill -= ticket.prompt_tokens
        self._now = at
        # What was sent before it was shut says nothing of the time after.
        mine, hosts = gate.turn == ticket.turn, whole.turn == ticket.host_turn
        if trouble is not None:
            place.count(at, True)
            return _failed(place, trouble, at, mine, hosts)
        if answered:
            place.count(at, False)
            if opening is not None:
                place.opening = _blend(place.opening, opening)
            if first_token is not None:
                place.first_token = _blend(place.first_token, first_token)
            if pace is not None:
                place.pace = _blend(place.pace, pace)
            if mine:
                if gate.shut:
                    # What it did before counts half: it is another host now.
                    place.failed /= 2
                gate.answered(at)
            if hosts:
                whole.answered(at)
        else:
            # Another may try.
            gate.tried, whole.tried = gate.tried and not mine, whole.tried and not hosts
        return None

    def forgive(self) -> None:
        """Every deployment may be asked again: an operator has reloaded. What is on its way stays counted."""
        for gate in [*self._hosts.values(), *(place.gate for place in list(self._places.values()))]:
            gate.forgive()

    # ---- what is known

    def failing(self, name: str) -> float:
        """The part of its answers that fail, from 0 to 1; half forgotten after two minutes."""
        place = self._places.get(name)
        return PRIOR_FAILED / PRIOR if place is None else place.failing(self._now)

    def first_token(self, name: str) -> float | None:
        """Seconds from dispatch to the first content; None: not known yet."""
        place = self._places.get(name)
        return None if place is None else place.first_token

    def pace(self, name: str) -> float | None:
        """Output tokens a second once it writes; None: not known yet."""
        place = self._places.get(name)
        return None if place is None else place.pace

    def open_requests(self, name: str) -> int:
        """Requests of this process that are on their way there."""
        place = self._places.get(name)
        return 0 if place is None else place.gate.open

    def open_prompts(self, name: str) -> int:
        """Prompt tokens of those, as far as `begun` was told."""
        place = self._places.get(name)
        return 0 if place is None else place.prefill

    def alarms(self, at: float) -> list[Alarm]:
        """What an operator must mend, the oldest first."""
        gates = [*self._hosts.values(), *(place.gate for place in self._places.values())]
        for gate in gates:
            gate._look(at)
        return sorted((gate.alarm for gate in gates if gate.alarm is not None), key=lambda alarm: alarm.since)

    def states(self, at: float) -> Iterator[State]:
        """Every deployment that was planned for since the start of the process."""
        for place in list(self._places.values()):
            gate, whole = place.gate, place.whole
            why = whole.barred(at) or gate.barred(at) or ""
            wait = max(whole.wait(at), gate.wait(at))
            mood = whole.mood if whole.shut else gate.mood
            yield State(place.host, place.model, mood, why, wait, gate.open, gate.allowed, place.failing(at), place.first_token, place.pace)

    def _place(self, deployment: Deployment) -> _Place:
        place = self._places.get(deployment.name)
        if place is None:
            host = deployment.host.host
            whole = self._hosts.setdefault(host, Gate())
            place = self._places[deployment.name] = _Place(host, deployment.model.model, whole)
        if place.row is not deployment:
            # Another snapshot of the policies may have other limits.
            place.row = deployment
            place.gate.limit, place.whole.limit = deployment.model.concurrent, deployment.host.limits.concurrent
        return place


WORDS: Final[dict[Kind, str]] = {
    "failed": "it failed",
    "late": "it did not answer in time",
    "busy": "it limits the rate",
    "balance": "it allows fewer requests at a time, for want of balance; the operator must top it up",
    "unpaid": "the gateway's account there has no balance; the operator must top it up",
    "locked": "it refuses the gateway's own key; the operator must mend it",
    "missing": "it does not know the model; the operator must mend the row",
}


def _failed(place: _Place, trouble: Trouble, at: float, mine: bool, hosts: bool) -> Alarm | None:
    """`mine`, `hosts`: whether this says something of the deployment, of the host, as it is now."""
    gate, whole, kind = place.gate, place.whole, trouble.kind
    if kind in ("unpaid", "locked"):
        # Whatever else it was tried for, it was not found out.
        gate.tried = gate.tried and not mine
        return _parked(whole, Alarm(place.host, "", kind, f"{place.host}: {WORDS[kind]}", at)) if hosts else None
    if hosts and whole.shut:
        # Not what it was parked for, and no answer either.
        whole.shut_for(LONGEST_REST, at, whole.why, PARKED_ALONE)
    if not mine:
        return None
    if kind == "missing":
        return _parked(gate, Alarm(place.host, place.model, kind, f"{place.host}/{place.model}: {WORDS[kind]}", at))
    if trouble.limit is not None:
        # It answers, if only to say how many it takes.
        gate.answered(at)
        gate.allow(trouble.limit, TOLD, at)
        if trouble.wait:
            gate.shut_for(trouble.wait, at, WORDS[kind])
        text = f"{place.host}/{place.model}: {WORDS[kind]} ({trouble.limit} at a time)"
        return _raised(gate, Alarm(place.host, place.model, kind, text, at))
    if kind == "busy" and not gate.shut:
        # So many were too many, this one among them.
        gate.allow(gate.open, GUESSED, at)
    gate.failed(at, WORDS[kind], 2 if kind == "late" else 1, trouble.wait, trouble.free)
    return None


def _parked(gate: Gate, alarm: Alarm) -> Alarm | None:
    gate.shut_for(PARKED, alarm.since, WORDS[alarm.kind], PARKED_ALONE)
    return _raised(gate, alarm)


def _raised(gate: Gate, alarm: Alarm) -> Alarm | None:
    """The alarm where it is a new one."""
    before, gate.alarm = gate.alarm, alarm
    if before is not None and before.kind == alarm.kind:
        gate.alarm = alarm._replace(since=before.since)
        return None
    return alarm


def _blend(before: float | None, new: float) -> float:
    return new if before is None else before + (new - before) / _WEIGHT
