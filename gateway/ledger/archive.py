"""Archives: the requests of one month as one compressed file of JSON lines that says itself whether it is whole.

The first line names the ledger, the month (UTC) and the part. Then come the requests, each with its hold and its entries, and a copy of
the corrections that belong to the month; amounts are nano-units, instants microseconds UTC, as in the ledger's tables. The last line
has the sums, and the SHA-256 of every byte before it.
"""

from __future__ import annotations

import gzip
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from zlib import error as ZlibError

import msgspec
from msgspec import Struct

from gateway.ledger.balances import Name
from gateway.ledger.opening import sync_folder

FORMAT: Final = 1
_LEVEL: Final = 6
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ArchiveError(ValueError):
    """An archive that cannot be written, or is not whole; the text is one line with the remedy."""


class Head(Struct, frozen=True, kw_only=True):
    """The first line."""

    kind: Literal["archive"] = "archive"
    format: int = FORMAT
    ledger: str
    month: str
    part: int
    made: str


class Request(Struct, frozen=True, kw_only=True):
    """One request: its rows as the ledger had them. `request` is None for a hold that nobody received."""

    kind: Literal["request"] = "request"
    hold: dict[str, Any]
    request: dict[str, Any] | None
    entries: list[dict[str, Any]]

    @property
    def rid(self) -> str:
        return str(self.hold["rid"])

    @property
    def state(self) -> str:
        return str(self.hold["state"])


class Charge(Struct, frozen=True):
    """What the requests of one team cost in one currency; `estimated` is the part of `nano` that no host has reported."""

    team: str
    currency: str
    nano: int
    requests: int
    estimated: int


class Share(Struct, frozen=True):
    """What the requests cost one budget, in nano-units of its currency."""

    team: str
    budget: str
    key: str
    period: str
    currency: str
    nano: int


class Sums(Struct, frozen=True, kw_only=True):
    """The last line."""

    kind: Literal["sums"] = "sums"
    requests: int
    holds: int
    entries: int
    corrections: int
    charges: tuple[Charge, ...]
    budgets: tuple[Share, ...]
    sha256: str = ""


class Contents(Struct, frozen=True):
    """A file that was read to its end and is whole."""

    head: Head
    sums: Sums


class _Sink(Protocol):
    def write(self, data: bytes, /) -> Any: ...


class _Tally:
    """Sums up what passes."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._requests = self._holds = self._entries = self._corrections = 0
        self._charges: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._budgets: defaultdict[Name, int] = defaultdict(int)

    def bytes(self, line: bytes) -> None:
        self._digest.update(line)

    def request(self, one: Request) -> None:
        self._holds += 1
        self._entries += len(one.entries)
        for entry in one.entries:
            for claim in entry["claims"] or ():
                self._budgets[claim["team"], claim["budget"], claim["key"], claim["period"], claim["currency"]] += claim["cost"]
        if one.request is not None:
            self._requests += 1
            charge = self._charges[one.request["team"], one.request["currency"]]
            for place, more in enumerate((one.request["nano"], 1, _estimated(one.request))):
                charge[place] += more

    def correction(self) -> None:
        self._corrections += 1

    def sums(self) -> Sums:
        return Sums(
            requests=self._requests,
            holds=self._holds,
            entries=self._entries,
            corrections=self._corrections,
            charges=tuple(Charge(*name, *amounts) for name, amounts in sorted(self._charges.items())),
            budgets=tuple(Share(*name, nano) for name, nano in sorted(self._budgets.items())),
            sha256=self._digest.hexdigest(),
        )


def _estimated(row: dict[str, Any]) -> int:
    return sum(attempt["nano"] for attempt in row["attempts"] if attempt["billed"] == "possible")


class Writing:
    """An archive that is being written, one line at a time."""

    def __init__(self, sink: _Sink, head: Head) -> None:
        self._sink = sink
        self._tally = _Tally()
        self._line(head)

    def request(self, one: Request) -> None:
        self._line(one)
        self._tally.request(one)

    def correction(self, columns: dict[str, Any]) -> None:
        self._line({"kind": "correction", **columns})
        self._tally.correction()

    def end(self) -> Sums:
        sums = self._tally.sums()
        self._sink.write(_encode(sums) + b"\n")
        return sums

    def _line(self, content: object) -> None:
        line = _encode(content) + b"\n"
        self._tally.bytes(line)
        self._sink.write(line)


@contextmanager
def writing(path: Path, head: Head) -> Iterator[Writing]:
    """A file that is on the disk, whole, when the block ends."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as raw:
            with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as sink:
                yield Writing(sink, head)
            raw.flush()
            os.fsync(raw.fileno())
        sync_folder(path.parent)
    except OSError as problem:
        raise ArchiveError(f"{path} cannot be written ({problem.strerror}). Remedy: name a folder with room, by --archive") from problem


def requests(path: Path) -> Iterator[Request]:
    """The requests of an archive, in their order; ArchiveError where it is not whole (those before it may have come)."""
    return (line for line in _lines(path) if isinstance(line, Request))


def check(path: Path) -> Contents:
    """Read a file to its end; ArchiveError where a byte, a sum or a charge in it is not what it says."""
    found = list(_kept(_lines(path)))
    head, sums = found[0], found[-1]
    assert isinstance(head, Head) and isinstance(sums, Sums), "an archive that is whole has both"
    return Contents(head, sums)


def _kept(lines: Iterable[Head | Request | Sums]) -> Iterator[Head | Sums]:
    return (line for line in lines if not isinstance(line, Request))


def _lines(path: Path) -> Iterator[Head | Request | Sums]:
    """Everything but the corrections; the last one is the sums, which have been found to be true."""
    tally, sums, head = _Tally(), None, None
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                if sums is not None:
                    raise _damaged(path, "something stands after its end")
                content = _decode(line)
                match content.get("kind"):
                    case "archive" if head is None:
                        yield (head := _head(path, content))
                    case "request" if head is not None:
                        yield _request(path, content, tally)
                    case "correction" if head is not None:
                        tally.correction()
                    case "sums" if head is not None:
                        sums = msgspec.convert(content, Sums)
                        _compare(path, tally.sums(), sums)
                        yield sums
                    case _:
                        raise _damaged(path, "a line is of no known kind")
                tally.bytes(line)
    except FileNotFoundError as problem:
        raise ArchiveError(f"there is no archive {path}. Remedy: bring its folder back, or name the folder that has it") from problem
    except (OSError, EOFError, ZlibError, msgspec.MsgspecError, KeyError, TypeError, AttributeError) as problem:
        if isinstance(problem, OSError) and problem.errno:
            raise unusable(path, problem) from problem
        raise _damaged(path, f"it cannot be read ({type(problem).__name__})") from problem
    if sums is None:
        raise _damaged(path, "its end is missing")


def _head(path: Path, content: Any) -> Head:
    head = msgspec.convert(content, Head)
    if head.format != FORMAT:
        raise ArchiveError(f"{path} is of format {head.format}; this Faregate knows {FORMAT}. Remedy: run the newer Faregate")
    return head


def _request(path: Path, content: Any, tally: _Tally) -> Request:
    one = msgspec.convert(content, Request)
    charged = 0 if one.request is None else one.request["nano"]
    if charged != sum(entry["nano"] for entry in one.entries):
        raise _damaged(path, f"the entries of request {one.rid} do not sum to its charge")
    tally.request(one)
    return one


def _compare(path: Path, found: Sums, stated: Sums) -> None:
    if found.sha256 != stated.sha256:
        raise _damaged(path, "its checksum is another")
    if found != stated:
        raise _damaged(path, "its sums are not those of its requests")


def unusable(path: Path, problem: OSError) -> ArchiveError:
    """The folder is lost, or its disk fails; nothing is wrong with the file that one knows of."""
    remedy = "bring the folder back, and run again: a run goes on where the last one ended"
    return ArchiveError(f"{path} cannot be used ({problem.strerror}). Remedy: {remedy}")


def _damaged(path: Path, why: str) -> ArchiveError:
    return ArchiveError(f"{path} is not a whole archive: {why}. Remedy: take another copy of it")
