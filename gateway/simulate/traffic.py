"""Traffic: the requests of a ledger as a simulation replays them, each route and version for itself, at the prices of their time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.outcome import LedgerRow
from gateway.simulate.report import amount, counted


@dataclass(frozen=True, slots=True)
class Part:
    """Requests that are replayed together, in the order of their start: those of one route that one version answered.

    `route` and `contract` are "" where they are of several. There is at least one row, and every row has usage.
    """

    route: str
    contract: str
    rows: tuple[LedgerRow, ...]

    @property
    def begin(self) -> datetime:
        """The start of the first request, in whole seconds."""
        return self.rows[0].started.replace(microsecond=0)

    @property
    def end(self) -> datetime:
        return max(row.started for row in self.rows)

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that served them."""
        return frozenset(row.host for row in self.rows)

    @property
    def charged(self) -> dict[str, int]:
        """What they cost in the ledger: nano by currency."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.currency] = found.get(row.currency, 0) + row.nano
        return dict(sorted(found.items()))

    def __str__(self) -> str:
        what = counted(len(self.rows), "request") + (f" of route {self.route}" if self.route else "")
        version = f", answered by {self.contract}" if self.contract else ""
        cost = " and ".join(f"{amount(nano)} {currency}" for currency, nano in self.charged.items())
        return f"{what}{version}: {cost} in the ledger"


def known(rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Those of which somebody knows how long they were, in the order of their start."""
    return sorted((row for row in rows if row.usage is not None), key=lambda row: row.started)


def by_route(rows: Sequence[LedgerRow]) -> list[Part]:
    """A part for each route and version, the one with the most requests first."""
    found: dict[tuple[str, str], list[LedgerRow]] = {}
    for row in rows:
        found.setdefault((row.route, row.contract), []).append(row)
    parts = [Part(route, contract, tuple(own)) for (route, contract), own in found.items()]
    return sorted(parts, key=lambda part: (-len(part.rows), part.route, part.contract))


def together(rows: Sequence[LedgerRow]) -> Part:
    """All of them as one part; its version is known where they are of one."""
    contracts, routes = {row.contract for row in rows}, {row.route for row in rows}
    return Part(routes.pop() if len(routes) == 1 else "", contracts.pop() if len(contracts) == 1 else "", tuple(rows))
