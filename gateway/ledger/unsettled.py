"""The ends of requests that the store could not take yet: none is dropped in silence, and none is applied twice.

They wait in memory only. A process that dies with some leaves their holds to the reaper, which charges what was expected;
a spool on the disk, from which the next process takes them up, is the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Final

from gateway.ledger.port import Event
from gateway.outcome import LedgerRow

# The most that wait: some 10 MB. The ledger takes no new holds then, so only requests on their way can find no room.
LIMIT: Final = 5000

log = logging.getLogger(__name__)


class Unsettled:
    """At most LIMIT ends (event, row), in the order in which they came.

    What is given up is logged by its id, never by its content: its hold is renewed no longer, and expires.
    """

    def __init__(self) -> None:
        # By both, since a charge and a release of one request are two truths; the store knows which one wins.
        self._ends: dict[tuple[str, Event], LedgerRow] = {}

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def full(self) -> bool:
        return len(self._ends) >= LIMIT

    def ids(self) -> Iterator[str]:
        """Of the requests; one that is in here with two events comes twice."""
        return (id for id, _ in self._ends)

    def oldest(self, number: int) -> list[tuple[Event, LedgerRow]]:
        return [(event, row) for (_, event), row in islice(self._ends.items(), number)]

    def keep(self, event: Event, row: LedgerRow) -> None:
        """The first of two equal events stands, as it would in the store."""
        if self.full and (row.id, event) not in self._ends:
            _give_up(event, row.id, "too many wait already")
        else:
            self._ends.setdefault((row.id, event), row)

    def done(self, event: Event, row: LedgerRow) -> None:
        """The store has taken it."""
        del self._ends[row.id, event]
        log.warning("ledger: the %s of request %s is in the ledger now", event, row.id)

    def give_up(self, event: Event, row: LedgerRow, why: str) -> None:
        del self._ends[row.id, event]
        _give_up(event, row.id, why)

    def give_up_all(self, why: str) -> None:
        for event, row in self.oldest(len(self)):
            self.give_up(event, row, why)


def _give_up(event: Event, id: str, why: str) -> None:
    log.critical("ledger: the %s of request %s is given up: %s. If its hold is open, it expires, charged by estimate", event, id, why)
