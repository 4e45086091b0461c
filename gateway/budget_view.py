"""The budgets as this process last saw them: for plans and gauges, which must not wait for the ledger.

A look-up may be a second old, so nothing is admitted by it: the ledger alone decides whether a hold fits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from gateway.clock import Clock
from gateway.errors import LedgerUnavailable
from gateway.ledger.port import Ledger
from gateway.outcome import BudgetState
from gateway.request import Caller
from gateway.standings import Name, mine, named
from gateway.steps import NO_STEP, Step, reached, used
from gateway.teams import TeamRow

log = logging.getLogger(__name__)


class BudgetView:
    """The last known state of every budget in force: of every grant of this process at once, of other replicas' within a second."""

    def __init__(self) -> None:
        self._states: dict[Name, BudgetState] = {}
        # What grants said while the ledger was being read: newer than the answer to that reading.
        self._newer: dict[Name, BudgetState] = {}

    def learn(self, budgets: Iterable[BudgetState]) -> None:
        """Take the budgets of a grant; call it with every one."""
        for state in budgets:
            name = named(state)
            self._states[name] = self._newer[name] = state

    def states(self) -> tuple[BudgetState, ...]:
        """Every budget that was seen. Also for another thread: copied in one step."""
        return tuple(self._states.values())

    def step(self, team: TeamRow | None, caller: Caller, at: datetime) -> Step:
        """What the steps of this team ask of a request now; NO_STEP for a team without any."""
        if team is None or not team.steps:
            return NO_STEP
        return reached(team.steps, map(used, mine(team, caller, self._states, at)))

    async def refresh(self, ledger: Ledger, at: datetime) -> None:
        """Read every budget whose period is not over; the rest is forgotten."""
        self._newer = {}
        read = await ledger.budgets(at)
        self._states = {named(state): state for state in read} | self._newer

    async def watch(self, ledger: Ledger, clock: Clock, stop: asyncio.Event, every: float = 1.0) -> None:
        """Refresh until `stop`; while the ledger is away, what was last seen stands."""
        while not stop.is_set():
            try:
                await self.refresh(ledger, clock.now())
            except LedgerUnavailable as error:
                log.debug("budgets not read: %s", error.message)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)
