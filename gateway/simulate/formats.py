"""Formats of traces: one JSON object a line, told apart by its keys. Also written: our own ledger as a trace, without any text.

| format | told by | blocks |
|---|---|---|
| Mooncake, Qwen-Bailian | `hash_ids` is a list | chained, of 512 tokens unless said otherwise |
| run-length | `r` | chained, of 64 tokens, ids of one session and agent |
| RAGPulse | `hash_ids` is an object of lists | components one after the other, equal shares of the prompt |
| ours | `shared_length` | as many tokens as a turn has in common with the one before |
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.outcome import LedgerRow
from gateway.simulate.trace import Raw, TraceError, runs_of

MOONCAKE_UNIT = 512
RUN_UNIT = 64
Count = Annotated[int, Meta(ge=0)]
_OURS_SPACE = 1 << 32
_MICROSECOND = timedelta(microseconds=1)


class _Blocks(Struct):
    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Count
    output_length: Count
    hash_ids: list[int]
    session_id: str | int | None = None
    session: str | int | None = None
    agent: str | int | None = None


class _Runs(Struct):
    session: str | int
    t: Annotated[float, Meta(ge=0)]
    input_length: Count
    output_length: Count
    r: list[int]
    agent: str | int | None = None


class _Parts(Struct):
    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Count
    output_length: Count
    hash_ids: dict[str, list[int]]
    session_id: str | int | None = None


class Turn(Struct):
    """A line of our own format: milliseconds, tokens; `shared_length` are those in common with the turn before it."""

    timestamp: Annotated[float, Meta(ge=0)]
    session: str
    input_length: Count
    output_length: Count
    shared_length: Count


EXPECTED = (
    "one JSON object with `input_length`, `output_length` and either `timestamp` (ms) and `hash_ids` (Mooncake; a list, or an object of"
    " lists), or `session`, `t` (s) and `r` (run-length), or `timestamp`, `session` and `shared_length` (an export of faregate)"
)


def read(path: Path, unit: int | None = None) -> list[Raw]:
    """The requests of a file; `unit`: tokens of a block, where the format leaves it open. TraceError names file and line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from None
    return parse(lines, str(path), unit)


def parse(lines: Iterable[bytes], name: str, unit: int | None = None) -> list[Raw]:
    """The requests of lines, all in one format: that of the first."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise TraceError(f"{name}: holds no request. Expected is {EXPECTED}, one a line")
    first = _first(numbered[0][1], f"{name}:{numbered[0][0]}")
    reader = _reader(first, unit)
    if reader is None:
        raise TraceError(f"{name}:{numbered[0][0]}: has the keys {', '.join(first)}. Expected is {EXPECTED}")
    kind, convert = reader
    decode = msgspec.json.Decoder(kind).decode
    raws = []
    for number, line in numbered:
        try:
            raws.append(convert(number, decode(line)))
        except (msgspec.DecodeError, ValueError) as error:
            raise TraceError(f"{name}:{number}: {error}. Expected, as on the first line, is an object with {_keys(kind)}") from None
    return raws


def _first(line: bytes, place: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TraceError(f"{place}: {error}. Expected is {EXPECTED}") from None
    return found


def _keys(kind: type[Struct]) -> str:
    fields = msgspec.structs.fields(kind)
    needed = [f"`{field.name}`" for field in fields if field.required]
    return ", ".join(needed[:-1]) + f" and {needed[-1]}"


def _reader(first: dict[str, Any], unit: int | None) -> tuple[type[Struct], Callable[[int, Any], Raw]] | None:
    if "shared_length" in first:
        return Turn, _Ours().raw
    if "r" in first:
        return _Runs, _RunLength(first, unit or RUN_UNIT).raw
    if isinstance(first.get("hash_ids"), dict):
        return _Parts, _Components().raw
    if "hash_ids" in first:
        return _Blocks, _Mooncake(unit or MOONCAKE_UNIT).raw
    return None


class _Mooncake:
    def __init__(self, unit: int) -> None:
        self._unit = unit

    def raw(self, number: int, line: _Blocks) -> Raw:
        ids = line.hash_ids
        named = line.session_id if line.session_id is not None else line.session
        session: Hashable = ("line", number)
        if named is not None or line.agent is not None:
            session = (named, line.agent)
        elif len(ids) > 1:
            # Blocks are chained, and the first is often common to all: the second tells conversations apart.
            session = ids[1]
        return Raw(line.timestamp / 1000, session, "", line.input_length, line.output_length, runs_of(ids), self._unit)


class _RunLength:
    def __init__(self, first: dict[str, Any], unit: int) -> None:
        self._unit = unit
        runs, tokens = first["r"], first.get("input_length")
        self._open = 0
        if isinstance(runs, list) and isinstance(tokens, int) and len(runs) % 2 == 0 and all(isinstance(one, int) for one in runs):
            # Whether the second of a pair is the last id or the one after it: as many blocks as the prompt needs.
            closed = sum(runs[1::2]) - sum(runs[::2]) + len(runs) // 2
            wanted = -(-tokens // unit)
            self._open = int(abs(closed - len(runs) // 2 - wanted) < abs(closed - wanted))

    def raw(self, number: int, line: _Runs) -> Raw:
        if len(line.r) % 2:
            raise ValueError("`r` has an odd number of ids, and is made of pairs")
        runs = tuple((low, high - self._open) for low, high in zip(line.r[::2], line.r[1::2], strict=True))
        stream = (line.session, line.agent)
        return Raw(line.t, stream, stream, line.input_length, line.output_length, runs, self._unit)


class _Components:
    """Components as a chain: an id is another one behind another beginning."""

    def __init__(self) -> None:
        self._chain: dict[tuple[int, str, int], int] = {}

    def raw(self, number: int, line: _Parts) -> Raw:
        behind, ids = -1, []
        for part, own in line.hash_ids.items():
            for one in own:
                # Every other number: what follows in one prompt must not seem to follow in all.
                behind = self._chain.setdefault((behind, part, one), 2 * len(self._chain))
                ids.append((behind, behind))
        session: Hashable = ("line", number) if line.session_id is None else line.session_id
        share = max(1, -(-line.input_length // max(1, len(ids))))
        return Raw(line.timestamp, session, "", line.input_length, line.output_length, tuple(ids), share)


class _Ours:
    """Turns of one token a block: a turn begins with as much of the one before as it shares, and goes on with ids of its own."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[tuple[int, int], ...]] = {}
        self._next: dict[str, int] = {}

    def raw(self, number: int, line: Turn) -> Raw:
        kept = _beginning(self._runs.get(line.session, ()), min(line.shared_length, line.input_length))
        have = sum(last - first + 1 for first, last in kept)
        fresh = self._next.get(line.session, 0)
        if line.input_length > have:
            kept = (*kept, (fresh, fresh + line.input_length - have - 1))
            self._next[line.session] = fresh + line.input_length - have
        self._runs[line.session] = kept
        return Raw(line.timestamp / 1000, line.session, line.session, line.input_length, line.output_length, kept, 1)


def _beginning(runs: tuple[tuple[int, int], ...], tokens: int) -> tuple[tuple[int, int], ...]:
    kept = []
    for first, last in runs:
        if tokens <= 0:
            break
        kept.append((first, min(last, first + tokens - 1)))
        tokens -= last - first + 1
    return tuple(kept)


def turns(rows: Iterable[LedgerRow]) -> Iterator[Turn]:
    """Rows of a ledger, in any order, as turns in the order of their start: times, lengths, digests of conversations; nothing else.

    A turn shares the shorter of two prompts with the one before it in its conversation, less what the ledger says broke.
    Requests without usage are left out: nobody knows how long they were.
    """
    ordered = sorted((row for row in rows if row.usage is not None), key=lambda row: row.started)
    before: dict[str, int] = {}
    for number, row in enumerate(ordered):
        assert row.usage is not None
        conversation = row.plan.conversation if row.plan else ""
        session = conversation or f"alone-{number}"
        broke = row.plan.broke.tokens if row.plan and row.plan.broke else 0
        shared = max(0, min(before.get(session, 0), row.usage.prompt) - broke)
        before[session] = row.usage.prompt
        # Whole microseconds: a quotient of two integers is written as short as it is.
        millis = (row.started - ordered[0].started) // _MICROSECOND / 1000
        yield Turn(millis, session, row.usage.prompt, row.usage.output, shared)


def written(found: Iterable[Turn]) -> Iterator[bytes]:
    """The lines of a trace in our own format, which `parse` reads."""
    encode = msgspec.json.Encoder().encode
    return (encode(turn) for turn in found)
