"""From a checked request to what is sent to one deployment, with every change named; or a refusal that names the field.

Pure: the request is never changed, and messages that need no change are passed on as they are. What the parts decide is in
thinking, messages, fields and limits; here they are put in order.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.json import Encoder
from msgspec.structs import replace

from gateway import fields, limits, thinking
from gateway.contracts import Contract
from gateway.edits import Edit, changed, parse, renamed
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.limits import RouteRules, StopRule
from gateway.messages import Rewriter, Survey, check, concerned, missing_reasoning, restored, survey
from gateway.request import ChatRequest
from gateway.tokens import count_prompt, estimate_prompt

__all__ = ["Once", "Sanitised", "StopRule", "count_sent", "sanitise", "streamed"]


Messages = list[dict[str, Any]]
_encode = Encoder().encode
# Bytes of the fields beside the messages up to which what they lead to is remembered, and how many of a deployment are.
LONG: Final = 1024
REMEMBERED: Final = 256


class Sanitised(Struct, frozen=True):
    """The body to send and what it means.

    `stop`: Faregate must end the stream there itself; then the body asks for a stream, whatever the client asked for.
    `max_output`: the most output tokens of one answer, reasoning included, that the host can bill. `prompt_tokens`: an estimate.
    `squeezed`: the limit was cut down to this host's own. `fits`: the estimate says that it fits the context. `beta`: it must go
    to the host's beta address.
    """

    body: dict[str, Any]
    edits: tuple[Edit, ...]
    stop: StopRule | None
    thinking: bool
    max_output: int
    prompt_tokens: int
    squeezed: bool
    fits: bool
    beta: bool


class _Known(Struct, frozen=True):
    """What was decided for the same fields before, without the messages; it stands for prompts up to `room`, an eighth included."""

    sanitised: Sanitised
    room: int


class Once:
    """What deployments have in common for one request: worked out once where each `sanitise` of it gets the same one."""

    __slots__ = ("_estimates", "_rewritten", "seen")

    def __init__(self, request: ChatRequest) -> None:
        self.seen = survey(request.messages)
        # By the identity of messages, which are kept here so that no others can get it.
        self._rewritten: dict[tuple[int, str, str, bool, bool, bool], tuple[Messages, Messages, list[Edit]]] = {}
        self._estimates: dict[tuple[int, int, bool], tuple[Messages, Any, int]] = {}

    def rewritten(self, messages: Messages, target: Deployment, thinks: bool, tools: bool) -> tuple[Messages, list[Edit]]:
        """The messages as this version must get them, and the edits: one list for all hosts that read them alike."""
        key = (id(messages), target.contract.contract, target.host.reads.reasoning, target.inline, thinks, tools)
        found = self._rewritten.get(key)
        if found is None:
            rewriter = Rewriter(target, thinks, tools)
            found = self._rewritten[key] = (messages, rewriter.rewrite(messages), rewriter.edits())
        return found[1], found[2]

    def estimate(self, body: dict[str, Any], reasoning: bool) -> int:
        """Prompt tokens of this body."""
        messages, tools = body["messages"], body.get("tools")
        key = (id(messages), id(tools), reasoning)
        found = self._estimates.get(key)
        if found is None:
            found = self._estimates[key] = (messages, tools, estimate_prompt(messages, tools, reasoning=reasoning))
        return found[2]


def sanitise(
    request: ChatRequest, route: RouteRules, client: Contract, target: Deployment, cap: int | None = None, once: Once | None = None
) -> Sanitised:
    """The request as this deployment must get it; `client` is the contract of the route that the app named.

    `cap` is the most output that an answer may have in all, reasoning included, however much was asked. `once` is the request's own.

    Raises InvalidRequest (ContextExceeded) where no edit can make it valid here.
    """
    once = once or Once(request)
    key = _key(request, once.seen, route, client, target, cap)
    if key is None:
        return _worked_out(request, route, client, target, cap, once)
    prompt = once.estimate(request.body, False)
    known: _Known | None = target.decided.get(key)
    if known is not None and prompt + prompt // 8 <= known.room:
        body = {**known.sanitised.body, "messages": request.messages}
        return replace(known.sanitised, body=body, prompt_tokens=prompt)
    found = _worked_out(request, route, client, target, cap, once)
    _remember(found, request, target, key, prompt)
    return found


def _key(
    request: ChatRequest, seen: Survey, route: RouteRules, client: Contract, target: Deployment, cap: int | None
) -> tuple[str, str, str, int | None, bytes] | None:
    """All that decides about a request whose messages are passed on as they are; None where they matter, or it is much."""
    if seen.tools or seen.parts or seen.prefix or concerned(seen, target) or target.send_back == "always":
        return None
    body = request.body
    if "tools" in body or request.beta or request.user or request.edits:
        return None
    rest = _encode({name: value for name, value in body.items() if name != "messages"})
    return (route.name, route.out_of_range, client.contract, cap, rest) if len(rest) <= LONG else None


def _remember(found: Sanitised, request: ChatRequest, target: Deployment, key: Any, prompt: int) -> None:
    """The same fields lead to the same body; as long as the prompt leaves room for any limit, its length decides nothing."""
    numbers: list[int] = [request.body[name] for name in limits.given(request.body)]
    room = target.context - limits.MARGIN - max(target.room(True), target.room(False), *numbers)
    if prompt + prompt // 8 > room:
        return
    if len(target.decided) >= REMEMBERED:
        target.decided.clear()
    target.decided[key] = _Known(replace(found, body={**found.body, "messages": None}), room)


def _worked_out(request: ChatRequest, route: RouteRules, client: Contract, target: Deployment, cap: int | None, once: Once) -> Sanitised:
    body = dict(request.body)
    messages = body["messages"]
    seen = once.seen
    tools = seen.tools or bool(body.get("tools"))
    beta = _beta(request, (seen.prefix or seen.parts) and check(messages, target), target)
    revealed = thinking.reveal(body)
    wish = thinking.read(body)
    switch, filled = _switch(thinking.settle(wish, client, target), request, tools, target)
    body["model"] = target.upstream_model
    message_edits: list[Edit] = []
    if filled is not None:
        body["messages"], count = filled
        messages = body["messages"]
        message_edits.append(Edit("restore_reasoning", str(count)))
    if concerned(seen, target):
        body["messages"], rewritten = once.rewritten(messages, target, switch.on, tools)
        message_edits += rewritten
    settled, switch_edits = thinking.write(body, wish, switch, target)
    names = limits.given(body)
    field_edits = fields.sift(body, target, switch.on, (*settled, *names))
    # Where there is no reasoning, it is no question whether it counts.
    prompt = once.estimate(body, (seen.reasoning or filled is not None) and _reads_reasoning(target, switch.on, tools))
    limit = limits.limit(body, limits.Case(route, client, target, switch.on, prompt, cap), names)
    limits.write(body, limit, target, names)
    if request.stream or limit.stop is not None:
        _ask_for_stream(body, target)
    edits = (*_substitution(route, client, target), *message_edits, *revealed, *switch_edits, *field_edits, *limit.edits)
    if request.user:
        edits = (*edits, *_isolate(body, request.user, target))
    if request.edits:
        edits = (*map(parse, request.edits), *edits)
    return Sanitised(body, edits, limit.stop, switch.on, limit.most, prompt, limit.squeezed, limit.fits, beta)


def _substitution(route: RouteRules, client: Contract, target: Deployment) -> list[Edit]:
    """Names what the app asked for and what serves it, where that is another version; the versions, where both have one name."""
    if client is target.contract or client.contract == target.contract.contract:
        return []
    asked, serves = route.name, target.model.model
    return [changed("substitute_model", *((asked, serves) if asked != serves else (client.contract, target.contract.contract)))]


def _beta(request: ChatRequest, prefix: bool, target: Deployment) -> bool:
    """Whether it goes to the host's beta address; a request that came by /beta and uses nothing of it is served anywhere."""
    tools = request.body.get("tools")
    if request.beta and target.host.beta_url is None and isinstance(tools, list) and any(map(_strict, tools)):
        raise InvalidRequest(f"Strict tools by /beta are not available at {target.name}.", param="tools")
    return (prefix or request.beta) and target.host.beta_url is not None


def _strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and function.get("strict") is True


def _isolate(body: dict[str, Any], user: str, target: Deployment) -> list[Edit]:
    """Names the team (never by its name) to a host that keeps the caches of its users apart; a name that the caller gave goes."""
    field = target.host.reads.user
    if field is None:
        return []
    given = body.get(field)
    body[field] = user
    return [] if given is None else [renamed(field)]


Filled = tuple[list[dict[str, Any]], int]


def _switch(switch: thinking.Switch, request: ChatRequest, tools: bool, target: Deployment) -> tuple[thinking.Switch, Filled | None]:
    """Off where thinking needs earlier reasoning that the messages lack and nobody remembers; on with what was restored, and how often."""
    if not switch.on or not (tools or target.send_back == "always"):
        return switch, None
    messages, count = request.messages, 0
    if request.recalled and target.send_back in ("within_turn", "with_tools", "always"):
        messages, count = restored(messages, request.recalled, target)
    refusal = missing_reasoning(messages, target.contract, target.host.reads.reasoning, tools)
    if refusal is not None:
        return switch.turned_off(refusal), None
    return switch, (messages, count) if count else None


def streamed(sanitised: Sanitised, target: Deployment) -> Sanitised:
    """The same request with the answer asked for as a stream, so that we can end it."""
    body = dict(sanitised.body)
    _ask_for_stream(body, target)
    return replace(sanitised, body=body)


def count_sent(sanitised: Sanitised, target: Deployment) -> int:
    """Tokens of the prompt that was sent, as well as we can count them: for a charge that the host's report does not settle."""
    body = sanitised.body
    if target.contract.tokenizer != "deepseek":
        return sanitised.prompt_tokens
    tools = body.get("tools")
    reads = _reads_reasoning(target, sanitised.thinking, bool(tools) or survey(body["messages"]).tools)
    return count_prompt(body["messages"], tools, reasoning=reads)


def _reads_reasoning(target: Deployment, thinks: bool, tools: bool) -> bool:
    """Whether the version reads earlier reasoning, so that it is a part of the prompt."""
    rule = target.send_back
    return rule in ("within_turn", "always") or (rule == "with_tools" and thinks and tools)


def _ask_for_stream(body: dict[str, Any], target: Deployment) -> None:
    """Streams always report their usage to us; whether the client sees it is decided with the answer."""
    body["stream"] = True
    if target.host.reads.usage == "stream_options":
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
