"""Programs that end themselves in the middle of the ledger's care, as `kill -9` would.

`python -m tests.dying retain URL FOLDER STEP`: one run of retention that ends right before a step of its shelf, such as `begin` or the
second `retire`. `python -m tests.dying renames NUMBER WORDS…`: the command `faregate WORDS…`, ended right before it renames so many.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gateway.cli import main
from gateway.ledger.postgres_shelf import PostgresShelf
from gateway.ledger.retention import Month, Retention, Shelf, cutoff
from gateway.ledger.sqlite_shelf import SqliteShelf

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Watched:
    """A shelf; `before(step, number)` is called, and awaited where it says so, before each step."""

    def __init__(self, shelf: Shelf, before: Callable[[str, int], Any]) -> None:
        self._shelf, self._before, self._seen = shelf, before, Counter[str]()

    def __getattr__(self, step: str) -> Any:
        found = getattr(self._shelf, step)
        if step == "requests":
            return found

        async def watched(*words: Any) -> Any:
            self._seen[step] += 1
            if (wait := self._before(step, self._seen[step])) is not None:
                await wait
            return await found(*words)

        return watched


def shelf_at(url: str) -> Shelf:
    return PostgresShelf(url) if url.startswith("postgresql") else SqliteShelf(Path(url))


async def retained(shelf: Any, folder: Path, batch: int = 2, keep: int = 13, lost: str = "") -> list[Month]:
    """One run, in November of 2026."""
    await shelf.start()
    try:
        return [month async for month in Retention(shelf, folder, batch=batch, lost=lost).run(cutoff(NOW, keep))]
    finally:
        await shelf.close()


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody lives after that")


def retain(url: str, folder: str, step: str) -> None:
    name, _, number = step.partition(" ")

    def before(reached: str, seen: int) -> None:
        if (reached, seen) == (name, int(number or 1)):
            die()

    asyncio.run(retained(Watched(shelf_at(url), before), Path(folder)))


def renames(number: str, *words: str) -> None:
    left = [int(number)]

    def look(event: str, _what: Any) -> None:
        if event == "os.rename":
            left[0] -= 1
            if not left[0]:
                die()

    sys.addaudithook(look)
    main(words)


if __name__ == "__main__":
    if sys.argv[1] == "retain":
        retain(*sys.argv[2:])
    else:
        renames(*sys.argv[2:])
