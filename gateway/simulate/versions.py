"""Versions: how much longer the answers of another model version are, by what its contract says of a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from gateway.contracts import Contract
from gateway.outcome import LedgerRow


class Longer(NamedTuple):
    """Answers of `then` beside those of `now`: output tokens a question, reasoning included."""

    now: str
    then: str
    tokens_now: int
    tokens_then: int

    @property
    def ratio(self) -> Fraction:
        return Fraction(self.tokens_then, self.tokens_now)

    def tokens(self, output: int) -> int:
        """So many output tokens, as the other version would need them; rounded up."""
        return -(-output * self.tokens_then // self.tokens_now)

    def __str__(self) -> str:
        times = (Decimal(self.tokens_then) / self.tokens_now).quantize(Decimal("0.01"))
        tokens = f"{self.tokens_then:,} tokens a question, not {self.tokens_now:,}"
        return f"answers of {self.then}, {times} times as long as {self.now}'s ({tokens})"


def longer(contracts: Mapping[str, Contract], now: str, then: str) -> Longer:
    """How answers change from one version to another; ValueError, with the versions of which it is known, where it is not."""
    for name in (now, then):
        if name not in contracts:
            raise ValueError(f"there is no contract {name!r}. {_known(contracts)}")
    before, after = contracts[now].baseline_output, contracts[then].baseline_output
    if not before or not after:
        missing = now if not before else then
        raise ValueError(f"nobody says how long the answers of {missing} are (`baseline_output` of its contract). {_known(contracts)}")
    return Longer(now, then, before, after)


def _known(contracts: Mapping[str, Contract]) -> str:
    names = sorted(name for name, contract in contracts.items() if contract.baseline_output)
    return f"It is known of {', '.join(names)}." if names else "It is known of none."


@dataclass(slots=True)
class Traffic:
    """Charged requests in one currency: what they cost, and what they would cost with another version's answers, in nano.

    `unchanged` are those of versions of which nobody says how long their answers are: they are counted as they were.
    """

    currency: str
    requests: int = 0
    unchanged: int = 0
    output: int = 0
    output_then: int = 0
    nano: int = 0
    nano_then: int = 0


def traffic(rows: Iterable[LedgerRow], contracts: Mapping[str, Contract], then: str) -> list[Traffic]:
    """The charges of a ledger under another version, at the same prices, prompts as they were; by currency."""
    found: dict[str, Traffic] = {}
    changes: dict[str, Longer | None] = {}
    for row in rows:
        if row.usage is None or row.parts is None:
            continue
        if row.contract not in changes:
            try:
                changes[row.contract] = longer(contracts, row.contract, then)
            except ValueError:
                changes[row.contract] = None
        _add(found.setdefault(row.currency, Traffic(row.currency)), row, changes[row.contract])
    return [found[currency] for currency in sorted(found)]


def _add(whole: Traffic, row: LedgerRow, change: Longer | None) -> None:
    assert row.usage is not None and row.parts is not None
    whole.requests += 1
    whole.output += row.usage.output
    whole.nano += row.nano
    if change is None:
        whole.unchanged += 1
        whole.output_then += row.usage.output
        whole.nano_then += row.nano
    else:
        whole.output_then += change.tokens(row.usage.output)
        whole.nano_then += row.nano - row.parts.output + change.tokens(row.parts.output)
