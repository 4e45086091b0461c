"""A gateway with one planted fault, for the proof of the proof: python -m proofs.mutant NAME serve; NAME `sound` plants none.

Every fifth end is told to the store twice, as it is after an answer that was lost: a sound ledger takes no notice of the second.
"""

from __future__ import annotations

import sys
from itertools import count

from gateway.cli import main
from gateway.ledger.port import Event
from gateway.ledger.sqlite import SqliteStore
from gateway.outcome import LedgerRow
from proofs.mutations import MUTATIONS, SOUND, Soil

EVERY = 5


def tell_twice() -> None:
    """From now on the store hears of every fifth end again."""
    once, number = SqliteStore.finish, count(1)

    async def finish(self: SqliteStore, event: Event, row: LedgerRow) -> bool:
        done = await once(self, event, row)
        if next(number) % EVERY == 0:
            await once(self, event, row)
        return done

    SqliteStore.finish = finish  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] != SOUND:
        MUTATIONS[sys.argv[1]].plant(Soil())
    tell_twice()
    sys.exit(main(sys.argv[2:]))
