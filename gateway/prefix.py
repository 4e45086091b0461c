"""Prefix: what was sent where, as chained digests, so that what a host has cached can be foretold. No text is kept.

A prompt is a stream of bytes: its tools, then its messages. Digest i stands for everything up to `ends[i]`, so that two
prompts share exactly as much as they share digests.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.json import Encoder

from gateway.contracts import Cache

_encode = Encoder().encode
# Up to each position, one digest in so many bytes besides those at the ends of messages: fine where prompts part most often.
GRID = ((4 << 10, 256), (16 << 10, 512), (64 << 10, 1 << 10), (256 << 10, 2 << 10), (1 << 62, 8 << 10))
# Messages that have digests of their own; those behind are hashed in blocks of so many, so that no prompt crowds out all others.
APART, TOGETHER = 4096, 64
# Digests that are kept in all, and the seconds after which one that was not used is forgotten (at the latest twice as many).
ENTRIES, AGE = 500_000, 86_400.0
# Digests below which one by one is faster than all at once.
_FEW = 8
# Idle times within the double of one another count as one.
_NEAR = 2.0


class Prints(NamedTuple):
    """One prompt: `digests[i]` (64 bits, under a secret) stands for its first `ends[i]` bytes.

    `parts` has the index of the last digest of each part: the tools first where there are any (`tools`), then each message, then
    each block of those behind the first APART.
    """

    ends: tuple[int, ...]
    digests: tuple[int, ...]
    parts: tuple[int, ...] = ()
    tools: bool = False

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.ends[-1] if self.ends else 0


class Place(Struct, frozen=True):
    """Where prompts are cached together: one deployment's account, or one team's part of it; and by which rule.

    `model` is the version that answers there, wherever it is hosted: answers of one version are alike.
    """

    name: str
    cache: Cache
    model: str = ""


class Match(NamedTuple):
    """The longest known beginning of a prompt at one place: its bytes, and the seconds since it was last used there.

    `steps` are shorter beginnings that were used more lately, the longest first: (bytes, seconds); the first is the match itself.
    """

    size: int
    idle: float
    steps: tuple[tuple[int, float], ...] = ()


NO_MATCH = Match(0, 0.0)
NO_PRINTS = Prints((), ())


def _marks() -> tuple[int, ...]:
    """The positions of the first megabyte at which a digest is taken whatever message they fall into."""
    found: list[int] = []
    at = 0
    for upto, step in GRID:
        found += range(at + step, min(upto, 1 << 20) + 1, step)
        at = upto
    return tuple(found)


_MARKS = _marks()


def _mark(index: int) -> int:
    return _MARKS[index] if index < len(_MARKS) else _MARKS[-1] + (index - len(_MARKS) + 1) * GRID[-1][1]


def prints(tools: Any, messages: Sequence[Any], secret: bytes) -> Prints:
    """The digests of a prompt, under a secret of at most 64 bytes; hashed once, from its beginning to its end."""
    state = blake2b(digest_size=8, key=secret)
    ends: list[int] = []
    found: list[int] = []
    parts: list[int] = []
    at = index = 0
    mark = _MARKS[0]
    if len(messages) > APART:
        messages = [*messages[:APART], *(messages[at : at + TOGETHER] for at in range(APART, len(messages), TOGETHER))]
    for part in (tools, *messages) if tools else messages:
        data = _encode(part)
        end = at + len(data)
        if mark < end:
            view, start = memoryview(data), at
            while mark < end:
                state.update(view[start - at : mark - at])
                ends.append(mark)
                found.append(int.from_bytes(state.digest(), "big"))
                start, index = mark, index + 1
                mark = _mark(index)
            state.update(view[start - at :])
        else:
            state.update(data)
        if mark == end:
            index += 1
            mark = _mark(index)
        at = end
        parts.append(len(ends))
        ends.append(at)
        found.append(int.from_bytes(state.digest(), "big"))
    return Prints(tuple(ends), tuple(found), tuple(parts), bool(tools))


class _Shelf:
    """What is known of one place, in two generations: what is used is written to the young one, and the old one is dropped whole.

    Every use writes a whole chain, so that what is known of a chain is always a beginning of it, the earlier the fresher.
    """

    __slots__ = ("old", "old_units", "units", "young")

    def __init__(self) -> None:
        self.young: dict[int, float] = {}
        self.old: dict[int, float] = {}
        # Whole-unit caches only: the beginnings that were stored as units.
        self.units: set[int] = set()
        self.old_units: set[int] = set()

    def last(self, digest: int) -> float:
        """When a digest that is known was last used."""
        found = self.young.get(digest)
        return self.old[digest] if found is None else found

    def known(self, digests: Sequence[int]) -> int:
        """How many of these, from the first on, are known."""
        young, old = self.young, self.old
        low, high = 0, len(digests)
        while low < high:
            middle = (low + high) // 2
            if digests[middle] in young or digests[middle] in old:
                low = middle + 1
            else:
                high = middle
        return low

    def whole(self, digests: Sequence[int], known: int) -> int:
        """How many of these, from the first on, the longest unit covers."""
        units, old = self.units, self.old_units
        return next((at + 1 for at in range(known - 1, -1, -1) if digests[at] in units or digests[at] in old), 0)

    def keep(self, digests: Sequence[int], known: int) -> None:
        """Store the units that this prompt makes: its own end, and what it shares with earlier ones, which is seen twice now."""
        if self.old_units:
            self.units.update(self.old_units.intersection(digests))
        self.units.add(digests[-1])
        if known:
            self.units.add(digests[known - 1])

    def age(self) -> bool:
        """Drop what was not used since the last time; whether anything is left."""
        self.old, self.young = self.young, {}
        self.old_units, self.units = self.units, set()
        return bool(self.old)


class Index:
    """What was sent to each place, by digest with its last use; at most `entries` digests, the longest unused forgotten first."""

    def __init__(self, entries: int = ENTRIES, age: float = AGE) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._half = max(1, entries // 2)
        self._age = age
        self._young = 0
        self._turned: float | None = None

    def __len__(self) -> int:
        return sum(len(shelf.young) + len(shelf.old) for shelf in self._shelves.values())

    def match(self, place: Place, prints: Prints, at: float) -> Match:
        """The longest beginning that this place may have cached by its rule; as if by blocks where it caches nothing."""
        shelf = self._shelves.get(place.name)
        if shelf is None:
            return NO_MATCH
        known = shelf.known(prints.digests)
        if known and place.cache.mode == "units":
            known = shelf.whole(prints.digests, known)
        return _matched(shelf, prints, known, at) if known else NO_MATCH

    def note(self, place: Place, prints: Prints, at: float) -> None:
        """A prompt was sent there: from now on it is known, and used."""
        self.add(place.name, prints.digests, at, place.cache.mode == "units")

    def add(self, name: str, digests: Sequence[int], at: float, units: bool) -> None:
        """As `note`, by what it needs of a place and of a prompt."""
        if not digests:
            return
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = _Shelf()
        if units:
            shelf.keep(digests, shelf.known(digests))
        young = shelf.young
        before = len(young)
        if len(digests) < _FEW:
            for digest in digests:
                young[digest] = at
        else:
            young.update(dict.fromkeys(digests, at))
        self._young += len(young) - before
        if self._turned is None or at < self._turned:
            # What is older than it, by a clock that was set back, ages from now on.
            self._turned = at
        if self._young >= self._half or at - self._turned >= self._age:
            self._turned, self._young = at, 0
            self._shelves = {name: shelf for name, shelf in self._shelves.items() if shelf.age()}


def _matched(shelf: _Shelf, prints: Prints, known: int, at: float) -> Match:
    """The match of so many digests, and its fresher beginnings."""
    digests, ends, last = prints.digests, prints.ends, shelf.last
    idle = max(0.0, at - last(digests[known - 1]))
    first = (ends[known - 1], idle)
    freshest = max(0.0, at - last(digests[0]))
    if known == 1 or idle <= 1.0 or freshest * _NEAR > idle:
        return Match(*first, (first,))
    steps = [first]
    high = known - 1
    while high and freshest * _NEAR <= idle and idle > 1.0:
        low = 1
        while low < high:
            middle = (low + high + 1) // 2
            if (at - last(digests[middle - 1])) * _NEAR <= idle:
                low = middle
            else:
                high = middle - 1
        idle = max(0.0, at - last(digests[low - 1]))
        steps.append((ends[low - 1], idle))
        high = low - 1
    return Match(*first, tuple(steps))


def packed(digests: Sequence[int]) -> bytes:
    """Digests as 8 bytes each, for other replicas."""
    return array("Q", digests).tobytes()


def unpacked(data: bytes) -> tuple[int, ...]:
    """What `packed` packed; raises ValueError for anything else."""
    found = array("Q")
    found.frombytes(data)
    return tuple(found)


def shared(one: Prints, other: Prints) -> int:
    """Bytes that two prompts have in common from the first on, as far as digests tell."""
    known = set(one.digests)
    common = 0
    for end, digest in zip(other.ends, other.digests, strict=True):
        if digest not in known:
            break
        common = end
    return common
