"""Ports: everything outside that one request needs on its way. Each is kept by one module of the stores or the edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.breaks import Breaks
from gateway.budget_view import BudgetView
from gateway.clock import Clock
from gateway.errors import BudgetExceeded
from gateway.experience import Experience
from gateway.foresight import Foresight
from gateway.health import Health
from gateway.ledger.port import Ledger
from gateway.outcome import Hold, Outcome
from gateway.policies import Policies
from gateway.prelude import Prelude
from gateway.recall.port import NoRecall
from gateway.replicas import Replicas
from gateway.shared.port import Limits
from gateway.upstream.accounts import Accounts
from gateway.upstream.port import Deadlines, Upstream


class Snapshot(Protocol):
    """Where the policies in force are found."""

    @property
    def current(self) -> Policies: ...


class Observer(Protocol):
    """Who learns of requests: metrics now."""

    def observe(self, outcome: Outcome) -> None: ...

    def stream_opened(self) -> None: ...

    def stream_closed(self) -> None: ...


class Denials(Protocol):
    """What the ledger has just refused, so that it need not be asked again."""

    def check(self, hold: Hold) -> BudgetExceeded | None: ...

    def note(self, hold: Hold, error: BudgetExceeded) -> None: ...

    def forget(self, team: str) -> None: ...


class Gone(Protocol):
    """The client's departure: calls back once, at once when it has already happened."""

    def then(self, callback: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """One for a process."""

    policies: Snapshot
    ledger: Ledger
    upstream: Upstream
    accounts: Callable[[Policies], Accounts]
    clock: Clock
    deadlines: Deadlines
    experience: Experience
    observer: Observer
    limits: Limits
    denials: Denials
    view: BudgetView
    health: Health = field(default_factory=Health)
    prelude: Prelude = field(default_factory=lambda: Prelude(NoRecall(), lambda team: ""))
    replicas: Replicas = field(default_factory=Replicas)
    foresight: Foresight | None = None
    breaks: Breaks = field(default_factory=Breaks)
