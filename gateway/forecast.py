"""Forecast: how conversations go on: how many turns, after what pauses, how much of a prompt the next one repeats.

Learnt online, by key and by the length of a conversation's first prompt. Whether a conversation goes on is an open question until
it does or until hours have passed; what is young counts for neither (Kaplan and Meier's estimate, pause by pause). Deterministic,
no clock, bounded memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import add, mul
from typing import Final, NamedTuple

from msgspec import Struct

# Pauses between turns in seconds, by their upper ends; who has not come back after the last one does not come back.
EDGES: Final = (4.0, 12.0, 30.0, 75.0, 180.0, 420.0, 1000.0, 2400.0, 6000.0, 14400.0)
MIDDLES: Final = (2.0, 7.0, 19.0, 47.0, 116.0, 275.0, 648.0, 1549.0, 3795.0, 9295.0)
# Turns are counted one by one up to here; the classes in which their chances are learnt begin at these.
TURNS: Final = 64
STARTS: Final = (1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30, 45)
_CLASS: Final = tuple(sum(start <= turn for start in STARTS) - 1 for turn in range(TURNS + 1))
# The chance to go on that is assumed of conversations of which nothing is known: by pause, 0.75 in all. Most of it lies in the
# first minutes, so that traffic without second turns is found out within those.
UNKNOWN: Final = (0.18, 0.2, 0.2, 0.15, 0.12, 0.1, 0.06, 0.03, 0.02, 0.01)
# Observations that each more general record is worth to the one below it.
DOUBT: Final = 6.0
# Turns that the assumption as a whole is worth: so that a few quick answers, or a few slow ones, do not upset it.
CAUTION: Final = 24.0
# Turns observed in one record beyond which it forgets half.
REMEMBERED: Final = 600.0
# The most that is believed: hardly any conversation goes on for more than 100 turns from where it is.
SURELY: Final = 0.99
# Seconds for which hosts and prices are taken to stay as they are.
SOON: Final = 3600.0
CONVERSATIONS, CONTEXTS = 20_000, 512
# Tokens of a first prompt, by class.
LENGTHS: Final = (1_000, 4_000, 16_000, 48_000)


class Outlook(NamedTuple):
    """What is expected of the further turns of one conversation, summed over them: tokens that repeat an earlier prompt, and new ones.

    `turns` is their expected number, `pause` the mean seconds between two, `pauses` the chances of the pauses in MIDDLES, given that
    there is another turn. `others`: how many more conversations will soon begin with the same `shared` tokens.
    """

    turns: float
    repeated: int
    new: int
    pause: float
    pauses: tuple[float, ...] = ()
    context: tuple[str, int] = ("", 0)
    version: int = 0
    others: float = 0.0
    shared: int = 0


NOTHING_MORE: Final = Outlook(0.0, 0, 0, 0.0)


class _Record:
    """Turns of one class: how many went on after each pause, how many waited longer than it."""

    __slots__ = ("back", "waited")

    def __init__(self) -> None:
        self.back = [0.0] * len(EDGES)
        self.waited = [0.0] * len(EDGES)

    def chances(self, above: tuple[float, ...]) -> tuple[float, ...]:
        """The chance of each pause among those who have waited so long, as far as this record knows better than the one above."""
        return tuple(
            (back + DOUBT * chance) / (back + waited + DOUBT) for back, waited, chance in zip(self.back, self.waited, above, strict=True)
        )

    def halve(self) -> None:
        self.back = [value / 2 for value in self.back]
        self.waited = [value / 2 for value in self.waited]


class _Habits:
    """What one kind of conversation does: its records, and the figures that follow from them."""

    __slots__ = ("all", "changes", "fresh", "grown", "pause", "pauses", "repeats", "starts", "sums", "table", "turns", "version")

    def __init__(self) -> None:
        self.all = _Record()
        self.turns: dict[int, _Record] = {}
        # Fading sums over turns that followed another: turns, tokens before, of them repeated, tokens that were new.
        self.sums = [0.0, 0.0, 0.0, 0.0]
        # Fading sums over first turns: how many, how many of them began as one before; of these, tokens in common, seconds in between.
        self.starts = [0.0, 0.0, 0.0, 0.0]
        self.changes = 0
        self.fresh = -1
        self.version = 0
        self.table: tuple[tuple[float, float, float], ...] = ()
        self.pauses: tuple[float, ...] = ()
        self.pause = 0.0
        self.repeats = 1.0
        self.grown = 0.0

    def records(self, turn: int) -> tuple[_Record, _Record]:
        at = _CLASS[min(turn, TURNS)]
        record = self.turns.get(at)
        if record is None:
            record = self.turns[at] = _Record()
        return self.all, record

    def began(self, known: int, idle: float) -> None:
        starts = self.starts
        if starts[0] >= 128:
            starts = [value / 2 for value in starts]
        self.starts = [starts[0] + 1, starts[1] + 1, starts[2] + known, starts[3] + idle] if known else [starts[0] + 1, *starts[1:]]

    def alike(self, tokens: int, turns: float) -> tuple[float, int]:
        """How many more conversations will soon begin as this one, and with how many tokens in common."""
        number, alike, common, between = self.starts
        if not alike:
            return 0.0, 0
        # What was used in between are their later turns too.
        soon = SOON * alike / max(1.0, between) / (1.0 + turns)
        return min((alike + 1.0) / (number - alike + 1.0), soon), min(tokens, int(common / alike))

    def followed(self, before: int, repeated: int, new: int) -> None:
        sums = self.sums
        if sums[0] >= 128:
            sums = [value / 2 for value in sums]
        self.sums = [sums[0] + 1, sums[1] + before, sums[2] + repeated, sums[3] + new]


class _Turn(Struct, eq=False):
    """The latest turn of one conversation, whose going on is an open question."""

    turn: int
    at: float
    tokens: int
    place: str
    kind: tuple[str, int]
    habits: _Habits
    open: bool = True
    step: int = 0


class Forecast:
    """Learns from every dispatched request, in order of time; bounded by conversations under way and by kinds of them."""

    def __init__(self, conversations: int = CONVERSATIONS, contexts: int = CONTEXTS) -> None:
        self._conversations: dict[int, _Turn] = {}
        self._most = conversations
        self._habits: dict[tuple[str, int], _Habits] = {}
        self._contexts = contexts
        self._whole = _Habits()
        # Open turns by the pause that they wait through, each queue in order of time.
        self._waiting: tuple[deque[_Turn], ...] = tuple(deque() for _ in EDGES)
        self._due = self._latest = 0.0

    def place(self, conversation: int) -> str:
        """Where the conversation's latest request went; "" where none is known."""
        found = self._conversations.get(conversation)
        return found.place if found else ""

    def moved(self, conversation: int, place: str) -> None:
        """The latest request has gone on to another place."""
        found = self._conversations.get(conversation)
        if found is not None:
            found.place = place

    def seen(self, key: str, conversation: int, turn: int, at: float, place: str, tokens: int, known: int, idle: float = 0.0) -> None:
        """A request was dispatched: `tokens` of prompt, of which `known` had been sent to this place `idle` seconds before."""
        if at >= self._due:
            self._sweep(at)
        if at >= self._latest:
            self._latest = at
        elif at < self._latest - EDGES[-1]:
            self._restart(at)
        before = self._conversations.pop(conversation, None)
        if before is not None and turn > before.turn:
            self._went_on(before, at, place, tokens, known)
            kind, habits = before.kind, before.habits
        else:
            kind = (key, bisect_left(LENGTHS, tokens))
            habits = self._habits_of(kind)
            habits.began(known, idle)
        if before is not None:
            # Where it did not go on but began anew, nobody knows whether the earlier one would have.
            before.open = False
        elif len(self._conversations) >= self._most:
            self._conversations.pop(next(iter(self._conversations))).open = False
        now = self._conversations[conversation] = _Turn(turn, at, tokens, place, kind, habits)
        self._wait(now, 0)
        if at + EDGES[0] < self._due:
            self._due = at + EDGES[0]

    def _went_on(self, before: _Turn, at: float, place: str, tokens: int, known: int) -> None:
        if before.open:
            # Its queue says how long it has been waiting, up to the requests that came while nobody swept.
            for record in (*self._whole.records(before.turn), *before.habits.records(before.turn)):
                record.back[before.step] += 1
        if place == before.place:
            repeated = min(known, before.tokens)
            for habits in (self._whole, before.habits):
                habits.followed(before.tokens, repeated, tokens - min(known, tokens))
        before.habits.changes += 1
        self._whole.changes += 1

    def _sweep(self, at: float) -> None:
        """Let time pass: open turns that have waited through a pause are counted there, and wait through the next."""
        due = at + EDGES[0]
        for step, (edge, queue) in enumerate(zip(EDGES, self._waiting, strict=True)):
            while queue and queue[0].at + edge <= at:
                turn = queue.popleft()
                if turn.open:
                    self._waited(turn, step)
            if queue:
                due = min(due, queue[0].at + edge)
        self._due = due

    def _waited(self, turn: _Turn, step: int) -> None:
        for record in (*self._whole.records(turn.turn), *turn.habits.records(turn.turn)):
            record.waited[step] += 1
            if step == 0 and record.waited[0] + record.back[0] > REMEMBERED:
                record.halve()
        turn.habits.changes += 1
        turn.step = step + 1
        if turn.step < len(EDGES):
            self._wait(turn, turn.step)
        else:
            turn.open = False

    def _wait(self, turn: _Turn, step: int) -> None:
        queue = self._waiting[step]
        queue.append(turn)
        if len(queue) > 2 * self._most:
            # Whatever the clock does: of each conversation only one turn is open.
            left = [waiting for waiting in queue if waiting.open]
            queue.clear()
            queue.extend(left)

    def _restart(self, at: float) -> None:
        """The clock was set back by more than any pause: what is open can no longer be told apart by its time."""
        for turn in self._conversations.values():
            turn.open = False
        for queue in self._waiting:
            queue.clear()
        self._due = self._latest = at

    def _habits_of(self, kind: tuple[str, int]) -> _Habits:
        found = self._habits.pop(kind, None) or _Habits()
        if len(self._habits) >= self._contexts:
            del self._habits[next(iter(self._habits))]
        self._habits[kind] = found
        return found

    def outlook(self, key: str, conversation: int, turn: int, at: float, tokens: int) -> Outlook:
        """What is expected to follow a request of so many prompt tokens."""
        if at >= self._due:
            self._sweep(at)
        before = self._conversations.get(conversation)
        if before is not None and turn > before.turn:
            kind, habits = before.kind, before.habits
        else:
            kind = (key, bisect_left(LENGTHS, tokens))
            habits = self._habits_of(kind)
        if habits.changes > habits.fresh + min(16, habits.fresh // 8):
            self._work_out(habits)
        turns, slope, base = habits.table[min(turn, TURNS)]
        repeated = habits.repeats * (slope * tokens + base)
        others, shared = habits.alike(tokens, turns)
        new = int(habits.grown * turns)
        return Outlook(turns, int(repeated), new, habits.pause, habits.pauses, kind, habits.version, others, shared)

    def _work_out(self, habits: _Habits) -> None:
        """The figures that follow from the records, by turn: further turns, and the sum of the prompts before them as slope and base."""
        whole = self._whole
        general = whole.all.chances(_scaled(whole.all))
        own = habits.all.chances(general)
        habits.repeats, habits.grown = _growth(habits.sums, whole.sums)
        going: dict[int, float] = {}
        for at in range(len(STARTS)):
            # A turn of which this kind knows nothing is as the same turn of all kinds, and as any turn of this kind.
            chances = own
            if at in whole.turns and habits.all.back:
                chances = _between(own, whole.turns[at].chances(general))
            if at in habits.turns:
                chances = habits.turns[at].chances(chances)
            going[at] = min(SURELY, 1.0 - _left(chances))
        habits.table = _table(going, habits.repeats, habits.grown)
        habits.pauses = _pauses(own)
        habits.pause = sum(map(mul, habits.pauses, MIDDLES))
        habits.fresh = habits.changes
        habits.version += 1


def _chances_of(shares: tuple[float, ...]) -> tuple[float, ...]:
    """From shares of all turns to the chance of each pause among those who have waited so long."""
    left, found = 1.0, []
    for share in shares:
        found.append(share * 0.75 / left)
        left -= share * 0.75
    return tuple(found)


UNKNOWN_CHANCES: Final = _chances_of(tuple(share / sum(UNKNOWN) for share in UNKNOWN))


def _scaled(record: _Record) -> tuple[float, ...]:
    """What to assume of pauses that nobody has seen the end of yet: more or less, as it was with the shorter ones."""
    foretold = sum(map(mul, map(add, record.back, record.waited), UNKNOWN_CHANCES))
    ratio = min(1.5, (sum(record.back) + CAUTION) / (foretold + CAUTION))
    return tuple(min(SURELY, chance * ratio) for chance in UNKNOWN_CHANCES)


def _left(chances: tuple[float, ...]) -> float:
    """The share that never goes on."""
    left = 1.0
    for chance in chances:
        left *= 1.0 - chance
    return left


def _between(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((first + second) / 2 for first, second in zip(one, other, strict=True))


def _pauses(chances: tuple[float, ...]) -> tuple[float, ...]:
    """The share of each pause among those who go on."""
    left, found = 1.0, []
    for chance in chances:
        found.append(left * chance)
        left *= 1.0 - chance
    total = sum(found)
    return tuple(share / total for share in found)


def _growth(own: list[float], whole: list[float]) -> tuple[float, float]:
    """The share of a prompt that the next one repeats, and the tokens that are new in it."""
    turns, before, repeated, new = (mine + DOUBT * all_ / max(1.0, whole[0]) for mine, all_ in zip(own, whole, strict=True))
    # Before anything is known: the next prompt repeats this one, and adds a question and an answer.
    return (repeated + 4_000.0) / (before + 4_000.0), (new + 800.0) / (turns + 2.0)


def _table(going: dict[int, float], repeats: float, grown: float) -> tuple[tuple[float, float, float], ...]:
    """By turn: expected further turns; and the sum of the prompts that they follow, as slope * tokens + base of this one."""
    chance = going[len(STARTS) - 1]
    turns, slope = chance / (1.0 - chance), chance / (1.0 - chance * repeats)
    base = chance * slope * grown / (1.0 - chance)
    found = [(turns, slope, base)]
    for turn in range(TURNS - 1, 0, -1):
        chance = going[_CLASS[turn]]
        turns, slope, base = chance * (1.0 + turns), chance * (1.0 + repeats * slope), chance * (slope * grown + base)
        found.append((turns, slope, base))
    found.append(found[-1])
    return tuple(reversed(found))
