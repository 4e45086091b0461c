"""Report: the bills of a simulation as a table, as sentences and as JSON. Money is exact in JSON, rounded in the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from gateway.money import NANO, decimal_text
from gateway.simulate.lookahead import LOOK_AHEAD
from gateway.simulate.replay import Bill

ONLY = "only "


@dataclass(frozen=True, slots=True)
class Report:
    """All bills of one trace against one menu; `hosts` in the order of the menu, `seconds` the trace's span.

    `begins`: the instant whose prices hold at its begin, `longer`: whose answers it has in place of its own; "" where neither matters.
    """

    trace: str
    menu: str
    currency: str
    hosts: tuple[str, ...]
    sessions: int
    seconds: float
    bills: tuple[Bill, ...]
    begins: str = ""
    longer: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """A short name for each host: without the model, where that leaves no doubt."""
        short = [host.partition("/")[0] for host in self.hosts]
        return {host: name if short.count(name) == 1 else host for host, name in zip(self.hosts, short, strict=True)}

    def label(self, bill: Bill) -> str:
        """The name of a strategy as people read it."""
        return ONLY + self.labels[bill.name.removeprefix(ONLY)] if bill.name.startswith(ONLY) else bill.name

    def bill(self, name: str) -> Bill:
        return next(bill for bill in self.bills if bill.name == name)

    @property
    def best_single(self) -> Bill:
        """The cheapest host for the whole of the trace, of those that left the fewest requests without an answer."""
        return min((bill for bill in self.bills if bill.name.startswith(ONLY)), key=lambda bill: (bill.unserved, bill.nano))

    def kept(self) -> Decimal | None:
        """The part of hindsight's savings over list price that looking ahead keeps; None where there are none."""
        listed, ahead, best = (self.bill(name).nano for name in ("list price", LOOK_AHEAD, "hindsight"))
        return Decimal(listed - ahead) / Decimal(listed - best) if listed > best else None

    def to_json(self) -> dict[str, Any]:
        kept, some = self.kept(), self.bills[0]
        return {
            "trace": self.trace,
            "menu": self.menu,
            "longer": self.longer,
            "currency": self.currency,
            "begins": self.begins,
            "requests": some.requests + some.unserved,
            "sessions": self.sessions,
            "seconds": round(self.seconds, 3),
            "strategies": [self._json(bill) for bill in self.bills],
            "best_host": self.best_single.name.removeprefix(ONLY),
            "savings_kept": None if kept is None else str(round(kept, 4)),
        }

    def _json(self, bill: Bill) -> dict[str, Any]:
        return {
            "strategy": bill.name,
            "nano": bill.nano,
            "total": decimal_text(bill.nano),
            "input": decimal_text(bill.input_nano),
            "output": decimal_text(bill.output_nano),
            "prompt_tokens": bill.prompt,
            "hit_tokens": bill.hit,
            "output_tokens": bill.output,
            "hit_rate": _share(bill.hit, bill.prompt),
            "switches": bill.switches,
            "failed_attempts": bill.retries,
            "unserved": bill.unserved,
            "share": {host: _share(served, bill.requests) for host, served in zip(self.hosts, bill.served, strict=True)},
            "ratio": _share(bill.nano, self._least),
        }

    @property
    def _least(self) -> int:
        return min(bill.nano for bill in self.bills)

    def text(self) -> str:
        return "\n".join([self.headline(), "", *self._table(), "", *self.sentences()])

    def headline(self) -> str:
        """What was replayed, against what."""
        some = self.bills[0]
        begins = f", from {self.begins} on" if self.begins else ""
        stretched = f"; {self.longer}" if self.longer else ""
        served = f"{counted(some.requests + some.unserved, 'request')} in {counted(self.sessions, 'conversation')}"
        return f"{self.trace}: {served}, {span(self.seconds)}{begins}; hosts of {self.menu}, in {self.currency}{stretched}"

    def _table(self) -> Iterator[str]:
        failing = any(bill.retries or bill.unserved for bill in self.bills)
        faults = ["failed", "unserved"] if failing else []
        rows = [["strategy", "total", "input", "output", "hits", "switches", *faults, "ratio", *self.labels.values()]]
        rows += [self._cells(bill, failing) for bill in self.bills]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            yield "  ".join([row[0].ljust(widths[0]), *numbers]).rstrip()

    def _cells(self, bill: Bill, failing: bool) -> list[str]:
        money = [amount(nano) for nano in (bill.nano, bill.input_nano, bill.output_nano)]
        faults = [f"{bill.retries:,}", f"{bill.unserved:,}"] if failing else []
        shares = [_percent(served, bill.requests) for served in bill.served]
        ratio = f"{Decimal(bill.nano) / self._least:.3f}" if self._least else "-"
        return [self.label(bill), *money, _percent(bill.hit, bill.prompt), f"{bill.switches:,}", *faults, ratio, *shares]

    def sentences(self) -> Iterator[str]:
        """What the table says, for people who do not read tables."""
        ahead, listed, best = self.bill(LOOK_AHEAD), self.bill("list price"), self.best_single
        yield against(ahead.nano, listed.nano, self.currency, "by list price")
        yield against(ahead.nano, best.nano, self.currency, f"at {self.label(best).removeprefix(ONLY)} alone, the best single host")
        kept = self.kept()
        if kept is not None:
            whole = amount(listed.nano - self.bill("hindsight").nano)
            yield f"The best host of each conversation, known only afterwards, would save {whole} {self.currency} against list price."
            yield f"Looking ahead keeps {kept:.1%} of that."


def against(nano: int, other: int, currency: str, how: str) -> str:
    """One sentence: what looking ahead costs, and what it saves against another bill."""
    if nano == other:
        return f"Looking ahead costs {amount(nano)} {currency}, as much as {how}."
    part = f" ({abs(Decimal(other - nano)) / other:.1%})" if other else ""
    difference = amount(abs(other - nano))
    end = f"{difference} {currency}{part} saved" if nano <= other else f"{difference} {currency}{part} more"
    return f"Looking ahead costs {amount(nano)} {currency} instead of {amount(other)} {how}: {end}."


def counted(number: int, what: str) -> str:
    """A number of things for people: 1 request, 12,031 requests."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def amount(nano: int) -> str:
    """Money for people: two places, more where there is less than a unit."""
    whole = Decimal(nano) / NANO
    places = "0.01" if whole >= 1 or not whole else "0.0001" if whole >= Decimal("0.01") else "0.000001"
    return f"{whole.quantize(Decimal(places), ROUND_HALF_UP):,}"


def span(seconds: float) -> str:
    """A stretch of time for people: 58 min, 23.9 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def _share(part: int, whole: int) -> str | None:
    return str(round(Decimal(part) / whole, 4)) if whole else None


def _percent(part: int, whole: int) -> str:
    return f"{Decimal(part) / whole:.1%}" if whole else "-"
