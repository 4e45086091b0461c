"""The strict checks of a host: what it refuses with a 400, with the vendor's texts, and what it understood otherwise.

Numbers and texts come from the rows under policies/; what DeepSeek's guides forbid in each era is written here once more,
so that a rule missing from a row shows up as a 400 in the suite. Texts that no fact states are marked (ours).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.emulator.fields import Refusal, check_fields, check_messages
from gateway.emulator.reader import Row, Shelf, switch, wire_id
from gateway.emulator.wire import Wire

_V4_DEFAULTS = {"off": 8192, "low": 65_536, "high": 65_536, "max": 131_072}
_GUIDE = "For more information, please refer to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
_UNLIMITED = 1 << 40


@dataclass(frozen=True)
class Limits:
    """How many tokens may be generated; `stated` is what the request asked for, if it did."""

    answer: int
    reasoning: int
    total: int
    stated: int | None

    def within(self, context_left: int, reasoning_counts: bool) -> Limits:
        if reasoning_counts:
            return Limits(self.answer, min(self.reasoning, context_left), min(self.total, context_left), self.stated)
        return Limits(min(self.answer, context_left), self.reasoning, self.total, self.stated)


@dataclass(frozen=True)
class Order:
    """A request as the host understood it."""

    model: str
    row: Row
    contract: Row
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    thinking: bool
    limits: Limits
    stream: bool
    include_usage: bool
    choices: int
    stop: tuple[str, ...]
    logprobs: bool
    json_mode: bool
    keep_reasoning: Callable[[int], bool] = field(repr=False, default=lambda index: False)

    @property
    def context(self) -> int:
        return int(self.row.get("context") or self.contract["context"]["tokens"])

    @property
    def reasoning_counts(self) -> bool:
        return bool(self.contract["context"].get("reasoning_counts", True))


def understand(body: Any, shelf: Shelf, wire: Wire, at: datetime, *, beta: bool, size: int) -> Order:
    """Checks a request as this host does before any work; raises Refusal."""
    check_fields(body, size)
    model = str(body["model"])
    row = shelf.model(model, at) or _unknown(model, shelf, wire, at)
    contract = shelf.contracts[str(row["contract"])]
    check_messages(body["messages"], size, images=bool((contract.get("messages") or {}).get("images")) or wire.local)
    thinking = _thinking(body, contract, row, shelf.host)
    limits = _limits(body, contract, row, shelf.host, thinking, wire)
    if not wire.local:
        _check_rules(body, contract, model, thinking)
        _check_prefix(body["messages"], beta)
        _check_order(body["messages"], contract, model)
        _check_reasoning(body["messages"], contract, thinking, bool(body.get("tools")), wire)
    return _order(body, model, row, contract, thinking, limits)


def admit(order: Order, prompt: int, wire: Wire) -> Limits:
    """The context check, once the prompt is counted; raises Refusal, or cuts the limits to what the context holds."""
    stated = (order.limits.stated or 0) if _counts_completion(order) else 0
    if wire.engine == "ollama":
        return order.limits
    too_long = prompt >= order.context if wire.engine == "sglang" else prompt > order.context
    if too_long or (not wire.clamps_context and prompt + stated > order.context):
        raise wire.overflow(context=order.context, prompt=prompt, stated=stated)
    return order.limits.within(order.context - prompt, order.reasoning_counts)


def _counts_completion(order: Order) -> bool:
    """Whether max_tokens takes part in the check: not where its range is the whole context (R1-0528: 64K of 64K)."""
    return int(order.contract["max_tokens"]["max"]) < int(order.contract["context"]["tokens"])


def _order(body: Row, model: str, row: Row, contract: Row, thinking: bool, limits: Limits) -> Order:
    stop = body.get("stop") or ()
    return Order(
        model=model,
        row=row,
        contract=contract,
        messages=body["messages"],
        tools=body.get("tools") or None,
        thinking=thinking,
        limits=limits,
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        choices=body.get("n") or 1,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=bool(body.get("logprobs")),
        json_mode=(body.get("response_format") or {}).get("type") in ("json_object", "json_schema"),
        keep_reasoning=_kept(body, contract, thinking),
    )


def _unknown(model: str, shelf: Shelf, wire: Wire, at: datetime) -> Row:
    names = sorted({wire_id(row) for row in shelf.models(at)})
    raise wire.unknown_model(model, names, at, shelf.retired(model, at))


# --- thinking and limits ------------------------------------------------------------------------------------------


def _thinking(body: Row, contract: Row, row: Row, host: Row) -> bool:
    rules = contract.get("thinking") or {}
    default = (switch(row.get("thinking")) or switch(rules.get("default")) or "off") == "on"
    if switch(rules.get("switch", "none")) == "none":
        return default
    stated = _stated_thinking(body, str((host.get("reads") or {}).get("thinking", "thinking")))
    return default if stated is None else stated


def _stated_thinking(body: Row, reads: str) -> bool | None:
    if body.get("reasoning_effort") == "none" or (reads == "reasoning" and (body.get("reasoning") or {}).get("effort") == "none"):
        return False
    if reads == "thinking" and body.get("thinking"):
        return bool(body["thinking"]["type"] == "enabled")
    if reads == "enable_thinking":
        return body.get("enable_thinking")
    if reads == "chat_template_kwargs":
        stated = body.get("chat_template_kwargs") or {}
        return stated.get("thinking", stated.get("enable_thinking"))
    return (body.get("reasoning") or {}).get("enabled") if reads == "reasoning" else None


def _limits(body: Row, contract: Row, row: Row, host: Row, thinking: bool, wire: Wire) -> Limits:
    rules, reads = contract["max_tokens"], host.get("reads") or {}
    special = rules.get("thinking") if thinking else None
    counts = row.get("counts") or reads.get("counts") or ("total" if special else rules["counts"])
    largest = _largest(contract, row, special or rules, wire)
    stated = body.get(str(reads.get("max_tokens", "max_tokens")))
    if stated is None and wire.local:
        stated = body.get("max_tokens", body.get("max_completion_tokens"))
    if stated is not None and not wire.local and not 1 <= stated <= largest:
        raise Refusal(wire.range_text(stated, largest), param="max_tokens")
    limit = stated or _default(body, special or rules, row, thinking, wire)
    if counts == "total":
        return Limits(limit, limit, limit, stated)
    return Limits(limit, int(rules.get("reasoning_max") or 32_768), _UNLIMITED, stated)


def _largest(contract: Row, row: Row, rules: Row, wire: Wire) -> int:
    """The vendor's own range at the vendor; elsewhere the host's row, else what the context holds."""
    if wire.host == "deepseek":
        return int(rules["max"])
    return int(row.get("max_output") or row.get("context") or contract["context"]["tokens"])


def _default(body: Row, rules: Row, row: Row, thinking: bool, wire: Wire) -> int:
    if wire.local:
        return _UNLIMITED
    if wire.host == "nebius":
        return 8192
    if rules.get("default"):
        return min(int(rules["default"]), int(row.get("max_output") or _UNLIMITED))
    effort = str(body.get("reasoning_effort") or "high") if thinking else "off"
    return min(_V4_DEFAULTS.get(effort, 65_536), int(rules["max"]), int(row.get("max_output") or _UNLIMITED))


# --- rules of the contract ----------------------------------------------------------------------------------------


def _check_rules(body: Row, contract: Row, model: str, thinking: bool) -> None:
    fields = contract.get("fields") or {}
    for name, text in (fields.get("refused") or {}).items():
        if body.get(name):
            raise Refusal(str(text).replace("{model}", model), param=name)
    for rule in (*(fields.get("rules") or ()), *_vendor_rules(str(contract["contract"]))):
        if _broken(rule, body.get(rule["field"]), thinking):
            raise Refusal(str(rule["text"]).replace("{model}", model), param=rule["field"])


def _vendor_rules(contract: str) -> list[Row]:
    rules: list[Row] = []
    if contract in ("deepseek-r1", "deepseek-r1-0528") or (contract.startswith("deepseek-v3.") and contract.endswith("-reasoner")):
        rules += [
            {"field": name, "any": True, "text": f"{{model}} does not support {name}"} for name in ("logprobs", "top_logprobs")
        ]  # (ours)
    if contract == "deepseek-r1":
        json_mode = ["json_object", "json_schema"]
        rules.append({"field": "tools", "any": True, "text": "{model} does not support Function Calling"})
        rules.append({"field": "response_format", "values": json_mode, "text": "{model} does not support Json Output"})  # (ours)
    if contract.startswith("deepseek-v4"):
        forced = "Thinking mode does not support this tool_choice"
        rules.append({"field": "response_format", "values": ["json_schema"], "text": "This response_format type is unavailable now"})
        rules.append({"field": "tool_choice", "allowed": ["auto", "none"], "thinking": True, "text": forced})
    if contract.startswith(("deepseek-v", "deepseek-r1")) and "qwen" not in contract and "distill" not in contract:
        rules.append({"field": "n", "allowed": [1], "text": "Invalid n value (currently only n = 1 is supported)"})  # (ours)
    return rules


def _broken(rule: Row, value: Any, thinking: bool) -> bool:
    if not value or (rule.get("thinking") is not None and bool(rule["thinking"]) != thinking):
        return False
    word = value.get("type") if isinstance(value, dict) else value
    if rule.get("allowed") is not None:
        return word not in rule["allowed"]
    return bool(rule.get("any")) or word in (rule.get("values") or ())


def _check_prefix(messages: list[Row], beta: bool) -> None:
    if any(message.get("prefix") for message in messages) and not beta:
        raise Refusal("The `prefix` of an assistant message is only available with the beta base_url", param="messages")  # (ours)
    if any(message.get("prefix") for message in messages[:-1]):
        raise Refusal("Only the last message may have `prefix`", param="messages")  # (ours)


def _check_order(messages: list[Row], contract: Row, model: str) -> None:
    successive = bool((contract.get("messages") or {}).get("merge_successive"))
    for index in range(1, len(messages) if successive else 0):
        pair = (messages[index - 1]["role"], messages[index]["role"])
        if pair in (("user", "user"), ("assistant", "assistant")):
            raise Refusal(
                f"{model} does not support successive user or assistant messages (messages[{index - 1}] and messages[{index}] in your"
                " input). You should interleave the user/assistant messages in the message sequence.",
            )


# --- reasoning_content in the input -------------------------------------------------------------------------------


def _send_back(contract: Row) -> str:
    return str((contract.get("reasoning") or {}).get("send_back", "never"))


def _last_user(messages: list[Row]) -> int:
    return max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)


def _with_tools(messages: list[Row], tools: bool) -> bool:
    return tools or any(message.get("tool_calls") or message["role"] == "tool" for message in messages)


def _check_reasoning(messages: list[Row], contract: Row, thinking: bool, tools: bool, wire: Wire) -> None:
    rule = _send_back(contract)
    if rule == "never" and (thinking or str(contract["contract"]).startswith("deepseek-r1")):
        _refuse_reasoning(messages)
    if not thinking:
        return
    if rule == "within_turn":
        _require_in_turn(messages, wire)
    if rule == "always" or (rule == "with_tools" and _with_tools(messages, tools)):
        _require_everywhere(messages, wire)


def _refuse_reasoning(messages: list[Row]) -> None:
    for index, message in enumerate(messages):
        if "reasoning_content" in message and not message.get("prefix"):
            text = f"The reasoning_content field must not be included in the input messages (messages[{index}])"  # (ours)
            raise Refusal(text, param="messages")


def _require_in_turn(messages: list[Row], wire: Wire) -> None:
    for index in range(_last_user(messages) + 1, len(messages)):
        message = messages[index]
        if message["role"] == "assistant" and message.get("tool_calls") and wire.reasoning_of(message) is None:
            raise Refusal(f"Missing `reasoning_content` field in the assistant message at message index {index}. {_GUIDE}")


def _require_everywhere(messages: list[Row], wire: Wire) -> None:
    for message in messages:
        if message["role"] == "assistant" and not message.get("prefix") and wire.reasoning_of(message) is None:
            raise Refusal("The `reasoning_content` in the thinking mode must be passed back to the API.")


def _kept(body: Row, contract: Row, thinking: bool) -> Callable[[int], bool]:
    """Which earlier reasoning the model sees, and so bills: what is ignored costs nothing."""
    messages, rule = body["messages"], _send_back(contract)
    if rule == "within_turn":
        last = _last_user(messages)
        return lambda index: thinking and index > last
    if rule == "with_tools":
        seen = thinking and _with_tools(messages, bool(body.get("tools")))
        return lambda index: seen
    return lambda index: rule in ("always", "ignored") and thinking
