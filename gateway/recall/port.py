"""What a reasoning store promises: the reasoning of this very answer, in this very conversation, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from gateway.request import NOTHING, ChatRequest

# Bytes that a message grows by beside its reasoning.
_FRAME: Final = 32


class Said(Struct, frozen=True):
    """One answer as it was relayed: its text, its reasoning, its tool calls as the client got them."""

    content: str
    reasoning: str
    tool_calls: tuple[dict[str, Any], ...] = ()


def reminded(request: ChatRequest, found: Mapping[int, str]) -> ChatRequest:
    """The request with what was found; its size grows by it, since that bounds what the prompt can cost."""
    if not found:
        return request
    return replace(request, recalled=found, size=request.size + sum(len(text.encode()) + _FRAME for text in found.values()))


class Recall(Protocol):
    """Never raises: a store that is away has forgotten, and thinking is then switched off for the request, as an edit.

    Ask only where `gateway.messages.forgetful` says so, and give the same request to `find` and to `keep`.
    """

    async def start(self) -> None: ...

    async def find(self, team: str, request: ChatRequest) -> Mapping[int, str]:
        """Reasoning by the index of the assistant's message that lacks it; only of answers that this team got, to these messages."""
        ...

    def keep(self, team: str, request: ChatRequest, said: Said) -> None:
        """Remember one answer that came to its end; returns at once."""
        ...

    async def close(self) -> None: ...


class NoRecall:
    """Remembers nothing."""

    async def start(self) -> None:
        return None

    async def find(self, team: str, request: ChatRequest) -> Mapping[int, str]:
        return NOTHING

    def keep(self, team: str, request: ChatRequest, said: Said) -> None:
        return None

    async def close(self) -> None:
        return None
