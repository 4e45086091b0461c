"""What the course needs of a host's socket: open, read, close. A test may stand in here with a scripted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Limits of one request in seconds: to connect, to the first content, between two reads, in all."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Call(Struct):
    """One dispatch: where to, with which headers, what body. The key is in `headers` and nowhere else.

    `sent` is set by the upstream just before the first byte leaves: while it is False, certainly nothing was billed.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    sent: bool = False

    def __repr__(self) -> str:
        return f"Call({self.url!r}, {len(self.body)} bytes)"


class Answer(Protocol):
    """An opened answer: a status, headers that we know how to read, and bytes as they come."""

    status: int
    content_type: str
    retry_after: str | None

    @property
    def ended(self) -> bool:
        """Whether all of it has come and was read; where it is False, `read` finds out."""
        ...

    async def read(self) -> bytes:
        """The next bytes, as many as have come; b"" at the end. Raises UpstreamError(dispatched=True)."""
        ...

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else close it now: the host sees us leave."""
        ...


class Upstream(Protocol):
    async def open(self, call: Call) -> Answer:
        """Send one request, never twice; raises UpstreamError, whose `dispatched` says whether it may have been billed."""
        ...

    async def close(self) -> None: ...
