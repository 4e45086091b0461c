"""Traces: requests in time order, each with the chain of pieces that its prompt is made of. No text: lengths and ids only.

A piece is the longest run of blocks that always occur together, so that two prompts share exactly as much as they share pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class TraceError(ValueError):
    """A trace that cannot be read; the text names file and line, and says what is expected."""


class Visit(NamedTuple):
    """One request: `at` seconds after the trace's begin, `turn` from 1, prompt and answer in tokens.

    `path[i]` (64 bits) stands for the first `ends[i]` tokens of the prompt; the last of `ends` is the whole prompt. The first `whole`
    pieces are all but a last block that was not full yet, of which nobody can say whether a longer prompt begins with it.
    """

    at: float
    session: int
    turn: int
    prompt: int
    output: int
    path: tuple[int, ...]
    ends: tuple[int, ...]
    whole: int


class Raw(NamedTuple):
    """One request as a file has it: `runs` are first and last ids of chained blocks of `unit` tokens, unique in their `scope`."""

    at: float
    session: Hashable
    scope: Hashable
    prompt: int
    output: int
    runs: tuple[tuple[int, int], ...]
    unit: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Visits in time order; sessions are numbered in the order of their first request."""

    name: str
    visits: tuple[Visit, ...]
    sessions: int

    @property
    def seconds(self) -> float:
        return self.visits[-1].at - self.visits[0].at if self.visits else 0.0

    def longer(self, ratio: Fraction) -> Trace:
        """The same requests with answers so many times as long; whole tokens, rounded up."""
        above, below = ratio.numerator, ratio.denominator
        return replace(self, visits=tuple(visit._replace(output=-(-visit.output * above // below)) for visit in self.visits))


def fold(name: str, raws: Iterable[Raw], apart: bool = False) -> Trace:
    """The trace of these requests; `apart`: sessions share nothing, whatever their ids say."""
    ordered = sorted(raws, key=lambda raw: raw.at)
    cuts = _cuts(ordered, apart)
    pieces: dict[tuple[Hashable, int], int] = {}
    sessions: dict[Hashable, int] = {}
    turns: dict[Hashable, int] = {}
    visits = []
    for raw in ordered:
        turn = turns[raw.session] = turns.get(raw.session, 0) + 1
        scope = _scope(raw, apart)
        path, ends = _path(raw, cuts[scope], scope, pieces)
        session = sessions.setdefault(raw.session, len(sessions))
        visits.append(Visit(raw.at, session, turn, raw.prompt, raw.output, path, ends, _whole(ends, raw)))
    return Trace(name, tuple(visits), len(sessions))


def runs_of(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """First and last of each stretch of ids that count up by one: [0, 14, 15, 16] -> ((0, 0), (14, 16))."""
    found: list[tuple[int, int]] = []
    for one in ids:
        if found and found[-1][1] + 1 == one:
            found[-1] = (found[-1][0], one)
        else:
            found.append((one, one))
    return tuple(found)


def _scope(raw: Raw, apart: bool) -> Hashable:
    return (raw.scope, raw.session) if apart else raw.scope


def _cuts(raws: Iterable[Raw], apart: bool) -> dict[Hashable, list[int]]:
    """Where any run of a scope begins or has ended: prompts part only there."""
    found: dict[Hashable, set[int]] = {}
    for raw in raws:
        marks = found.setdefault(_scope(raw, apart), set())
        for first, last in raw.runs:
            marks.add(first)
            marks.add(last + 1)
    return {scope: sorted(marks) for scope, marks in found.items()}


def _path(raw: Raw, cuts: list[int], scope: Hashable, pieces: dict[tuple[Hashable, int], int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    path: list[int] = []
    ends: list[int] = []
    done = 0
    for start, blocks in _pieces(raw.runs, cuts):
        done = min(done + blocks * raw.unit, raw.prompt)
        if done > (ends[-1] if ends else 0):
            path.append(_name(pieces, (scope, start)))
            ends.append(done)
    if done < raw.prompt or not path:
        # What no block covers is nobody else's.
        path.append(_name(pieces, (None, len(pieces))))
        ends.append(raw.prompt)
    return tuple(path), tuple(ends)


def _whole(ends: tuple[int, ...], raw: Raw) -> int:
    """The pieces up to the last full block; all, where no other prompt parts there."""
    full = raw.prompt // raw.unit * raw.unit
    return ends.index(full) + 1 if full in ends else len(ends)


def _pieces(runs: Iterable[tuple[int, int]], cuts: list[int]) -> Iterator[tuple[int, int]]:
    """(first id, blocks) of each piece of the runs."""
    for first, last in runs:
        while first <= last:
            following = cuts[bisect_right(cuts, first)]
            yield first, following - first
            first = following


def _name(pieces: dict[tuple[Hashable, int], int], key: tuple[Hashable, int]) -> int:
    """A number of 64 well-mixed bits for a piece, the same whenever it comes again."""
    known = pieces.get(key)
    if known is None:
        known = pieces[key] = _mixed(len(pieces))
    return known


def _mixed(number: int) -> int:
    number = (number + 1) * _GOLDEN & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
