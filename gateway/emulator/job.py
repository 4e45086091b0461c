"""One request at work, and the bill that it ends in: exactly one row, whoever ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

from gateway.clock import Clock
from gateway.emulator.book import NANO, Book, Counts, amount_text, bill_row
from gateway.emulator.output import Output
from gateway.emulator.reader import Row
from gateway.emulator.shapes import Closed


@dataclass
class Desk:
    """Where jobs of one emulator are booked."""

    book: Book
    clock: Clock
    currency: str
    rows: list[Row] = field(default_factory=list)
    spent: dict[str, int] = field(default_factory=dict)

    def add(self, account: str, row: Row) -> None:
        self.rows.append(row)
        self.spent[account] = self.spent.get(account, 0) + int(row["nano"] or 0)


class Job:
    """Counts what was produced; `close` books it once. `ahead`: tokens the host goes on to produce when nobody listens."""

    def __init__(
        self, desk: Desk, request: str, account: str, model: str, prompt: int, hit: int, outputs: list[Output], tag: str = ""
    ) -> None:
        self._desk = desk
        self._tag = tag
        self._request, self._account, self._model = request, account, model
        self._prompt, self._hit = prompt, hit
        self.planned = sum(output.tokens for output in outputs)
        self._planned_reasoning = sum(len(output.reasoning) for output in outputs)
        self._finish = outputs[0].finish
        self.started: datetime = desk.clock.now()
        self.output = 0
        self.reasoning = 0
        self.closed: Closed | None = None

    def produce(self, output: int, reasoning: int) -> None:
        self.output += output
        self.reasoning += reasoning

    def produce_rest(self) -> None:
        self.output, self.reasoning = self.planned, self._planned_reasoning

    def produce_until(self, tokens: int) -> None:
        """The first so many tokens of the plan; thinking comes first."""
        self.output = min(tokens, self.planned)
        self.reasoning = min(self.output, self._planned_reasoning)

    def close(self, outcome: str) -> Closed:
        """Books the row with the tokens produced so far; a second call changes nothing."""
        if self.closed is None:
            counts = Counts(self._hit, self._prompt - self._hit, self.output, self.reasoning)
            price, at = self._desk.book.price(self._model, self.started, self._desk.clock.now())
            cost = amount_text(price.exact(counts) / NANO) if price else amount_text(Fraction(0))
            self.closed = Closed(counts, cost)
            more = {"model": self._model, "account": self._account, "finish": self._finish, "planned": self.planned}
            more |= {"tag": self._tag} if self._tag else {}
            self._desk.add(self._account, bill_row(self._request, counts, price, self._desk.currency, at, outcome, **more))
        return self.closed
