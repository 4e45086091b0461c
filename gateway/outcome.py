"""What became of one request: the ledger's row, and the one record from which metrics and routing learn.

Every request makes one of each: a msgspec record of 25 fields is made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from gateway.money import Parts
from gateway.usage import Usage

Status = Literal["ok", "stopped", "client_error", "denied", "rate_limited", "upstream_error", "timeout", "client_gone", "gateway_error"]
Billed = Literal["known", "possible", "none"]


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One dispatch to one host, and whether it was billed there.

    `tokens` (hit, miss, output) are what it used where it is one of several, `parts` what each of them cost, by which `card` and
    `window`; None and "": all that the row says, or nobody knows.
    """

    host: str
    model: str
    outcome: Status
    billed: Billed
    nano: int
    tokens: tuple[int, int, int] | None = None
    parts: tuple[int, int, int] | None = None
    card: str = ""
    window: str = ""


class Claim(Struct, frozen=True):
    """What a hold takes from one budget in one period; limit and cost are nano-units of the budget's `currency`.

    `key` is "" where the budget is the whole team's. `rate` is (numerator, denominator): nano of the budget's currency for one
    nano that is charged, at the instant of the hold; (1, 1) in the same currency. `finish`: a stream that runs may go beyond.
    """

    team: str
    budget: str
    key: str
    period: str
    currency: str
    limit: int
    resets_at: datetime | None
    rate: tuple[int, int] = (1, 1)
    finish: bool = False

    def cost(self, nano: int) -> int:
        """A charge in the budget's currency: exact, rounded up once."""
        numerator, denominator = self.rate
        return -(-nano * numerator // denominator)

    def affords(self, left: int) -> int:
        """The largest charge whose cost is at most `left` (never below 0)."""
        numerator, denominator = self.rate
        return max(0, left * denominator // numerator)


class BudgetState(Struct, frozen=True):
    """One budget in one period, as of a commit: nano-units of its currency.

    `peak_committed` is the most that spent + held has been; `overrun` the sum of what went beyond its hold.
    """

    team: str
    budget: str
    key: str
    period: str
    currency: str
    limit: int
    spent: int
    held: int
    peak_committed: int
    overrun: int
    resets_at: datetime | None

    @property
    def left(self) -> int:
        return max(0, self.limit - self.spent - self.held)


class Grant(Struct, frozen=True):
    """What a hold got: `nano` of the card's currency in all, and its budgets after it, in the order of its claims."""

    nano: int
    budgets: tuple[BudgetState, ...] = ()


class Idempotency(Struct, frozen=True):
    """What makes a request the same as an earlier one: digests of the team with its Idempotency-Key, and of the body."""

    key: str
    body: str


class Hold(Struct, frozen=True):
    """Money reserved for one request before it is dispatched: nano-units of the card's currency.

    `expected` is what the request will probably cost, `worst` the most that it can. `nano` is what is asked for, `least` what
    is of use: a store grants between the two, as far as every budget of `claims` reaches, or refuses. `attempts` are those before
    the one that it is for, with what they may have been billed: all amounts have that on top.
    """

    id: str
    team: str
    key: str
    route: str
    host: str
    model: str
    currency: str
    nano: int
    expected: int
    worst: int
    card: str
    policies: str
    started: datetime
    least: int = 0
    claims: tuple[Claim, ...] = ()
    idempotency: Idempotency | None = None
    attempts: tuple[Attempt, ...] = ()


class Option(Struct, frozen=True, omit_defaults=True):
    """One candidate as the plan saw it: nano-units of its card's currency; `score` is what it was ranked by, in the plan's currency.

    `hit` are the prompt tokens that were expected to be cached there, of `prompt`; `output` those of the answer.
    """

    name: str
    currency: str
    expected: int
    worst: int
    prompt: int
    hit: int
    output: int
    score: int | None = None
    later: int = 0
    why: str = ""


class Break(Struct, frozen=True, omit_defaults=True):
    """Where a prompt leaves the one before it in the same conversation: by place and size, never by text.

    `part` is "tools" or "messages[0] (system)", `offset` the byte in it, to within `within` bytes; `tokens` are those behind it that
    could have been cached, `nano` what they cost more for it.
    """

    part: str
    offset: int
    within: int
    kind: str
    tokens: int
    nano: int = 0


class PlanNote(Struct, frozen=True, omit_defaults=True):
    """Why a request went where it went: the candidates in the order of the plan, and what was passed over.

    `conversation` is a digest under a secret key, `turn` counts from 1.
    """

    options: tuple[Option, ...]
    passed_over: tuple[str, ...] = ()
    conversation: str = ""
    turn: int = 1
    mode: str = ""
    broke: Break | None = None


class LedgerRow(Struct, frozen=True):
    """One charge, as it is kept for ever. `usage` and `parts` are None only where certainly nothing was billed.

    `nano` is what we charge; `host_nano` is the host's own figure where it stated one (both are kept).
    """

    id: str
    team: str
    key: str
    route: str
    host: str
    model: str
    contract: str
    edits: tuple[str, ...]
    usage: Usage | None
    currency: str
    nano: int
    parts: Parts | None
    card: str
    window: str
    policies: str
    started: datetime
    ended: datetime
    status: Status
    stopped: str | None
    attempts: tuple[Attempt, ...]
    expected_nano: int
    worst_nano: int
    host_nano: int | None = None
    disputed: bool = False
    stream: bool = False
    plan: PlanNote | None = None


class Counted(Struct, frozen=True):
    """What a correction moved in one budget: nano-units of the budget's currency.

    `left_out` is what it could not give back, because the budget had spent less than that.
    """

    team: str
    budget: str
    key: str
    period: str
    currency: str
    nano: int
    left_out: int = 0


class Correction(Struct, frozen=True):
    """Money that a host billed otherwise than the ledger charged, appended and never changed: signed nano-units of `currency`.

    `id` is unique: the same correction again has no effect. `at` is the instant the money belongs to. Names that are not known are
    "", `cls` ("cache_hit", "cache_miss", "output") too; `request` is the one that it is about. `source` is the file or the host
    that says so. `counted` is what it moved in budgets: a store fills it in, whoever corrects leaves it out.
    """

    id: str
    at: datetime
    team: str
    key: str
    route: str
    host: str
    model: str
    currency: str
    nano: int
    cls: str
    reason: str
    source: str
    request: str | None = None
    counted: tuple[Counted, ...] = ()


class Baseline(Struct, frozen=True):
    """What the same tokens would have cost elsewhere (o1): nano-units of a currency."""

    name: str
    currency: str
    nano: int


class Spent(Struct, frozen=True):
    """What one of several attempts used and cost; in the row it is a part of the sums. None: certainly nothing was billed."""

    host: str
    model: str
    usage: Usage | None
    parts: Parts | None
    disputed: bool = False


class Outcome(Struct, frozen=True):
    """Everything that observers learn of one request, once, after it has been settled or refused.

    Times are seconds: `first_token` from arrival to the first content sent to the client (None: none was), `duration` the
    whole, `overhead` the part of it that the gateway itself spent. `row` is None when the request never reached a hold: then `id`,
    `key` and `stream` say whose it was. `spent` has every attempt where there were several; else the row says it all.
    """

    status: Status
    team: str
    route: str
    host: str
    model: str
    contract: str
    edits: tuple[str, ...]
    duration: float
    overhead: float
    first_token: float | None = None
    row: LedgerRow | None = None
    baselines: tuple[Baseline, ...] = ()
    cache_saved_nano: int = 0
    error: str | None = None
    spent: tuple[Spent, ...] = ()
    id: str = ""
    key: str = ""
    stream: bool = False
