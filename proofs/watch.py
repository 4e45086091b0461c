"""Looks at a ledger's tables while its gateways write: the bound at each look, and holds that outlive their lease."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from proofs.evidence import Evidence

BUDGETS: Final = "SELECT team, budget, spent, held, ceiling, overrun, peak FROM budget"
OPEN: Final = "SELECT count(*), min(expires) FROM hold WHERE state = 'held'"


@dataclass
class Watch:
    """What many looks have seen. `broken`: where more was committed than the bound lets; `late`: seconds beyond a lease."""

    evidence: Evidence
    looks: int = 0
    broken: list[str] = field(default_factory=list)
    late: float = 0.0

    async def look(self) -> int:
        """How many holds are open. Raises ConnectionError while the ledger's server is down."""
        for team, budget, spent, held, ceiling, overrun, peak in await self.evidence.read(BUDGETS):
            # The peak is kept by the ledger in each commit, so it sees what happens between two looks.
            if max(spent + held, peak) > ceiling + overrun:
                self.broken.append(f"{team}/{budget}: {spent} spent, {held} held, peak {peak}, ceiling {ceiling}, overrun {overrun}")
        [(open, oldest)] = await self.evidence.read(OPEN)
        if oldest is not None:
            self.late = max(self.late, time.time() - oldest / 1e6)
        self.looks += 1
        return int(open)

    async def for_ever(self, every: float = 0.05) -> None:
        while True:
            with suppress(ConnectionError):
                await self.look()
            await asyncio.sleep(every)

    async def until_closed(self, seconds: float) -> float:
        """Waits until no hold is open, at most so long; how long it was."""
        began = time.monotonic()
        while await self.look() and time.monotonic() - began < seconds:  # noqa: ASYNC110 - another process ends them
            await asyncio.sleep(0.1)
        return time.monotonic() - began
