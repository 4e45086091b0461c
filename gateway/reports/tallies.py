"""Tallies: what a report asks a ledger, and what it is told: sums of requests that share their names, an hour at a time.

A request whose earlier attempts cost something at hosts of their own is split into one line for each attempt; its parts, tokens and
charge stay what they are in sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final, Literal, NamedTuple

from gateway.outcome import Attempt, LedgerRow
from gateway.reports.periods import Period, Slice
from gateway.usage import Usage

# What requests can be grouped by; "estimated" and "disputed" are "true" or "false".
Name = Literal["team", "key", "route", "host", "model", "card", "window", "estimated", "disputed"]
FILTERS: Final = ("team", "key", "route", "host", "model")
Three = tuple[int, int, int]
_NONE: Final[Three] = (0, 0, 0)


class Sums(NamedTuple):
    """Sums over requests: tokens, and nano-units of one currency. `seen` are the prompt tokens of which the host says what was cached,
    `seen_hit` those of them that were.

    What `nano` has beyond its parts was charged without anybody knowing the tokens: by estimate.
    """

    requests: int = 0
    nano: int = 0
    cache_hit: int = 0
    cache_miss: int = 0
    output: int = 0
    reasoning: int = 0
    cache_hit_nano: int = 0
    cache_miss_nano: int = 0
    output_nano: int = 0
    seen: int = 0
    seen_hit: int = 0

    @property
    def unsplit(self) -> int:
        return self.nano - self.cache_hit_nano - self.cache_miss_nano - self.output_nano


class Line(NamedTuple):
    """One attempt of a request that is split: where it went, by which prices, and what it used and cost."""

    host: str
    model: str
    card: str
    window: str
    estimated: bool
    sums: Sums


# Told of each group of an hour: its names in the order of the question, its currency, its sums. A group may come several times.
Take = Callable[[Slice, Sequence[str], str, Sums], None]


@dataclass(frozen=True, slots=True)
class Question:
    """Requests that ended in a period, grouped by names; `only` keeps those with these names."""

    period: Period
    names: tuple[Name, ...]
    only: Mapping[str, str] = field(default_factory=dict)

    def wanted(self, line: Line) -> bool:
        """Whether an attempt went where the question looks; the names of its request are another matter."""
        return line.host == self.only.get("host", line.host) and line.model == self.only.get("model", line.model)

    def names_of(self, row: LedgerRow, line: Line) -> tuple[str, ...]:
        known = {
            "team": row.team,
            "key": row.key,
            "route": row.route,
            "host": line.host,
            "model": line.model,
            "card": line.card,
            "window": line.window,
            "estimated": _truth(line.estimated),
            "disputed": _truth(row.disputed),
        }
        return tuple([known[name] for name in self.names])


def _truth(value: bool) -> str:
    return "true" if value else "false"


def lines_of(row: LedgerRow) -> Iterator[Line]:
    """One line for each attempt of a request. Sums over them are the row's; the request counts where its last attempt was."""
    costs = [attempt.nano for attempt in row.attempts[:-1]]
    costs.append(row.nano - sum(costs))
    tokens, parts = _known(row, costs) or _shared(row, costs)
    reasoning = _spread(0 if row.usage is None else row.usage.reasoning, [used[2] for used in tokens])
    seen = row.usage is not None and row.usage.sources.cache_hit != "unknown"
    for index, attempt in enumerate(row.attempts):
        used, split = tokens[index], parts[index]
        shown = (used[0] + used[1], used[0]) if seen else (0, 0)
        sums = Sums(int(index == len(costs) - 1), costs[index], *used, reasoning[index], *split, *shown)
        card, window = _priced(row, attempt)
        yield Line(attempt.host, attempt.model, card, window, attempt.billed == "possible" and costs[index] != 0, sums)


def _priced(row: LedgerRow, attempt: Attempt) -> tuple[str, str]:
    """The row's own card is that of its last host: another's is not known unless its line says so."""
    if attempt.card or (attempt.host, attempt.model) != (row.host, row.model):
        return attempt.card, attempt.window
    return row.card, row.window


def _known(row: LedgerRow, costs: Sequence[int]) -> tuple[list[Three], list[Three]] | None:
    """Tokens and parts as each line says them; None where a line does not, or they are not the row's in sum."""
    silent = [index for index, attempt in enumerate(row.attempts) if attempt.tokens is None or attempt.parts is None]
    if row.parts is not None and any(costs[index] for index in silent):
        return None
    tokens = [attempt.tokens or _NONE for attempt in row.attempts]
    parts = [attempt.parts or _NONE for attempt in row.attempts]
    if any(sum(split) != cost for index, (split, cost) in enumerate(zip(parts, costs, strict=True)) if index not in silent):
        return None
    usage, whole = row.usage or Usage(0, 0, 0), row.parts
    if row.usage is not None and _sum(tokens) != (usage.cache_hit, usage.cache_miss, usage.output):
        return None
    if whole is not None and _sum(parts) != (whole.cache_hit, whole.cache_miss, whole.output):
        return None
    return tokens, parts


def _sum(threes: Sequence[Three]) -> Three:
    hit, miss, output = zip(*threes, strict=True)
    return sum(hit), sum(miss), sum(output)


def _shared(row: LedgerRow, costs: Sequence[int]) -> tuple[list[Three], list[Three]]:
    """The row's parts and tokens spread over its lines by what each cost, for rows whose lines say no more."""
    if row.parts is None:
        return [_NONE] * len(costs), [_NONE] * len(costs)
    parts = shared_out((row.parts.cache_hit, row.parts.cache_miss, row.parts.output), costs)
    usage = row.usage or Usage(0, 0, 0)
    columns = [
        _in_proportion(number, [split[place] for split in parts])
        for place, number in enumerate((usage.cache_hit, usage.cache_miss, usage.output))
    ]
    tokens = [(hit, miss, output) for hit, miss, output in zip(*columns, strict=True)]
    return tokens, parts


def shared_out(parts: Three, costs: Sequence[int]) -> list[Three]:
    """Parts for each of several costs, as nearly in proportion as whole numbers are: each sums to its cost, together they are `parts`.

    The costs are not negative and sum to the sum of the parts.
    """
    left = list(parts)
    found: list[Three] = []
    for cost in costs:
        whole = sum(left)
        taken = [part * cost // whole if whole else 0 for part in left]
        for place in (2, 1, 0):
            # At most two nano are missing, and what is left has room for them.
            more = min(cost - sum(taken), left[place] - taken[place])
            taken[place] += more
        left = [part - some for part, some in zip(left, taken, strict=True)]
        found.append((taken[0], taken[1], taken[2]))
    return found


def _in_proportion(number: int, weights: Sequence[int]) -> list[int]:
    """A number spread by weights; what whole numbers leave over is the last one's that has any weight, else the last one's."""
    whole = sum(weights)
    found = [number * weight // whole if whole else 0 for weight in weights]
    place = max((index for index, weight in enumerate(weights) if weight), default=len(weights) - 1)
    found[place] += number - sum(found)
    return found


def _spread(number: int, room: Sequence[int]) -> list[int]:
    """A number put where there is room for it, the last first."""
    found = list(repeat(0, len(room)))
    for index in reversed(range(len(room))):
        found[index] = min(number, room[index])
        number -= found[index]
    return found
