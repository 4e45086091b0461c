"""Explain: why a request went where it went, what was expected of each candidate, and what the others would have cost.

The data of `faregate explain`, of the admin API and of a dry run; never a text of a prompt or an answer. Amounts are decimal texts in a
named currency, with their integers of nano-units beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from gateway.breaks import REMEDIES
from gateway.clock import instant_text
from gateway.errors import PriceUnknown
from gateway.ledger.port import Mark, Page, Trail
from gateway.losses import Losses
from gateway.money import cost, decimal_text
from gateway.outcome import Break, LedgerRow, Option, PlanNote
from gateway.policies import Policies
from gateway.request import ChatRequest
from gateway.router import Candidate, Plan

# Rows that are read at once: about a millisecond of the loop's time.
_PAGE: Final = 250
# The currency by which losses of several currencies are put in order.
_MEASURE: Final = "USD"


def dry_run(plan: Plan, request: ChatRequest) -> dict[str, Any]:
    """What would be done with this request: candidates in the order of the plan, the first of which would be sent it."""
    note = plan.note or PlanNote(())
    options = {option.name: option for option in note.options}
    return {
        "object": "faregate.dry_run",
        "id": request.id,
        "route": plan.route.name,
        **_plan_json(note),
        "passed_over": list(plan.passed_over),
        "candidates": [_candidate_json(one, options.get(one.deployment.name), request) for one in plan.attempts],
    }


def _candidate_json(one: Candidate, option: Option | None, request: ChatRequest) -> dict[str, Any]:
    name, card = one.deployment.name, one.card
    shown = option or Option(name, card.currency, one.expected, one.worst, one.prospect.prompt, one.prospect.hit, one.prospect.output)
    return {
        **option_json(shown),
        "contract": one.deployment.contract.contract,
        "card": card.name,
        "verified": card.verified,
        "max_output": one.sanitised.max_output,
        "edits": [*request.edits, *map(str, one.sanitised.edits)],
    }


def explained(row: LedgerRow, policies: Policies | None, trail: Trail | None = None) -> dict[str, Any]:
    """Why and for how much: the plan of a request beside what became of it.

    `policies` price what the others would have cost for this answer; without them that is null. What they are now may differ from
    what the row's digest names, but cards are only ever added.
    """
    note = row.plan or PlanNote(())
    return {
        **_plan_json(note),
        "passed_over": list(note.passed_over),
        "candidates": [compared(option, row, policies) for option in note.options],
        "predicted": _predicted(row),
        "broke": None if note.broke is None else broke_json(note.broke, row.currency),
        "hold": None if trail is None else _hold_json(trail),
        "entries": [] if trail is None else _entries_json(trail),
    }


class Pages(Protocol):
    """The rows of a ledger, page by page."""

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page: ...


async def cache_report(ledger: Pages, policies: Policies, start: datetime, end: datetime, team: str | None) -> dict[str, Any]:
    """What the prefix cache served of the requests (of one team) that ended in [start, end), and what broken prefixes cost."""
    losses = Losses()
    mark: Mark | None = None
    while True:
        rows, mark = await ledger.page(start, end, team, mark, _PAGE)
        for row in rows:
            losses.add(row)
        if mark is None:
            return losses.to_json(start, end, lambda nano, currency: policies.rates.convert(nano, currency, _MEASURE, end))


def why(row: LedgerRow) -> str:
    """What decided that this deployment served, in a few words."""
    options = row.plan.options if row.plan else ()
    name = f"{row.host}/{row.model}"
    served = next((option for option in options if option.name == name), None)
    if served is None:
        return "its plan is not known: the row was written by an older version, or by the ledger itself when its lease ran out"
    if row.route == name:
        return "it was asked for by name"
    if len(options) == 1:
        return "no other deployment could serve it"
    if len(row.attempts) > 1:
        return f"the first choice was {options[0].name}, which failed before its first byte" if options[0] is not served else served.why
    return served.why or _by_score(options, served, row.plan.mode if row.plan else "")


def _by_score(options: Sequence[Option], served: Option, mode: str) -> str:
    """The served one came first by the rule of the route; what that rule compared."""
    rivals = [option for option in options if option is not served and not option.why and option.score is not None]
    if mode != "cheapest" or served.score is None or not rivals:
        return {"cheapest": "no price of the others can be compared with its own", "fastest": "the fastest"}.get(mode, "first in its route")
    rival = min(rivals, key=lambda option: option.score or 0)
    return (
        f"cheapest in the end, with what is still to come of the conversation: {decimal_text(served.score)}, "
        f"at {rival.name} {decimal_text(rival.score or 0)}"
    )


def _plan_json(note: PlanNote) -> dict[str, Any]:
    return {"mode": note.mode or None, "conversation": note.conversation or None, "turn": note.turn if note.conversation else None}


def option_json(option: Option) -> dict[str, Any]:
    """One candidate as the plan saw it; `score` and `later` are what it was ranked by, in the plan's currency and in its own."""
    host, _, model = option.name.partition("/")
    return {
        "name": option.name,
        "host": host,
        "model": model,
        "currency": option.currency,
        "expected": decimal_text(option.expected),
        "worst": decimal_text(option.worst),
        "nano": {"expected": option.expected, "worst": option.worst, "score": option.score, "later": option.later},
        "predicted": {"prompt": option.prompt, "cache_hit": option.hit, "output": option.output},
        "why": option.why or None,
    }


def compared(option: Option, row: LedgerRow, policies: Policies | None) -> dict[str, Any]:
    """A candidate, whether it served, and what this very answer cost or would have cost there.

    The prompt and the output are those that were used, priced by that deployment's own card at the instants of this request; as much
    of the prompt is taken to be cached as the plan expected there. `difference` is in the currency of the row.
    """
    served = option.name == f"{row.host}/{row.model}"
    nano, currency = (row.nano, row.currency) if served else (_elsewhere(option, row, policies), option.currency)
    more = None
    if nano is not None and policies is not None:
        converted = policies.rates.convert(nano, currency, row.currency, row.started)
        more = None if converted is None else converted - row.nano
    return {
        **option_json(option),
        "served": served,
        "would_have_cost": None if nano is None else decimal_text(nano),
        "difference": None if more is None else decimal_text(more),
    }


def _elsewhere(option: Option, row: LedgerRow, policies: Policies | None) -> int | None:
    usage = row.usage
    if usage is None or policies is None:
        return None
    host, _, model = option.name.partition("/")
    try:
        _, band, _ = policies.prices.settled(host, model, option.currency, row.started, row.ended)
    except PriceUnknown:
        return None
    hit = min(usage.prompt, option.hit * usage.prompt // option.prompt) if option.prompt else 0
    return cost(band.rates, hit, usage.prompt - hit, usage.output)


def predicted(row: LedgerRow) -> Option | None:
    """What the plan expected of the deployment that served."""
    name = f"{row.host}/{row.model}"
    return next((option for option in row.plan.options if option.name == name), None) if row.plan else None


def _predicted(row: LedgerRow) -> dict[str, Any] | None:
    option = predicted(row)
    if option is None:
        return None
    return {
        "prompt": option.prompt,
        "cache_hit": option.hit,
        "output": option.output,
        "expected": decimal_text(option.expected),
        "currency": option.currency,
    }


def broke_json(found: Break, currency: str) -> dict[str, Any]:
    """A break with its price and what may be done about it."""
    return {
        "part": found.part,
        "offset": found.offset,
        "within": found.within,
        "kind": found.kind,
        "tokens": found.tokens,
        "lost": decimal_text(found.nano),
        "nano": found.nano,
        "currency": currency,
        "remedy": REMEDIES.get(found.kind),
    }


def _hold_json(trail: Trail) -> dict[str, Any]:
    return {
        "state": trail.state,
        "currency": trail.currency,
        "amount": decimal_text(trail.nano),
        "budgets": [
            {"team": one.team, "budget": one.budget, "key": one.key or None, "currency": one.currency, "held": decimal_text(one.nano)}
            for one in trail.held
        ],
    }


def _entries_json(trail: Trail) -> list[dict[str, Any]]:
    return [{"kind": one.kind, "amount": decimal_text(one.nano), "source": one.source, "at": instant_text(one.at)} for one in trail.entries]
