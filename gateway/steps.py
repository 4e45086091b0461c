"""Steps: what changes for a team's requests as a budget fills up. Pure: what is spent is handed in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from gateway.outcome import BudgetState
from gateway.teams import StepRow, admits


class Use(NamedTuple):
    """How much of one budget is spent or held, in whole per cent, rounded down: 80 means that 80 % is reached."""

    percent: int
    state: BudgetState


class Step(NamedTuple):
    """What every step that is reached asks of a plan, the highest first; the default asks nothing.

    `use` is the budget that reached it, so that a refusal can say why.
    """

    at: int = 0
    use: Use | None = None
    prefer: Literal["cheapest", "fastest"] | None = None
    max_output: int | None = None
    only: tuple[str, ...] | None = None

    def admits(self, host: str, model: str) -> bool:
        """Whether `only` leaves this deployment."""
        return admits(self.only, host, model)


NO_STEP: Final = Step()


def used(state: BudgetState) -> Use:
    """The use of a budget; one that may spend nothing is used up."""
    return Use((state.spent + state.held) * 100 // state.limit if state.limit > 0 else 100, state)


def reached(steps: Iterable[StepRow], uses: Iterable[Use]) -> Step:
    """Every step up to the fullest budget, merged: what a higher one leaves out, the one below it decides."""
    fullest = max(uses, key=lambda use: use.percent, default=None)
    if fullest is None:
        return NO_STEP
    step = NO_STEP
    for row in sorted(steps, key=lambda row: row.at):
        if row.at <= fullest.percent:
            step = _over(step, row, fullest)
    return step


def _over(lower: Step, row: StepRow, use: Use) -> Step:
    return Step(
        at=row.at,
        use=use,
        prefer=row.prefer or lower.prefer,
        max_output=row.max_output or lower.max_output,
        only=lower.only if row.only is None else row.only,
    )
