"""Limits that all replicas share: counted by Lua scripts in one Redis, by its clock.

Every admitted request is counted in this process too, so that it can go on alone when Redis does not answer: the limits
of each replica are then its own, in full. Open requests renew their leases together; the places of a gateway that died
come back when its leases end, and places that an emptied server forgot are taken again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal

from gateway.errors import FaregateError, Overloaded
from gateway.shared.link import Down, Link, script
from gateway.shared.memory import MemoryLimits
from gateway.shared.port import PLACE_AGAIN, State, refusal, unlimited
from gateway.teams import LimitsRow

WhenDown = Literal["ledger", "closed", "open"]
# Lua's numbers are doubles, exact to 2^53: no single number that we send comes near.
MOST: Final = 1 << 48
# Ids in one renewal: some milliseconds of the server's time.
TOGETHER: Final = 500


class RedisLimits:
    """`now` (milliseconds) stands in for the server's clock in tests; `lease` is in seconds."""

    def __init__(
        self, link: Link, alone: MemoryLimits, down: WhenDown = "ledger", lease: float = 30, now: Callable[[], int] | None = None
    ) -> None:
        self._link = link
        self._alone = alone
        self._down = down
        self._lease = lease
        self._now = now
        # The second of the server's clock in which each open request was admitted.
        self._admitted: dict[str, int] = {}
        # The open requests that have a place, by team.
        self._places: dict[str, set[str]] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        link.on_up = self.renew

    async def start(self) -> None:
        await self._link.start()
        self._renewing = asyncio.create_task(self._keep_renewing())

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._link.close()

    async def admit(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        if unlimited(rules):
            return
        try:
            answer = await self._ask(rid, team, rules, tokens)
        except Down:
            await self._admit_alone(rid, team, rules, tokens)
            return
        except asyncio.CancelledError:
            self._give_back(rid, team)
            raise
        name, *figures = answer
        if name:
            used, wait = figures
            allowed: int = getattr(rules, name)
            raise refusal(team, name, allowed, used, tokens if name == "tokens_per_minute" else 1, wait / 1000 or PLACE_AGAIN)
        self._admitted[rid] = figures[0]
        self._book(rid, team, rules, tokens)

    async def finish(self, rid: str, team: str, rules: LimitsRow, estimated: int, actual: int) -> None:
        if not self._alone.correct(rid, actual - estimated):
            return
        place = self._drop_place(rid, team)
        second = self._admitted.pop(rid, None)
        if second is None:
            # Redis did not admit it, but a renewal may have taken a place for it.
            self._give_back(rid, team)
            return
        correction = _count(actual) - _count(estimated) if rules.tokens_per_minute is not None else 0
        if place or correction:
            with suppress(Down):
                await self._link.call("finish", script("finish"), _keys(team)[1:], rid, correction, second, self._time())

    def ready(self) -> bool:
        return self._down != "closed" or self._link.up

    def state(self) -> State:
        return "up" if self._link.up else "down"

    def renew(self) -> None:
        """Renew the leases of all open requests now."""
        self._wake.set()

    async def _ask(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> list[Any]:
        allowed = (_limit(rules.requests_per_minute), _limit(rules.tokens_per_minute), _limit(rules.concurrent))
        answer: list[Any] = await self._link.call(
            "admit", script("admit"), _keys(team), rid, _count(tokens), *allowed, int(self._lease * 1000), self._time()
        )
        return answer

    async def _admit_alone(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        try:
            if self._down == "closed":
                raise Overloaded("The limits of this team cannot be checked at this moment. Try again in a second.", retry_after=1)
            if self._down == "ledger":
                self._alone.check(team, rules, tokens)
        except FaregateError:
            self._give_back(rid, team)
            raise
        self._book(rid, team, rules, tokens)

    def _book(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        self._alone.book(rid, team, rules, tokens)
        if rules.concurrent is not None:
            self._places.setdefault(team, set()).add(rid)

    def _drop_place(self, rid: str, team: str) -> bool:
        places = self._places.get(team)
        if places is None or rid not in places:
            return False
        places.discard(rid)
        if not places:
            del self._places[team]
        return True

    def _give_back(self, rid: str, team: str) -> None:
        """A place that Redis may have counted without our knowing."""
        self._link.post("finish", script("finish"), _keys(team)[1:], rid, 0, 0, self._time())

    async def _keep_renewing(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await self._wake.wait()
            self._wake.clear()
            for team, places in list(self._places.items()):
                with suppress(Down):
                    await self._renew(team, list(places))

    async def _renew(self, team: str, ids: list[str]) -> None:
        for start in range(0, len(ids), TOGETHER):
            # Not those that have ended meanwhile: calls keep their order, so that nothing is taken again after it was given back.
            some = [rid for rid in ids[start : start + TOGETHER] if rid in self._places.get(team, ())]
            await self._link.call("renew", script("renew"), _keys(team)[2:], int(self._lease * 1000), self._time(), *some)

    def _time(self) -> int | str:
        return "" if self._now is None else self._now()


def _keys(team: str) -> tuple[str, str, str]:
    """One hash tag for a team: a cluster keeps what a script needs in one place."""
    return f"faregate:{{{team}}}:requests", f"faregate:{{{team}}}:tokens", f"faregate:{{{team}}}:places"


def _count(number: int) -> int:
    return max(0, min(number, MOST))


def _limit(allowed: int | None) -> int | str:
    """A limit above any number that is sent is none."""
    return "" if allowed is None or allowed > MOST else allowed
