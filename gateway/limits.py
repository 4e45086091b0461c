"""The limit on output, translated from the meaning of the client's contract to what a deployment counts; and the context.

`answer`: thinking comes on top. `total`: thinking is inside. While a deployment does not think, both are the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.contracts import Contract, Counts, MaxTokens
from gateway.edits import Edit, changed, dropped, renamed
from gateway.errors import ContextExceeded, InvalidRequest
from gateway.hosts import Deployment

# In the order in which they count when several are sent: the newer names always mean the total.
FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


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


@dataclass(frozen=True, slots=True)
class Case:
    """What a limit depends on: who asks under which rules, where it goes, whether that thinks, the estimate of the prompt."""

    route: RouteRules
    client: Contract
    target: Deployment
    thinking: bool
    prompt: int


@dataclass(frozen=True, slots=True)
class Limit:
    """What is sent (None: nothing), what we stop at, and the most output, reasoning included, that the host can bill.

    `squeezed`: the host cannot write as much as was asked. `fits`: the estimate says that prompt and limit fit the context.
    """

    sent: int | None
    stop: StopRule | None
    most: int
    squeezed: bool
    fits: bool
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The limit in the client's meaning; `written` is its own number, None where its contract's default stands in."""

    tokens: int
    counts: Counts
    field: str | None = None
    written: int | None = None


def limit(body: Mapping[str, Any], case: Case) -> Limit:
    """The limit of this request at this deployment.

    Raises InvalidRequest for a number that no contract takes (or the route refuses), ContextExceeded where it certainly cannot fit.
    """
    asked = _asked(body, case)
    _check_context(case, asked.tokens if asked and asked.written is not None else 0)
    if asked is None or (asked.written is None and _has_default(case)):
        return _unlimited(case, asked)
    sent, stop, squeezed = _translated(asked, case)
    edits = tuple(_edits(body, asked, sent, case.target))
    return Limit(sent, stop, _most(sent, case), squeezed, case.prompt + sent <= case.target.context, edits)


def _asked(body: Mapping[str, Any], case: Case) -> Asked | None:
    given = [field for field in FIELDS if body.get(field) is not None]
    if not given:
        default = _range(case.client.max_tokens, case.thinking)[0]
        return None if default is None else Asked(default, case.client.max_tokens.counts)
    field = given[0]
    for other in given[1:]:
        if body[other] != body[field]:
            raise InvalidRequest(f"{other} and {field} contradict each other: send one of them.", param=other)
    counts: Counts = case.client.max_tokens.counts if field == "max_tokens" else "total"
    return Asked(_in_range(field, body[field], counts, case), counts, field, body[field])


def _in_range(field: str, number: Any, counts: Counts, case: Case) -> int:
    top = _top(case.client.max_tokens, counts, case.thinking)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or (number > top and case.route.out_of_range == "refuse"):
        raise InvalidRequest(f"Invalid {field} value, the valid range of {field} is [1, {top}]", param=field)
    return min(number, top)


def _range(rules: MaxTokens, thinking: bool) -> tuple[int | None, int]:
    """Default and maximum of max_tokens as the contract counts it."""
    if thinking and rules.thinking is not None:
        return rules.thinking.default, rules.thinking.max
    return rules.default, rules.max


def _top(rules: MaxTokens, counts: Counts, thinking: bool) -> int:
    """The largest number in this way of counting."""
    top = _range(rules, thinking)[1]
    return top + rules.reasoning_max if thinking and counts == "total" and rules.counts == "answer" else top


def _room(case: Case) -> int:
    """The largest number that the deployment takes, in its own way of counting."""
    top = _top(case.target.contract.max_tokens, case.target.counts, case.thinking)
    return min(top, case.target.max_output or top)


def _has_default(case: Case) -> bool:
    """Whether the deployment's own default is the client's: the same contract, at a host that counts as the contract says.

    A host whose row says how it counts has its own ways, and its own default.
    """
    target = case.target
    return target.contract.contract == case.client.contract and target.model.counts is None and target.host.reads.counts is None


def _unlimited(case: Case, asked: Asked | None) -> Limit:
    """Nothing is sent: the host's own default holds, which is the contract's or else unknown."""
    most = _most(_room(case) if asked is None else min(asked.tokens, _room(case)), case)
    return Limit(None, None, most, squeezed=False, fits=case.prompt < case.target.context, edits=())


def _translated(asked: Asked, case: Case) -> tuple[int, StopRule | None, bool]:
    """(number to send, where we stop, squeezed)."""
    want, stop = asked.tokens, None
    if case.thinking and asked.counts != case.target.counts:
        stop = StopRule(asked.counts, asked.tokens)
        if asked.counts == "answer":
            want += case.client.max_tokens.reasoning_max
    sent = min(want, _room(case))
    # Only what the client did not ask for itself gives way to a long prompt.
    own = asked.tokens if asked.written is not None else 1
    if sent > own:
        sent = max(own, min(sent, case.target.context - case.prompt))
    if stop is not None and stop.counts == "answer" and sent <= stop.tokens:
        # The host's total keeps the answer below the limit already, but thinking may leave nothing of it.
        return sent, None, sent <= asked.tokens
    return sent, stop, sent < asked.tokens


def _most(number: int, case: Case) -> int:
    """The most output tokens that the host can bill when its own limit is `number`."""
    rules = case.target.contract.max_tokens
    beside = case.thinking and case.target.counts == "answer"
    if beside:
        number += rules.reasoning_max or _range(rules, True)[1]
    if beside and not case.target.contract.context.reasoning_counts:
        return number
    return min(number, case.target.context)


def _check_context(case: Case, requested: int) -> None:
    """Refuses what cannot fit even if the prompt is a quarter shorter than estimated."""
    context = case.target.context
    if case.prompt * 3 // 4 + requested > context:
        raise ContextExceeded(
            f"This model's maximum context length is {context} tokens. However, you requested {case.prompt + requested} tokens "
            f"({case.prompt} in the messages, {requested} in the completion). Please reduce the length of the messages or completion.",
            param="messages",
        )


def _edits(body: Mapping[str, Any], asked: Asked, sent: int, target: Deployment) -> list[Edit]:
    edits = []
    if sent != asked.written:
        edits.append(changed("max_tokens", "none" if asked.written is None else asked.written, sent))
    if asked.field is not None and asked.field != target.host.reads.max_tokens:
        edits.append(renamed(asked.field))
    edits.extend(dropped(field) for field in FIELDS if field in body and field not in (asked.field, target.host.reads.max_tokens))
    return edits


def write(body: dict[str, Any], limit: Limit, target: Deployment) -> None:
    """Puts the limit into `body` (changed in place) under the name that the host reads, and removes its other names."""
    name = target.host.reads.max_tokens
    for field in FIELDS:
        if field in body and (field != name or limit.sent is None):
            del body[field]
    if limit.sent is not None:
        body[name] = limit.sent
