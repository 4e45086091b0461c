"""From a checked request to what is sent to one deployment, with every change named; or a refusal that names the field.

Pure: the request is never changed, and messages that need no change are passed on as they are. What the parts decide is in
thinking, messages, fields and limits; here they are put in order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway import fields, limits, thinking
from gateway.contracts import Contract
from gateway.edits import Edit, changed
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.limits import RouteRules, StopRule
from gateway.messages import Rewriter, check, concerned, missing_reasoning, survey
from gateway.request import ChatRequest
from gateway.tokens import count_prompt, estimate_prompt

__all__ = ["Sanitised", "StopRule", "count_sent", "sanitise", "streamed"]


class Sanitised(NamedTuple):
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


def sanitise(request: ChatRequest, route: RouteRules, client: Contract, target: Deployment, cap: int | None = None) -> Sanitised:
    """The request as this deployment must get it; `client` is the contract of the route that the app named.

    `cap` is the most output that an answer may have in all, reasoning included, however much was asked.

    Raises InvalidRequest (ContextExceeded) where no edit can make it valid here.
    """
    body = dict(request.body)
    messages = body["messages"]
    seen = survey(messages)
    tools = seen.tools or bool(body.get("tools"))
    beta = _beta(request, (seen.prefix or seen.parts) and check(messages, target), target)
    revealed = thinking.reveal(body)
    wish = thinking.read(body)
    switch = _switch(thinking.settle(wish, client, target), messages, tools, target)
    body["model"] = target.upstream_model
    message_edits: list[Edit] = []
    if concerned(seen, target):
        rewriter = Rewriter(target, switch.on, tools)
        body["messages"], message_edits = rewriter.rewrite(messages), rewriter.edits()
    settled, switch_edits = thinking.write(body, wish, switch, target)
    field_edits = fields.sift(body, target, switch.on, (*settled, *limits.given(body)))
    prompt = estimate_prompt(body["messages"], body.get("tools"), reasoning=_reads_reasoning(target, switch.on, tools))
    limit = limits.limit(body, limits.Case(route, client, target, switch.on, prompt, cap))
    limits.write(body, limit, target)
    if request.stream or limit.stop is not None:
        _ask_for_stream(body, target)
    edits = (*_substitution(route, client, target), *message_edits, *revealed, *switch_edits, *field_edits, *limit.edits)
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


def _switch(switch: thinking.Switch, messages: list[dict[str, Any]], tools: bool, target: Deployment) -> thinking.Switch:
    """Off where thinking needs earlier reasoning that the messages lack."""
    if not switch.on or not (tools or target.send_back == "always"):
        return switch
    refusal = missing_reasoning(messages, target.contract, target.host.reads.reasoning, tools)
    return switch if refusal is None else switch.turned_off(refusal)


def streamed(sanitised: Sanitised, target: Deployment) -> Sanitised:
    """The same request with the answer asked for as a stream, so that we can end it."""
    body = dict(sanitised.body)
    _ask_for_stream(body, target)
    return sanitised._replace(body=body)


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
