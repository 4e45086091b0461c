"""Losses: what the prefix cache served of many requests, what was foretold of it, and what broken prefixes cost. Pure.

Money is summed in integers of nano-units, each currency for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from gateway.breaks import MENDS, REMEDIES
from gateway.clock import instant_text
from gateway.money import decimal_text
from gateway.outcome import Break, LedgerRow

_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)
# From this message on, places of one role count as one.
_DEEP: Final = 2
# Kinds of breaks that are told apart in one report; what comes beyond is summed in one line for each kind.
_MOST: Final = 1000


@dataclass(slots=True)
class Tally:
    """Requests of one group: `measured` are those whose host reported cached tokens, `foretold` those of them with a forecast."""

    requests: int = 0
    measured: int = 0
    prompt: int = 0
    hit: int = 0
    foretold: int = 0
    predicted: int = 0
    actual: int = 0

    def add(self, row: LedgerRow) -> None:
        self.requests += 1
        usage = row.usage
        # What several attempts used is in one sum, of which no single forecast spoke.
        if usage is None or usage.sources.cache_hit != "reported" or sum(each.billed != "none" for each in row.attempts) > 1:
            return
        self.measured += 1
        self.prompt += usage.prompt
        self.hit += usage.cache_hit
        name = f"{row.host}/{row.model}"
        option = next((one for one in row.plan.options if one.name == name), None) if row.plan else None
        if option is not None:
            self.foretold += 1
            self.predicted += option.hit
            self.actual += usage.cache_hit

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "measured": self.measured,
            "prompt_tokens": self.prompt,
            "cache_hit_tokens": self.hit,
            "hit_rate": round(self.hit / self.prompt, 4) if self.prompt else None,
            "predicted_hit_tokens": self.predicted,
            "actual_hit_tokens": self.actual,
        }


@dataclass(slots=True)
class Loss:
    """Breaks of one kind at one place. `nano` of one currency; `offset` is None where the places differ."""

    team: str
    key: str
    part: str
    offset: int | None
    within: int
    kind: str
    currency: str
    times: int = 0
    tokens: int = 0
    nano: int = 0

    def to_json(self, span: int) -> dict[str, Any]:
        """`span`: microseconds of the time that the report is about."""
        daily = self.nano * (_DAY // _MICROSECOND) // span
        return {
            "team": self.team,
            "key": self.key,
            "part": self.part,
            "offset": self.offset,
            "within": self.within,
            "kind": self.kind,
            "times": self.times,
            "tokens": self.tokens,
            "currency": self.currency,
            "lost": decimal_text(self.nano),
            "lost_per_day": decimal_text(daily),
            "nano": self.nano,
            "nano_per_day": daily,
            "remedy": REMEDIES.get(self.kind),
            "policy": MENDS.get(self.kind),
        }


@dataclass(slots=True)
class Losses:
    """A report while it is made: rows are added one by one, and none is kept."""

    _keys: dict[tuple[str, str], Tally] = field(default_factory=dict)
    _deployments: dict[tuple[str, str], Tally] = field(default_factory=dict)
    _found: dict[tuple[str, str, str, int | None, str, str], Loss] = field(default_factory=dict)

    def add(self, row: LedgerRow) -> None:
        self._keys.setdefault((row.team, row.key), Tally()).add(row)
        if row.usage is None:
            return
        self._deployments.setdefault((row.host, row.model), Tally()).add(row)
        if row.plan is not None and row.plan.broke is not None:
            self._lost(row, row.plan.broke)

    def _lost(self, row: LedgerRow, broke: Break) -> None:
        tokens, nano = _suffered(row, broke)
        if not tokens:
            return
        part, offset = _place(broke)
        if len(self._found) >= _MOST and (row.team, row.key, part, offset, broke.kind, row.currency) not in self._found:
            part, offset = "elsewhere", None
        name = row.team, row.key, part, offset, broke.kind, row.currency
        loss = self._found.get(name)
        if loss is None:
            loss = self._found[name] = Loss(row.team, row.key, part, offset, broke.within, broke.kind, row.currency)
        loss.within = max(loss.within, broke.within)
        loss.times += 1
        loss.tokens += tokens
        loss.nano += nano

    def to_json(self, start: datetime, end: datetime, worth: Callable[[int, str], int | None]) -> dict[str, Any]:
        """The report on [start, end). `worth` makes amounts comparable (nano, currency); what it does not know comes last."""
        span = max(1, (end - start) // _MICROSECOND)
        losses = sorted(self._found.values(), key=lambda loss: (-(worth(loss.nano, loss.currency) or 0), -loss.tokens, loss.part))
        return {
            "from": instant_text(start),
            "to": instant_text(end),
            "keys": [{"team": team, "key": key, **tally.to_json()} for (team, key), tally in sorted(self._keys.items())],
            "deployments": [
                {"host": host, "model": model, **tally.to_json()} for (host, model), tally in sorted(self._deployments.items())
            ],
            "breaks": [loss.to_json(span) for loss in losses],
        }


def _suffered(row: LedgerRow, broke: Break) -> tuple[int, int]:
    """Tokens that were computed anew for a break, and their price: never more than the host says it had to compute."""
    usage = row.usage
    if usage is None or usage.sources.cache_hit != "reported" or usage.cache_miss >= broke.tokens:
        return broke.tokens, broke.nano
    return usage.cache_miss, -(-broke.nano * usage.cache_miss // broke.tokens)


def _place(broke: Break) -> tuple[str, int | None]:
    """What is told apart: a shuffle parts anywhere, and conversations of one app break at every length."""
    if broke.kind == "tools_order":
        return broke.part, None
    index, _, role = broke.part.removeprefix("messages[").partition("]")
    if not index.isdigit() or int(index) < _DEEP:
        return broke.part, broke.offset
    return f"messages[{_DEEP}…]{role}", None
