"""What a day should cost: the simulator over the same trace, prices and hosts, and the same router in it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from gateway.simulate.lookahead import LookAhead
from gateway.simulate.menus import Menu
from gateway.simulate.replay import Bill, Strategy, World, replay
from gateway.simulate.run import Options, simulate
from gateway.simulate.trace import Raw, Visit, fold

ROOT: Final = Path(__file__).resolve().parent.parent
OWN: Final = ROOT / "proofs" / "day_policies"
MENU: Final = OWN / "menu.yaml"
LOCAL_MENU: Final = OWN / "local.yaml"


@dataclass
class Told:
    """What the simulator says of the router in one replay: the bill, and by host its requests, prompt tokens and hits."""

    bill: Bill
    served: Counter[str] = field(default_factory=Counter)
    prompt: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)


class _Noted:
    """A strategy whose hits are noted by host."""

    def __init__(self, strategy: Strategy, hosts: Sequence[str]) -> None:
        self.name = strategy.name
        self._strategy, self._hosts = strategy, hosts
        self.served_by, self.prompt, self.hit = Counter[str](), Counter[str](), Counter[str]()

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        return self._strategy.order(visit, world)

    def served(self, visit: Visit, seller: int, hit: int) -> None:
        name = self._hosts[seller]
        self.served_by[name] += 1
        self.prompt[name] += visit.prompt
        self.hit[name] += hit
        self._strategy.served(visit, seller, hit)

    def failed(self, visit: Visit, seller: int) -> None:
        self._strategy.failed(visit, seller)


def foretold(raws: Sequence[Raw], menu: Menu, begin: datetime, seeds: Sequence[int]) -> list[Told]:
    """The router's bill for a trace, once for each seed of the hosts' luck."""
    trace, hosts = fold(menu.name, raws), [seller.name for seller in menu.sellers]
    found = []
    for seed in seeds:
        noted = _Noted(LookAhead(menu.sellers, begin), hosts)
        bill = replay(trace, menu.sellers, noted, seed=seed)
        found.append(Told(bill, noted.served_by, noted.prompt, noted.hit))
    return found


def others(raws: Sequence[Raw], menu: Menu, begin: datetime) -> list[Bill]:
    """The bills of other ways of choosing, as `faregate simulate` has them."""
    return [bill for bill in simulate(fold(menu.name, raws), menu, Options(begin)).bills if bill.name != LookAhead.name]


def policies_of_a_day(folder: Path) -> Path:
    """The shipped contracts and calendars, with hosts, prices and routes of the proof's own."""
    policies = folder / "policies"
    for part in ("contracts", "calendars"):
        shutil.copytree(ROOT / "policies" / part, policies / part)
    for part in ("hosts", "prices"):
        shutil.copytree(OWN / part, policies / part)
    shutil.copy(OWN / "routes.yaml", policies / "routes.yaml")
    return policies
