"""Health: how each deployment has answered real requests lately, and when it may be asked again. Pure: time is handed in.

Nothing is probed at a price: what failed is tried again by one real request at a time, and what has come back gets twice as many
at a time with every second. All of it is one process's own view: a second gateway learns for itself.

`at` is seconds since 1970 by the gateway's clock. Names are HOST/MODEL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.gate import GUESSED, LONGEST_REST, SILENT, TOLD, WORDS, Alarm, Gate, Mood, Trouble
from gateway.hosts import Deployment
from gateway.witnesses import EVERYBODY, PARKED_ALONE, Asker

# What is believed of a deployment that has not answered yet: one failure in a hundred, with the weight of ten answers.
PRIOR_FAILED: Final = 0.1
PRIOR: Final = 10.0
# Answers that count in full, and seconds after which they count half.
WINDOW: Final = 64
KEPT: Final = 1 - 1 / WINDOW
HALF_LIFE: Final = 120.0
_WEIGHT: Final = 8


class State(NamedTuple):
    """One deployment as it is now. `wait`: seconds until it may be asked again; `why` is "" while it may be asked.

    `failed`: whether an answer failed since the start; until then, `failing` is what is believed of any deployment.
    """

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
    failed: bool

    @property
    def up(self) -> bool:
        """Whether requests are sent there as a rule: it is neither at rest nor on trial."""
        return self.mood in ("closed", "returning")


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


class Ticket(Struct, frozen=True):
    """One request that was sent to a deployment, as `begun` gives it and `ended` takes it back, once.

    As long as its turn is the gate's own, it was sent after the gate was shut last. `trial`: its deployment or host was shut then.
    """

    place: _Place
    turn: int
    host_turn: int
    prompt_tokens: int
    at: float
    asker: Asker
    trial: bool


class _Known:
    """What all views of one health share."""

    __slots__ = ("hosts", "now", "places")

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        self.hosts: dict[str, Gate] = {}
        self.now = 0.0


class Health:
    """Every deployment that was asked since the start of the process; bounded by the number of deployments."""

    def __init__(self, known: _Known | None = None, alone: bool = False, asker: Asker = EVERYBODY) -> None:
        self._known = known = known or _Known()
        self._places = known.places
        self._hosts = known.hosts
        self._alone = alone
        self._asker = asker

    @property
    def alone(self) -> Health:
        """The same, as a request sees it that has nowhere else to go: what only failed at no cost may be asked, what is parked
        is tried sooner."""
        return Health(self._known, True, self._asker)

    def seen_by(self, team: str, key: str) -> Health:
        """The same, as this key's requests see it: what a host refuses to one caller alone says nothing to others."""
        return Health(self._known, self._alone, Asker(team, key))

    # ---- before a request

    def barred(self, deployment: Deployment, at: float) -> str | None:
        """Why it may not be asked now, in words for the operator and the plan; None: it may."""
        self._known.now = at
        place = self._places.get(deployment.name)
        if place is None or place.row is not deployment:
            place = self._place(deployment)
        gate, whole = place.gate, place.whole
        limit, most = gate.limit, whole.limit
        if gate.calm and whole.calm and (limit is None or gate.open < limit) and (most is None or whole.open < most):
            return None
        if not deployment.host.rest:
            return whole.full() or gate.full()
        return whole.barred(at, self._alone, self._asker) or gate.barred(at, self._alone, self._asker)

    def wait(self, deployment: Deployment, at: float) -> float:
        """Seconds until it is worth asking it again; 0: now."""
        place = self._place(deployment)
        return max(place.whole.wait(at, self._alone, self._asker), place.gate.wait(at, self._alone, self._asker))

    def begun(self, deployment: Deployment, at: float, prompt_tokens: int = 0) -> Ticket | None:
        """Count a request as on its way there; None: by now it is barred. Whoever gets a ticket gives it back to `ended`."""
        if self.barred(deployment, at) is not None:
            return None
        place = self._places[deployment.name]
        gate, whole = place.gate, place.whole
        gate.take(self._asker, at)
        whole.take(self._asker, at)
        place.prefill += prompt_tokens
        return Ticket(place, gate.turn, whole.turn, prompt_tokens, at, self._asker, gate.shut or whole.shut)

    # ---- after it

    def silent(self, ticket: Ticket, at: float, seconds: float) -> None:
        """Nothing has come for so long. Where answers begin at once as a rule, it probably hangs: that counts like a failure, now, and
        not only when the request's time is up."""
        place = ticket.place
        if place.gate.turn == ticket.turn and place.opening is not None and SILENT * place.opening < seconds:
            place.gate.failed(at, "it says nothing")

    def proved(self, ticket: Ticket, at: float) -> None:
        """It has begun to answer: where it is the trial, others may come from now on, however long this answer takes."""
        if ticket.trial:
            _answered(ticket, at)

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
        self._known.now = at
        # What was sent before it was shut says nothing of the time after.
        mine, hosts = gate.turn == ticket.turn, whole.turn == ticket.host_turn
        if trouble is not None:
            if trouble.sure:
                place.count(at, True)
            return _failed(ticket, trouble, at, mine, hosts)
        if answered:
            place.count(at, False)
            if opening is not None:
                place.opening = _blend(place.opening, opening)
            if first_token is not None:
                place.first_token = _blend(place.first_token, first_token)
            if pace is not None:
                place.pace = _blend(place.pace, pace)
            _answered(ticket, at)
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
        return PRIOR_FAILED / PRIOR if place is None else place.failing(self._known.now)

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
            open, failing, failed = gate.open, place.failing(at), place.failed > 0
            yield State(place.host, place.model, mood, why, wait, open, gate.allowed, failing, place.first_token, place.pace, failed)

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


def _answered(ticket: Ticket, at: float) -> None:
    """It is well; what was sent before it was shut says nothing of the time after."""
    place = ticket.place
    if place.gate.turn == ticket.turn:
        if place.gate.shut:
            # What it did before counts half: it is another host now.
            place.failed /= 2
        place.gate.answered(at, ticket.at)
    if place.whole.turn == ticket.host_turn:
        place.whole.answered(at, ticket.at)


def _failed(ticket: Ticket, trouble: Trouble, at: float, mine: bool, hosts: bool) -> Alarm | None:
    """`mine`, `hosts`: whether this says something of the deployment, of the host, as it is now."""
    place, kind = ticket.place, trouble.kind
    gate, whole = place.gate, place.whole
    if kind in ("unpaid", "locked"):
        # Whatever else it was tried for, it was not found out.
        gate.tried = gate.tried and not mine
        return _refused(whole, ticket, trouble, Alarm(place.host, "", kind, f"{place.host}: {WORDS[kind]}", at)) if hosts else None
    if hosts and whole.shut:
        # Not what it was parked for, and no answer either.
        whole.shut_for(LONGEST_REST, at, whole.why, PARKED_ALONE)
    if not mine:
        return None
    if kind == "missing":
        text = f"{place.host}/{place.model}: {WORDS[kind]}"
        return _refused(gate, ticket, trouble, Alarm(place.host, place.model, kind, text, at))
    if trouble.limit is not None:
        # It answers, if only to say how many it takes.
        gate.answered(at)
        gate.allow(trouble.limit, TOLD, at)
        if trouble.wait:
            gate.shut_for(trouble.wait, at, WORDS[kind])
        text = f"{place.host}/{place.model}: {WORDS[kind]} ({trouble.limit} at a time)"
        return _raised(gate, Alarm(place.host, place.model, kind, text, at))
    if kind == "busy" and not gate.shut and (place.row is None or place.row.host.rest):
        # So many were too many, this one among them; a guess, which does not keep anybody from what never rests.
        gate.allow(gate.open, GUESSED, at)
    gate.failed(at, WORDS[kind], 2 if kind == "late" else 1, trouble.wait, trouble.free, ticket.trial)
    return None


def _refused(gate: Gate, ticket: Ticket, trouble: Trouble, alarm: Alarm) -> Alarm | None:
    """Refused for what an operator must mend, or for what was asked: then one caller's word is not enough to keep others away."""
    at, asker = alarm.since, ticket.asker
    if trouble.mended is not None and trouble.mended():
        gate.tried = False
        return None
    again = gate.shut and gate.alarm is not None and gate.alarm.kind == trouble.kind
    if trouble.sure or again or (whom := gate.doubted(trouble, at, asker, ticket.prompt_tokens)) == EVERYBODY:
        gate.park(trouble, at, asker)
        return _raised(gate, alarm)
    if whom is None:
        return None
    return _raised(gate, alarm._replace(text=f"{alarm.text} (so far it has refused team {asker.team} alone)"))


def _raised(gate: Gate, alarm: Alarm) -> Alarm | None:
    """The alarm where it is a new one."""
    before, gate.alarm = gate.alarm, alarm
    if before is not None and before.kind == alarm.kind:
        gate.alarm = alarm._replace(since=before.since)
        return None
    return alarm


def _blend(before: float | None, new: float) -> float:
    return new if before is None else before + (new - before) / _WEIGHT
