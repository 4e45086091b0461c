"""Condition: how the ledger of one process is, for gauges and those who ask whether all is well."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Condition(NamedTuple):
    """Read at one instant, in any thread. `up`: whether the store answered the last time that it was asked.

    `waiting`: records in the spool; `given_up`: those that neither the store nor the spool would take, since the start; `expired`: holds
    that this process found overdue; `open_holds`: of requests under way here, the first of them since `oldest`; `lease` and
    `lease_age` are seconds: how long a lease is, and since when those of this process were last renewed.
    """

    up: bool
    waiting: int
    given_up: int
    expired: int
    open_holds: int
    oldest: datetime | None
    lease: float
    lease_age: float
