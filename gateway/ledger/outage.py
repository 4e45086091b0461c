"""Whether the store answers, and what may be spent while it does not (FAREGATE_LEDGER_DOWN). No I/O."""

from __future__ import annotations

from collections import defaultdict

from gateway.money import exact_nano
from gateway.outcome import Hold


class Outage:
    """`closed` lets nothing through; `open:AMOUNT` lets each team spend that much of each currency, in one process and outage.

    What was let through counts with its worst case until it has ended, and then with its charge.
    """

    def __init__(self, ledger_down: str = "closed") -> None:
        word, _, amount = ledger_down.partition(":")
        self.open = word == "open"
        self.down = False
        self._allowance = exact_nano(amount) if self.open else 0
        self._spent: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._let: dict[str, Hold] = {}

    def admits(self, hold: Hold) -> bool:
        """Let a request through, or change what it was let through with, where the allowance has room for its worst case."""
        before = self._let.get(hold.id)
        if before is not None:
            self._spent[_purse(before)] -= before.worst
        if self.open and self._spent[_purse(hold)] + hold.worst <= self._allowance:
            self._let[hold.id] = hold
            self._spent[_purse(hold)] += hold.worst
            return True
        if before is not None:
            self._spent[_purse(before)] += before.worst
        return False

    def ended(self, id: str, nano: int | None) -> None:
        """A request has ended with a charge; None: it is lost, and its worst case stays spent."""
        hold = self._let.pop(id, None)
        if hold is not None and nano is not None:
            self._spent[_purse(hold)] += nano - hold.worst

    def failed(self) -> None:
        self.down = True

    def answered(self, *, all_told: bool) -> None:
        """The store works. The outage is over once it knows everything (`all_told`): then the allowance is whole again."""
        self.down = False
        if all_told and self._spent:
            self._spent.clear()
            self._let.clear()


def _purse(hold: Hold) -> tuple[str, str]:
    return hold.team, hold.currency
