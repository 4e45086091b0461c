"""Prelude: what becomes of a request before any deployment is looked at, by the rules of its team.

What breaks its prefix is taken out or moved; reasoning that its client lost is looked for; hosts that keep their users' caches
apart learn by which name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from gateway import volatile
from gateway.messages import forgetful
from gateway.policies import Policies
from gateway.recall.port import Recall, Said, reminded
from gateway.request import Caller, ChatRequest
from gateway.teams import TeamRow

log = logging.getLogger(__name__)
# Characters of system messages from which the rules look at them in a thread: some milliseconds.
LARGE: Final = 16 << 10


class Opened(Struct, frozen=True):
    """A request as it is planned and sent. `steady` is what its conversation is known by; None: nothing of it may be remembered."""

    request: ChatRequest
    steady: ChatRequest | None


class Told(Protocol):
    """A reply that has come to its end."""

    @property
    def said(self) -> Said | None: ...


class Prelude:
    """One for a process. `pseudonym` gives what hosts are told instead of a team's name."""

    def __init__(self, recall: Recall, pseudonym: Callable[[str], str]) -> None:
        self._recall = recall
        self._pseudonym = lru_cache(maxsize=1024)(pseudonym)
        self._always = ("", False)

    async def open(self, request: ChatRequest, caller: Caller, team: TeamRow | None, policies: Policies) -> Opened:
        steady = request
        if team is not None and (team.volatile or team.isolate):
            request, steady = await self._ruled(request, team)
        if team is not None and not team.recall:
            return Opened(request, None)
        if forgetful(steady.body, always=self._demanding(policies)):
            found = await self._recall.find(caller.team, steady)
            if len(steady.messages) == len(request.messages):
                request = reminded(request, found)
        return Opened(request, steady)

    def close(self, opened: Opened, caller: Caller, reply: Told) -> None:
        """The answer has come to a good end; call it before the client sees that, who may come back at once. Raises nothing."""
        if opened.steady is None:
            return
        try:
            said = reply.said
            if said is not None:
                self._recall.keep(caller.team, opened.steady, said)
        except Exception:
            # A host may write anything; what cannot be kept is no reason to fail an answer that is paid for.
            log.exception("what %s was told could not be kept", caller.team)

    async def _ruled(self, request: ChatRequest, team: TeamRow) -> tuple[ChatRequest, ChatRequest]:
        steady = request
        if team.volatile:
            # What moves with the last message would make every request another conversation.
            if request.size > LARGE and volatile.extent(request) > LARGE:
                request, steady = await asyncio.to_thread(volatile.settle, request, team.volatile)
            else:
                request, steady = volatile.settle(request, team.volatile)
        if team.isolate:
            request = replace(request, user=self._pseudonym(team.team))
        return request, steady

    def _demanding(self, policies: Policies) -> bool:
        """Whether any contract demands earlier reasoning without tools too; looked up once for each snapshot."""
        if self._always[0] != policies.digest:
            rules = {contract.reasoning.send_back for contract in policies.contracts.values()}
            self._always = policies.digest, "always" in rules
        return self._always[1]
