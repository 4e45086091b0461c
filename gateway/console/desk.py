"""What the pages are made of: the views of the admin API, and nothing that it does not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.admin.budgets import BudgetDesk
from gateway.admin.keys import KeyDesk
from gateway.admin.policies import PolicyBook
from gateway.admin.today import Today
from gateway.ledger.port import Ledger
from gateway.policies import Policies


@dataclass(frozen=True, slots=True)
class Desk:
    """`hosts` and `readiness` as `build_admin` takes them; `port` is where requests are served."""

    book: PolicyBook
    hosts: Callable[[], list[dict[str, Any]]]
    readiness: Callable[[], tuple[int, dict[str, Any]]]
    keys: KeyDesk
    budgets: BudgetDesk
    today: Today
    port: int

    @property
    def policies(self) -> Policies:
        return self.book.current

    @property
    def ledger(self) -> Ledger:
        return self.budgets.ledger

    def now(self) -> datetime:
        return self.budgets.clock.now()
