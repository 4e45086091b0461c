"""What a client asked, parsed and checked once; and who asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from msgspec import Struct

from gateway.outcome import Idempotency

NOTHING: Final[Mapping[int, str]] = MappingProxyType({})


class OwnBudget(Struct, frozen=True):
    """The budget that one key has to itself: nano-units of a currency in each period of a zone."""

    nano: int
    currency: str
    period: Literal["hour", "day", "week", "month", "total"]
    zone: str = "UTC"


class Caller(Struct, frozen=True):
    """Who is asking: a team and the public name of the key (never the key itself)."""

    team: str
    key: str
    budget: OwnBudget | None = None


class ChatRequest(Struct, frozen=True):
    """One chat completion request. `body` is the checked JSON object; treat it as read-only."""

    id: str
    model: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    beta: bool
    size: int
    idempotency: Idempotency | None = None
    session: str = ""
    """Digest of the session that the client names in a header or a field ("" where it names none)."""
    dry_run: bool = False
    """Explain what would be done, and do nothing."""
    recalled: Mapping[int, str] = NOTHING
    """Reasoning that the client lost and we remember, by the index of its message."""
    edits: tuple[str, ...] = ()
    """Edits that were made before any deployment was looked at."""
    user: str = ""
    """What hosts that keep their users' caches apart are told instead of the team's name ("": nothing)."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def answers(self) -> int:
        """How many answers were asked for at once (`n`)."""
        n = self.body.get("n")
        return n if type(n) is int and n > 0 else 1
