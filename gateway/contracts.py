"""Contracts: the request and response rules of one model version, wherever it is hosted. Data in policies/contracts/."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import Field

from gateway.rows import Problem, Row

Counts = Literal["answer", "total"]
SendBack = Literal["never", "within_turn", "with_tools", "always", "ignored"]


class Context(Row):
    """The window in tokens. `reasoning_counts: false` means that thinking does not use it up (the first R1)."""

    tokens: int
    reasoning_counts: bool = True


class ThinkingLimit(Row):
    """The range of max_tokens while thinking is on, where it differs."""

    default: int | None = None
    max: int


class MaxTokens(Row):
    """What max_tokens counts: `answer` (thinking comes on top, up to reasoning_max) or `total`. null default: the host's own."""

    counts: Counts
    default: int | None = None
    max: int
    reasoning_max: int = 0
    thinking: ThinkingLimit | None = None

    def range(self, thinking: bool) -> tuple[int | None, int]:
        """Default and maximum, as the contract counts them."""
        if thinking and self.thinking is not None:
            return self.thinking.default, self.thinking.max
        return self.default, self.max

    def top(self, counts: Counts, thinking: bool) -> int:
        """The largest number in this way of counting."""
        top = self.range(thinking)[1]
        return top + self.reasoning_max if thinking and counts == "total" and self.counts == "answer" else top


class Reasoning(Row):
    """What becomes of reasoning_content in earlier assistant messages.

    never: must be removed. within_turn: kept after the last user message, removed before it. with_tools: where the
    request carries tools or a tool call, every assistant message must have it; elsewhere it is ignored and passes.
    always: every assistant message must have it. ignored: passes untouched.
    """

    send_back: SendBack = "never"


class Thinking(Row):
    """Whether the version thinks, how that is switched (none: it cannot be), and the efforts it knows."""

    switch: Literal["none", "thinking"] = "none"
    default: Literal["on", "off"] = "off"
    efforts: tuple[str, ...] = ()
    effort_aliases: dict[str, str] = Field(
        default_factory=dict, description="other names of an effort -> one of efforts; `none` turns thinking off"
    )


class Rule(Row):
    """A value of one field that is refused with the vendor's reason. A value is a string, or an object's `type`.

    `values` are refused, or all but those `allowed`; with neither, the field itself is.
    """

    field: str
    values: tuple[str | int | bool, ...] | None = None
    allowed: tuple[str | int | bool, ...] | None = None
    thinking: bool | None = Field(default=None, description="only while thinking is on (true) or off (false)")
    text: str


class Fields(Row):
    """What becomes of each field: passed, ignored (passed too: the version accepts it without effect), dropped, renamed, refused."""

    passed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: dict[str, str] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()


class Messages(Row):
    """Rules about the list of messages."""

    merge_successive: bool = False
    images: bool = False
    prefix: bool = Field(default=False, description="prefix completion (beta): last message of the assistant with prefix: true")


class Cache(Row):
    """The prefix cache: `blocks` of `tokens`, or whole `units` (V4: a prefix must match completely).

    `ttl` is how long an unused prefix is said to live, in seconds: where routing begins before it has learned better.
    """

    mode: Literal["blocks", "units", "none"] = "blocks"
    tokens: int = 64
    ttl: int | None = Field(default=None, ge=1)


class Contract(Row):
    """The rules of one model version."""

    contract: str
    released: date
    title: str = ""
    context: Context
    max_tokens: MaxTokens
    reasoning: Reasoning = Reasoning()
    thinking: Thinking = Thinking()
    fields: Fields = Fields()
    messages: Messages = Messages()
    cache: Cache = Cache()
    tokenizer: Literal["deepseek", "none"] = "none"
    baseline_output: int | None = Field(default=None, description="output tokens a question, where known")
    source: str = ""
    verified: bool = True

    @property
    def can_think(self) -> bool:
        return self.thinking.default == "on" or self.thinking.switch != "none"

    def problems(self) -> Iterator[Problem]:
        yield from _limit_problems(self)
        yield from _field_problems(self.fields)
        for alias, effort in self.thinking.effort_aliases.items():
            if effort not in (*self.thinking.efforts, "none"):
                yield ("thinking", "effort_aliases", alias), f"`{effort}` is none of the efforts {', '.join(self.thinking.efforts)}"


def _limit_problems(contract: Contract) -> Iterator[Problem]:
    if contract.context.tokens < 1:
        yield ("context", "tokens"), "a context has at least 1 token"
    limits: tuple[tuple[tuple[str, ...], MaxTokens | ThinkingLimit | None], ...] = (
        (("max_tokens",), contract.max_tokens),
        (("max_tokens", "thinking"), contract.max_tokens.thinking),
    )
    for path, limit in limits:
        if limit is not None and not 1 <= (limit.default or 1) <= limit.max:
            yield path, f"the default {limit.default} is not between 1 and the max {limit.max}"


def _field_problems(fields: Fields) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for kind in ("passed", "ignored", "dropped", "renamed", "refused"):
        for name in getattr(fields, kind):
            if name in seen:
                yield ("fields", kind, name), f"`{name}` is both {seen[name]} and {kind}. Hint: keep one"
            seen.setdefault(name, kind)
    for index, rule in enumerate(fields.rules):
        if rule.values is not None and rule.allowed is not None:
            yield ("fields", "rules", index), "a rule has `values`, which are refused, or `allowed`, not both"
