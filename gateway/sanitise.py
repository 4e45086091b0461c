"""From a checked request to what is sent to one deployment, with every change named; or a refusal that names the field.

Pure: the request is never changed, and messages that need no change are passed on as they are. What the parts decide is in
thinking, messages, fields and limits; here they are put in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway import fields, limits, thinking
from gateway.contracts import Contract
from gateway.edits import Edit, changed
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.limits import RouteRules, StopRule
from gateway.messages import Rewriter, check, missing_reasoning, uses_tools
from gateway.request import ChatRequest
from gateway.tokens import count_prompt, estimate_prompt

__all__ = ["Sanitised", "StopRule", "count_sent", "sanitise"]


@dataclass(frozen=True, slots=True)
class Sanitised:
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


def sanitise(request: ChatRequest, route: RouteRules, client: Contract, target: Deployment) -> Sanitised:
    """The request as this deployment must get it; `client` is the contract of the route that the app named.

    Raises InvalidRequest (ContextExceeded) where no edit can make it valid here.
    """
    body = dict(request.body)
    prefix = check(request.messages, target)
    beta = _beta(request, prefix, target)
    wish = thinking.read(body)
    switch = _switch(request, wish, client, target)
    rewriter = Rewriter(target, switch.on, uses_tools(body))
    body["model"] = target.upstream_model
    body["messages"] = rewriter.rewrite(request.messages)
    settled, switch_edits = thinking.write(body, wish, switch, target)
    field_edits = fields.sift(body, target, switch.on, settled.union(limits.given(body)))
    prompt = _prompt_tokens(body, target, switch.on)
    limit = limits.limit(body, limits.Case(route, client, target, switch.on, prompt))
    limits.write(body, limit, target)
    _ask_for_stream(body, request.stream or limit.stop is not None, target)
    edits = (*_substitution(client, target.contract), *rewriter.edits(), *switch_edits, *field_edits, *limit.edits)
    return Sanitised(body, edits, limit.stop, switch.on, limit.most, prompt, limit.squeezed, limit.fits, beta)


def _substitution(client: Contract, served: Contract) -> list[Edit]:
    return [] if client.contract == served.contract else [changed("substitute_model", client.contract, served.contract)]


def _beta(request: ChatRequest, prefix: bool, target: Deployment) -> bool:
    """Whether it goes to the host's beta address; a request that came by /beta and uses nothing of it is served anywhere."""
    tools = request.body.get("tools")
    if request.beta and target.host.beta_url is None and isinstance(tools, list) and any(map(_strict, tools)):
        raise InvalidRequest(f"Strict tools by /beta are not available at {target.name}.", param="tools")
    return (prefix or request.beta) and target.host.beta_url is not None


def _strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and function.get("strict") is True


def _switch(request: ChatRequest, wish: thinking.Wish, client: Contract, target: Deployment) -> thinking.Switch:
    switch = thinking.settle(wish, client, target)
    if not switch.on:
        return switch
    refusal = missing_reasoning(request.messages, target.contract, target.host.reads.reasoning, bool(request.body.get("tools")))
    return switch if refusal is None else switch.turned_off(refusal)


def count_sent(sanitised: Sanitised, target: Deployment) -> int:
    """Tokens of the prompt that was sent, as well as we can count them: for a charge that the host's report does not settle."""
    body = sanitised.body
    if target.contract.tokenizer != "deepseek":
        return sanitised.prompt_tokens
    return count_prompt(body["messages"], body.get("tools"), reasoning=_reads_reasoning(body, target, sanitised.thinking))


def _prompt_tokens(body: dict[str, Any], target: Deployment, thinks: bool) -> int:
    return estimate_prompt(body["messages"], body.get("tools"), reasoning=_reads_reasoning(body, target, thinks))


def _reads_reasoning(body: dict[str, Any], target: Deployment, thinks: bool) -> bool:
    """Whether the version reads earlier reasoning, so that it is a part of the prompt."""
    rule = target.contract.reasoning.send_back
    return rule in ("within_turn", "always") or (rule == "with_tools" and thinks and uses_tools(body))


def _ask_for_stream(body: dict[str, Any], stream: bool, target: Deployment) -> None:
    """Streams always report their usage to us; whether the client sees it is decided with the answer."""
    if not stream:
        return
    body["stream"] = True
    if target.host.reads.usage == "stream_options":
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
