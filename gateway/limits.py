"""The limit on output, translated from the meaning of the client's contract to what a deployment counts; and the context.

`answer`: thinking comes on top. `total`: thinking is inside. While a deployment does not think, both are the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from gateway.contracts import Contract, Counts
from gateway.edits import Edit, changed, dropped, renamed
from gateway.errors import ContextExceeded, InvalidRequest
from gateway.hosts import Deployment

# In the order in which they count when several are sent: the newer names always mean the total.
FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_ANY_FIELD = frozenset(FIELDS)
MARGIN = 64


class RouteRules(Protocol):
    """What a route says about limits."""

    @property
    def name(self) -> str: ...

    @property
    def out_of_range(self) -> Literal["clamp", "refuse"]: ...


@dataclass(frozen=True, slots=True)
class StopRule:
    """Faregate itself must end the stream after so many tokens: the host counts something else."""

    counts: Counts
    tokens: int


class Case(NamedTuple):
    """What a limit depends on: who asks under which rules, where it goes, whether that thinks, the estimate of the prompt.

    `cap` is the most that one answer may have in all, reasoning included, whatever was asked; None: no such cap.
    """

    route: RouteRules
    client: Contract
    target: Deployment
    thinking: bool
    prompt: int
    cap: int | None = None


class Limit(NamedTuple):
    """What is sent (None: nothing), what we stop at, and the most output, reasoning included, that the host can bill.

    `squeezed`: the host cannot write as much as was asked. `fits`: the estimate says that prompt and limit fit the context.
    """

    sent: int | None
    stop: StopRule | None
    most: int
    squeezed: bool
    fits: bool
    edits: tuple[Edit, ...]


class Asked(NamedTuple):
    """The limit in the client's meaning; `written` is its own number, None where its contract's default stands in.

    `firm`: what must fit the context beside the prompt. A default does not count, nor does the contract's own maximum: it means
    "as much as there is", and where it equals the context (R1-0528) it could never fit.
    """

    tokens: int
    counts: Counts
    field: str | None = None
    written: int | None = None
    firm: int = 0


def limit(body: Mapping[str, Any], case: Case, names: list[str]) -> Limit:
    """The limit of this request at this deployment; `names` are those that are given.

    Raises InvalidRequest for a number that no contract takes (or the route refuses), ContextExceeded where it certainly cannot fit.
    """
    target, thinking = case.target, case.thinking
    if not names and (case.cap is None or target.unlimited[thinking] <= case.cap) and _has_default(case):
        _check_context(case, 0)
        return _unlimited(case, target.unlimited[thinking])
    asked = _asked(body, names, case)
    if asked is None:
        most = target.billable(target.room(thinking), thinking)
        _check_context(case, 0)
        if case.cap is None or most <= case.cap:
            return _unlimited(case, most)
        asked = Asked(case.cap, "total")
    _check_context(case, asked.firm if case.cap is None else min(asked.firm, case.cap))
    sent, stop, squeezed = _capped(*_translated(asked, case), case)
    edits = tuple(_edits(names, asked, sent, target))
    return Limit(sent, stop, target.billable(sent, thinking), squeezed, case.prompt + sent <= target.context, edits)


def _capped(sent: int, stop: StopRule | None, squeezed: bool, case: Case) -> tuple[int, StopRule | None, bool]:
    """What `_translated` found, so that reasoning and answer together stay below the cap. A cap is no fault of the host's."""
    cap = case.cap
    if cap is None:
        return sent, stop, squeezed
    if not case.thinking or case.target.counts == "total":
        # A total at or below the answer's limit keeps the answer below it without us.
        kept = stop if stop is not None and stop.tokens < cap else None
        return min(sent, cap), kept, squeezed and sent < cap
    if case.target.billable(sent, True) <= cap:
        return sent, stop, squeezed
    total = cap if stop is None else min(cap, stop.tokens)
    return min(sent, cap), StopRule("total", total), squeezed and sent < cap


def given(body: Mapping[str, Any]) -> list[str]:
    """The names under which the request limits its output; null is no limit."""
    return [] if _ANY_FIELD.isdisjoint(body) else [field for field in FIELDS if body.get(field) is not None]


def _asked(body: Mapping[str, Any], names: list[str], case: Case) -> Asked | None:
    if not names:
        default = case.client.max_tokens.range(case.thinking)[0]
        return None if default is None else Asked(default, case.client.max_tokens.counts)
    field = names[0]
    for other in names[1:]:
        if body[other] != body[field]:
            raise InvalidRequest(f"{other} and {field} contradict each other: send one of them.", param=other)
    counts: Counts = case.client.max_tokens.counts if field == "max_tokens" else "total"
    number, top = body[field], case.client.max_tokens.top(counts, case.thinking)
    _check_range(field, number, top, case.route)
    return Asked(min(number, top), counts, field, number, firm=number if number < top else 0)


def _check_range(field: str, number: Any, top: int, route: RouteRules) -> None:
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or number < 1 or (number > top and route.out_of_range == "refuse"):
        raise InvalidRequest(f"Invalid {field} value, the valid range of {field} is [1, {top}]", param=field)


def _has_default(case: Case) -> bool:
    """Whether the deployment's own default is the client's: the same contract, at a host that counts as the contract says.

    A host whose row says how it counts has its own ways, and its own default.
    """
    served = case.target.contract
    return (served is case.client or served.contract == case.client.contract) and not case.target.own_counts


def _unlimited(case: Case, most: int) -> Limit:
    """Nothing is sent: the host's own default holds, which is the contract's or else unknown."""
    return Limit(None, None, most, squeezed=False, fits=case.prompt < case.target.context, edits=())


def _translated(asked: Asked, case: Case) -> tuple[int, StopRule | None, bool]:
    """(number to send, where we stop, squeezed)."""
    if not case.thinking or asked.counts == case.target.counts:
        sent = _sent(asked, asked.tokens, case)
        return sent, None, sent < asked.tokens
    if asked.counts == "answer":
        sent = _sent(asked, asked.tokens + case.client.max_tokens.reasoning_max, case)
        # A total at or below the limit keeps the answer below it without us, but thinking may leave nothing of it.
        squeezed = sent <= asked.tokens
        return sent, None if squeezed else StopRule("answer", asked.tokens), squeezed
    sent = _sent(asked, asked.tokens, case)
    beside = case.target.contract.max_tokens.reasoning_max
    enough = beside and sent + beside <= asked.tokens
    return sent, None if enough else StopRule("total", asked.tokens), bool(enough) and sent + beside < asked.tokens


def _sent(asked: Asked, want: int, case: Case) -> int:
    """`want` within the deployment's range. What is not firm gives way to a long prompt, with room for the estimate's error."""
    sent = min(want, case.target.room(case.thinking))
    if sent <= asked.firm:
        return sent
    left = case.target.context - case.prompt - case.prompt // 8 - MARGIN
    return max(asked.firm, 1, min(sent, left))


def _check_context(case: Case, requested: int) -> None:
    """Refuses what cannot fit even if the prompt is a quarter shorter than estimated."""
    context = case.target.context
    if case.prompt * 3 // 4 + requested > context:
        raise ContextExceeded(
            f"This model's maximum context length is {context} tokens. However, you requested {case.prompt + requested} tokens "
            f"({case.prompt} in the messages, {requested} in the completion). Please reduce the length of the messages or completion.",
            param="messages",
        )


def _edits(names: list[str], asked: Asked, sent: int, target: Deployment) -> list[Edit]:
    edits = []
    if sent != asked.written:
        edits.append(changed("max_tokens", "none" if asked.written is None else asked.written, sent))
    if asked.field is not None and asked.field != target.host.reads.max_tokens:
        edits.append(renamed(asked.field))
    edits.extend(dropped(field) for field in names if field not in (asked.field, target.host.reads.max_tokens))
    return edits


def write(body: dict[str, Any], limit: Limit, target: Deployment, names: list[str]) -> None:
    """Puts the limit into `body` (changed in place) under the name that the host reads, and removes its other names."""
    if not names and limit.sent is None:
        return
    name = target.host.reads.max_tokens
    for field in names:
        if field != name:
            del body[field]
    if limit.sent is not None:
        body[name] = limit.sent
