"""Replicas: which of several copies of an own engine takes a request. Pure: time is handed in.

The one with the lowest product of prompt tokens that it must still read and requests that it would then have: a conversation
stays where its prefix is cached until that one is so busy that reading the prompt anew is faster. No knob to tune.

A copy that refuses connections is left out at once, one that fails several times in a row soon; one request at a time tries it
again. Requests on their way are those of this process: another gateway's are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from gateway.contracts import Cache
from gateway.gate import STREAK, WORDS, Gate, Mood, Trouble
from gateway.health import State
from gateway.hosts import Deployment
from gateway.prefix import Match, Place, Prints

# Seconds for which one that says it is busy is left out, where it does not say for how long.
BUSY: Final = 1
# Engines cache prefixes by small blocks, whatever a vendor does with the same model.
_BLOCKS: Final = Cache()


class Known(Protocol):
    """Who knows what was sent where."""

    def match(self, place: Place, prints: Prints, at: float) -> Match: ...


class Seat(NamedTuple):
    """One request at one replica, as `take` gives it and `done` takes it back, once. `number` is the place of its URL in the list.

    `place` is where its prompt will be known from now on; None where there is one replica only.
    """

    host: str
    number: int
    place: Place | None
    gate: Gate
    turn: int
    trial: bool = False


class ReplicaState(NamedTuple):
    """One replica as it is now; `why` is "" while it may be asked."""

    host: str
    number: int
    up: bool
    open: int
    why: str
    mood: Mood = "closed"


def with_replicas(states: Iterable[State], copies: Iterable[ReplicaState]) -> Iterator[State]:
    """Deployments as a request finds them: one whose replicas are all at rest is at rest, however it answered before."""
    out: dict[str, str] = {}
    well: set[str] = set()
    for copy in copies:
        if copy.up:
            well.add(copy.host)
        else:
            out[copy.host] = f"all of its replicas are: {copy.why}" if copy.why else "all of its replicas are on trial"
    for state in states:
        rests = state.host in out and state.host not in well and state.up
        yield state._replace(mood="open", why=out[state.host]) if rests else state


class _Engine:
    """The replicas of one host, and when each was last chosen."""

    __slots__ = ("chosen", "gates", "name", "turn")

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.gates = [Gate() for _ in range(count)]
        self.chosen = [0] * count
        self.turn = 0

    def best(self, free: list[int], scores: list[int]) -> int:
        """The lowest score; of equal ones the one that was not chosen for longest."""
        number = min(zip(scores, (self.chosen[at] for at in free), free, strict=True))[2]
        self.turn += 1
        self.chosen[number] = self.turn
        return number


class Replicas:
    """The own engines of one process; one that was never asked is taken to be well."""

    def __init__(self, known: Known | None = None) -> None:
        self._known = known
        self._engines: dict[str, _Engine] = {}
        self._alone = False

    @property
    def alone(self) -> Replicas:
        """The same, as a request sees them that has nowhere else to go: it waits however long the queue is, and tries what is out."""
        found = Replicas(self._known)
        found._engines, found._alone = self._engines, True
        return found

    def barred(self, host: str, queue: int | None, at: float) -> str | None:
        """Why no replica of this host takes another request now: all are out, or have more on their way than one and `queue` waiting."""
        engine = self._engines.get(host)
        if engine is None:
            return None
        least, why = None, ""
        for gate in engine.gates:
            reason = gate.barred(at, self._alone)
            if reason is not None:
                why = reason
            elif queue is None or self._alone or gate.open <= queue:
                return None
            elif least is None or gate.open < least:
                least = gate.open
        if least is None:
            return f"no replica of {len(engine.gates)} can be asked: {why}" if len(engine.gates) > 1 else why
        return f"full: every replica has {least} requests or more, and {queue} may wait"

    def take(
        self, deployment: Deployment, count: int, at: float, queue: int | None = None, prints: Prints | None = None, tokens: int = 1
    ) -> Seat | None:
        """A seat for a prompt of so many tokens at one of `count` replicas; None: by now all of them are out.

        Whoever gets a seat gives it back to `done`. Without `prints`, and among equals, they take turns.
        """
        host = deployment.host.host
        engine = self._engines.get(host)
        if engine is None or len(engine.gates) != count:
            engine = self._engines[host] = _Engine(host, count)
        gates = engine.gates
        if count == 1:
            gates[0].open += 1
            return Seat(host, 0, None, gates[0], gates[0].turn)
        free = [number for number, gate in enumerate(gates) if gate.barred(at, self._alone) is None]
        if not free:
            return None
        if not self._alone:
            # One whose rest is over is tried by the next request, whatever that one would rather have; else the one that has it cached.
            free = [number for number in free if gates[number].shut] or [n for n in free if queue is None or gates[n].open <= queue] or free
        places = [Place(f"{deployment.name} #{number}", _BLOCKS) for number in range(count)]
        number = engine.best(free, [self._unread(places[one], prints, tokens, at) * (gates[one].open + 1) for one in free])
        gate = gates[number]
        # One that is shut and may be asked all the same: this request tries it.
        gate.tried = gate.shut
        gate.open += 1
        return Seat(host, number, places[number], gate, gate.turn, gate.shut)

    def _unread(self, place: Place, prints: Prints | None, tokens: int, at: float) -> int:
        """Prompt tokens that this replica has not cached: at least the last one, which engines always read."""
        if self._known is None or prints is None or not prints.size:
            return max(1, tokens)
        unknown = prints.size - self._known.match(place, prints, at).size
        return max(1, tokens * unknown // prints.size)

    def proved(self, seat: Seat, at: float) -> None:
        """It has begun to answer: where it is the trial, others may come from now on, however long this answer takes."""
        if seat.trial and seat.gate.turn == seat.turn:
            seat.gate.answered(at)

    def done(self, seat: Seat, at: float, trouble: Trouble | None = None, *, answered: bool = True, reached: bool = True) -> None:
        """It is over. `trouble`: what went wrong there; `reached`: whether it took the request; `answered`: whether it proved able to.

        Of an engine that runs once only the load is counted: whether it is well is the deployment's own health.
        """
        gate = seat.gate
        gate.open -= 1
        if seat.place is None or gate.turn != seat.turn:
            return
        if trouble is None:
            if answered:
                gate.answered(at)
            else:
                # It was the trial, where there is one: the next request is.
                gate.tried = False
        elif trouble.kind == "busy":
            gate.failed(at, WORDS["busy"], wait=trouble.wait or BUSY)
        elif not reached:
            gate.failed(at, "it takes no connections", STREAK, free=True)
        else:
            # Nobody sends a bill for what an own engine did.
            gate.failed(at, WORDS[trouble.kind], 2 if trouble.kind == "late" else 1, trouble.wait, free=True, trial=seat.trial)

    def spare(self, seat: Seat, at: float) -> bool:
        """Whether another replica of the same engine may be asked now: then the deployment has not failed, and can be tried again."""
        engine = self._engines.get(seat.host)
        return engine is not None and any(gate is not seat.gate and gate.barred(at) is None for gate in engine.gates)

    def forgive(self) -> None:
        """Every replica may be asked again: an operator has reloaded."""
        for engine in self._engines.values():
            for gate in engine.gates:
                gate.forgive()

    def states(self, at: float) -> Iterator[ReplicaState]:
        """Every replica of the engines that were asked since the start of the process."""
        for engine in list(self._engines.values()):
            for number, gate in enumerate(engine.gates):
                why = gate.barred(at) or ""
                yield ReplicaState(engine.name, number, not gate.shut, gate.open, why, gate.mood)
