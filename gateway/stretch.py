"""Stretch: the hold of a running answer grows before its cost reaches it; where no budget has more, the answer ends well.

What an answer costs by now is what its charge would be if it ended now, at the dearest rates that it can be charged at. What is
passed on never costs more than what is held. A charge can exceed its hold, as a recorded overrun, by

- the rest of the one chunk in which the money ends, where a host sends several tokens a chunk;
- a prompt whose tokens we count too low, where the host reports them with its last words only;
- everything, where a budget lets a running stream finish, and where the ledger is away: see below.

What the host goes on to write until it sees that we have left is not ours to count: it is on its bill only.

While the ledger is away, an answer first uses up what it holds; then it goes on, at most to its worst case, for its charge is
kept until the ledger is back. Then it asks at once, and ends where the budget has no room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, NamedTuple

from msgspec.structs import replace

from gateway.allowance import ENDLESS, Purse, Tokenizer
from gateway.errors import BudgetExceeded, FaregateError, LedgerUnavailable
from gateway.ledger.port import HoldError, Ledger
from gateway.meter import Meter
from gateway.money import MILLION, Rates, decimal_text, exact_nano
from gateway.outcome import BudgetState, Grant, Hold
from gateway.tokens import warm

log = logging.getLogger(__name__)
# Tokens that a stretch adds at least, and the part of what was written so far (1 of so many) that it would rather add.
STEP: Final = 32
GROWTH: Final = 2
# More is asked for when this part of what is left (1 of so many) remains.
EARLY: Final = 4
# Tokens that an answer goes on for without the ledger, until it asks again.
FREE: Final = 256

Prompt = Callable[[], tuple[int, int]]
"""Cached and other prompt tokens, as a charge would count them now."""


class Patience(NamedTuple):
    """Seconds: for one question to the ledger; between two questions while it is away; until an answer that has used up what it
    holds goes on without."""

    ask: float = 10.0
    again: float = 0.5
    grace: float = 5.0


PATIENT: Final = Patience()


class Stretch:
    """The hold of one request on its way: what it has, what its budgets have left, and how it gets more."""

    def __init__(
        self,
        ledger: Ledger,
        hold: Hold,
        grant: Grant,
        rates: Rates,
        learn: Callable[[Iterable[BudgetState]], None],
        patience: Patience = PATIENT,
        paid: int = 0,
    ) -> None:
        """`paid`: what of the hold is not for this answer, because an earlier attempt may have been billed it."""
        self._ledger = ledger
        self._hold = replace(hold, nano=grant.nano)
        self._rates = rates
        self._learn = learn
        self._patience = patience
        self._paid = paid
        self.budgets = grant.budgets
        """The budgets as of the last grant."""
        self._purse: Purse | None = None
        # The prompt's cost in nano-units times a million, like the rates: rounded once, with the output.
        self._prompt_cost = 0
        self._count_prompt: Prompt = lambda: (0, 0)
        self._lost = False
        # Since when the ledger has been away, and until when it is not asked again; 0: it answers.
        self._away_since = self._quiet_until = 0.0

    @property
    def whole(self) -> bool:
        """Whether the worst case is held, so that nothing need be asked for any more."""
        return self._hold.nano >= self._hold.worst

    def fix(self) -> None:
        """What is held is all that the answer can cost: what is sent to the host sees to that."""
        self._hold = replace(self._hold, worst=self._hold.nano)

    def affords(self, prompt: int) -> int:
        """Output tokens that the hold pays for beside a prompt of so many tokens, none of them cached."""
        self._prompt_cost = prompt * self._rates.cache_miss
        return self._tokens(self._hold.nano)

    def purse(self, meter: Meter, tokenizer: Tokenizer, prompt_bound: int, count_prompt: Prompt) -> Purse | None:
        """What limits the answer; None where the worst case is held. Until its prompt is counted, `prompt_bound` stands for it."""
        if self.whole:
            return None
        self._count_prompt = count_prompt
        self._purse = purse = Purse(meter, tokenizer)
        purse.limit = self.affords(prompt_bound)
        purse.mark = self._early(purse)
        return purse

    async def more(self) -> None:
        """Get what the answer needs next: first what it takes to count exactly, then money. Whoever asks looks again afterwards."""
        purse = self._purse
        if purse is None:
            return
        if purse.ready:
            await self._ask(purse)
            return
        await asyncio.to_thread(self._prepare)
        purse.ready = True
        self._reckon(purse)
        purse.mark = self._early(purse)

    # ---- asking

    async def _ask(self, purse: Purse) -> None:
        """One question, and more of them only where the ledger is away and the answer cannot go on without."""
        if monotonic() < self._quiet_until:
            self._go_on(purse)
            return
        self._reckon(purse)
        while not await self._answered(purse):
            if purse.limit > purse.used or monotonic() - self._away_since >= self._patience.grace:
                self._quiet_until = monotonic() + self._patience.again
                self._go_on(purse)
                return
            await asyncio.sleep(self._patience.again)
        self._away_since = self._quiet_until = 0.0

    async def _answered(self, purse: Purse) -> bool:
        """Ask once; False: the ledger is away."""
        if self._lost:
            self._refused(purse)
            return True
        try:
            async with asyncio.timeout(self._patience.ask):
                grant = await self._ledger.extend(self._wish(purse))
        except BudgetExceeded:
            self._refused(purse)
        except (LedgerUnavailable, TimeoutError):
            self._away_since = self._away_since or monotonic()
            return False
        except HoldError:
            # Its lease ended while we could not renew it: it was charged as it was, and nothing can be added to it.
            log.warning("request %s: its hold has ended, the answer ends with what was held", self._hold.id)
            self._lost = True
            self._refused(purse)
        else:
            self._granted(purse, grant)
        return True

    def _wish(self, purse: Purse) -> Hold:
        """The hold as it should be: for half as much output more as there is by now, and at least for a step."""
        hold, base = self._hold, max(purse.limit, purse.used)
        least = min(hold.worst, max(hold.nano, self._cost(base + STEP)))
        return replace(hold, least=least, nano=max(least, min(hold.worst, self._cost(base + purse.used // GROWTH))))

    def _granted(self, purse: Purse, grant: Grant) -> None:
        self._hold = replace(self._hold, nano=grant.nano)
        # One that was let through without the ledger says nothing of them.
        self.budgets = grant.budgets or self.budgets
        self._learn(grant.budgets)
        purse.limit = ENDLESS if self.whole else self._tokens(grant.nano)
        purse.mark = self._early(purse)

    def _refused(self, purse: Purse) -> None:
        """Use up what is held. Others may give money back meanwhile, so it is asked again, each time when half of the rest is used."""
        left = purse.limit - purse.used
        purse.final = left <= 0
        purse.mark = purse.limit - left // 2

    def _go_on(self, purse: Purse) -> None:
        """The ledger does not answer: what is held is used up, then the answer goes on without."""
        left = purse.limit - purse.used
        if left > 0:
            purse.mark = purse.limit - left // 2
            return
        purse.limit = purse.mark = max(purse.limit, min(purse.used + FREE, self._tokens(self._hold.worst)))
        purse.final = purse.limit <= purse.used

    # ---- what it costs

    def _prepare(self) -> None:
        """What takes a while: the vocabulary, and the prompt's tokens. Run it in a thread."""
        warm()
        self._count_prompt()

    def _reckon(self, purse: Purse) -> None:
        """What the hold pays for, by what is known of the prompt now."""
        hit, miss = self._count_prompt()
        self._prompt_cost = hit * self._rates.cache_hit + miss * self._rates.cache_miss
        purse.limit = self._tokens(self._hold.nano)

    @staticmethod
    def _early(purse: Purse) -> int:
        return purse.limit - max(0, purse.limit - purse.used) // EARLY

    def _cost(self, output: int) -> int:
        return self._paid - (-(self._prompt_cost + output * self._rates.output) // MILLION)

    def _tokens(self, nano: int) -> int:
        """The most output tokens that cost no more than this, with the prompt."""
        left = (nano - self._paid) * MILLION - self._prompt_cost
        return max(0, left // self._rates.output) if self._rates.output else ENDLESS


def left_text(error: FaregateError) -> str:
    """What is left of the budget that refused, as `x-faregate-budget-left` shows it; "" where none did."""
    found = error.details if isinstance(error, BudgetExceeded) and error.details else {}
    if not {"budget", "currency", "limit", "spent", "held"} <= found.keys():
        return ""
    left = exact_nano(found["limit"]) - exact_nano(found["spent"]) - exact_nano(found["held"])
    return f"{found['budget']}={decimal_text(max(0, left))} {found['currency']}"
