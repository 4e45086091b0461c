"""Hosts: the wire of a company or an engine that serves models. Data in policies/hosts/."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from gateway.contracts import Cache, Contract, Counts, SendBack
from gateway.notation import Price
from gateway.rows import Instant, Row

Switch = Literal["on", "off"]
Reasoning = Literal["reasoning_content", "reasoning", "inline", "auto"]
# Fields that Faregate itself reads and writes: no rule of a contract or a host passes or drops them.
CORE = frozenset({"model", "messages", "stream", "stream_options"})


class Reads(Row):
    """What a host reads in requests."""

    reasoning: Literal["reasoning_content", "reasoning", "both", "none"] = "reasoning_content"
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    counts: Counts | None = Field(default=None, description="what its limit counts, whatever the contract says; null: as the contract says")
    thinking: Literal["thinking", "enable_thinking", "chat_template_kwargs", "reasoning", "none"] = "thinking"
    effort: Literal["reasoning_effort", "reasoning", "none"] = "reasoning_effort"
    usage: Literal["stream_options", "always"] = Field(default="stream_options", description="how usage of a stream is asked for")
    user: Literal["user_id", "user"] | None = Field(default=None, description="the field by which it keeps users' caches apart")


class Writes(Row):
    """What a host writes in answers."""

    reasoning: Reasoning = "auto"
    usage: Literal["finish_chunk", "last_chunk", "every_chunk", "none"] = "last_chunk"
    cached: tuple[str, ...] | str | None = Field(default=None, description="dotted path(s) of the cached-token count in the answer")
    cost: str | None = Field(default=None, description="dotted path of the host's own cost")
    errors: Literal["openai", "openrouter", "gmi", "novita", "nebius", "siliconflow", "google", "flat", "any"] = "any"
    keep_alive: str | None = Field(default=None, description="the comment it sends while queued")

    @property
    def cached_paths(self) -> tuple[str, ...]:
        return (self.cached,) if isinstance(self.cached, str) else (self.cached or ())


class Limits(Row):
    """`concurrent`: requests at a time of one account."""

    concurrent: int | None = Field(default=None, ge=1)


class Balance(Row):
    """Where a host says what is left of our money: a GET below its base URL, with the key that requests use.

    `left` is the path of what is left, `used` that of what this key has used so far; below each of `each`, where it names a list.
    `currency` is the path of their currency; absent, they are in the account's. Null at a path: the host states none.
    """

    path: str = Field(pattern=r"^/\S*$")
    each: str | None = None
    currency: str | None = None
    left: str | None = None
    used: str | None = None
    step: Price = Field(default="0.01", description="the smallest difference that its figures can show")


class HostFields(Row):
    """Fields that this host treats in its own way, over the contract's."""

    passed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: dict[str, str] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)


class HostModel(Row):
    """One model at this host, from an instant until another: the contract it follows, its own limits, its id on the wire."""

    model: str
    contract: str
    upstream: str | None = Field(default=None, description="the id sent upstream, where it is not `model`")
    context: int | None = None
    max_output: int | None = None
    concurrent: int | None = Field(default=None, description="requests at a time of one account that the host allows for this model")
    counts: Counts | None = None
    from_: Instant = Field(alias="from")
    until: Instant | None = None
    thinking: Literal["on", "off"] | None = Field(default=None, description="what this id fixes (deepseek-chat on V4: off)")
    unthinking: str | None = Field(default=None, description="the id there of the same version that need not think, where this one must")
    reasoning: Reasoning | None = Field(default=None, description="where reasoning stands in its answers, where not as the host writes it")
    retired: str | None = Field(default=None, description="the host's refusal after `until`; {model} is replaced")
    cache: Cache | None = Field(default=None, description="the prefix cache here, where it is not the contract's")
    verified: bool = True
    source: str = ""

    def serves(self, at: datetime) -> bool:
        return self.from_ <= at and (self.until is None or at < self.until)


class Host(Row):
    """One host and its models."""

    host: str
    base_url: str | None = Field(default=None, description="null: only with FAREGATE_BASE_URL_<HOST>")
    beta_url: str | None = Field(default=None, description="base for prefix completion; relative to base_url when it starts with /")
    key: str | None = Field(default=None, description="the environment variable that holds its key; null: needs none")
    auth: Literal["bearer", "api-key", "google"] = Field(default="bearer", description="how the key is sent; google: a token that expires")
    protocol: Literal["openai", "bedrock"] = Field(default="openai", description="what it speaks; bedrock needs the extra `litellm`")
    local: bool = False
    charge_by: Literal["computed", "reported"] = "computed"
    open_fields: bool = False
    streams: bool = Field(default=True, description="whether it can stream an answer; where not, a budget is kept by a lower max_tokens")
    reads: Reads = Reads()
    writes: Writes = Writes()
    fields: HostFields = HostFields()
    cancel_stops_billing: bool | None = None
    limits: Limits = Limits()
    balance: Balance | None = Field(default=None, description="null: it has no such API")
    rest: bool = Field(default=True, description="whether it is left alone for a while after failures; false: it is asked all the same")
    region: str | None = Field(default=None, description="where it computes, as teams name it in `regions`: cn, us, eu")
    models: tuple[HostModel, ...] = ()
    source: str = ""
    checked: str = ""

    def find(self, model: str, at: datetime) -> HostModel | None:
        """The row of this model that serves at this instant."""
        return next((row for row in self.models if row.model == model and row.serves(at)), None)


@dataclass(frozen=True)
class Deployment:
    """One model at one host, at one instant: what a request is finally sent to.

    What follows from its rows is worked out once and kept with it: every request asks for most of it.
    """

    host: Host
    model: HostModel
    contract: Contract
    thinking: Switch | None = None

    @cached_property
    def name(self) -> str:
        return f"{self.host.host}/{self.model.model}"

    @cached_property
    def upstream_model(self) -> str:
        return self.model.upstream or self.model.model

    @cached_property
    def counts(self) -> Counts:
        """What the limit sent upstream counts there."""
        return self.model.counts or self.host.reads.counts or self.contract.max_tokens.counts

    @cached_property
    def own_counts(self) -> bool:
        """Whether it counts in a way of its own, whatever the contract says."""
        return self.model.counts is not None or self.host.reads.counts is not None

    @cached_property
    def context(self) -> int:
        return self.model.context or self.contract.context.tokens

    @cached_property
    def cache(self) -> Cache:
        """How prefixes are cached there, as far as anyone says."""
        return self.model.cache or self.contract.cache

    @property
    def max_output(self) -> int | None:
        return self.model.max_output

    def room(self, thinking: bool) -> int:
        """The largest limit that it takes, in its own way of counting."""
        return self._rooms[thinking]

    @cached_property
    def _rooms(self) -> tuple[int, int]:
        return self._room(False), self._room(True)

    def _room(self, thinking: bool) -> int:
        top = self.contract.max_tokens.top(self.counts, thinking)
        return min(top, self.max_output or top)

    def billable(self, limit: int, thinking: bool) -> int:
        """The most output tokens, reasoning included, that it can bill when it is sent this limit."""
        rules = self.contract.max_tokens
        beside = thinking and self.counts == "answer"
        if beside:
            limit += rules.reasoning_max or rules.range(True)[1]
        if beside and not self.contract.context.reasoning_counts:
            return limit
        return min(limit, self.context)

    @cached_property
    def unlimited(self) -> tuple[int, int]:
        """The most that it can bill without any limit sent, by its contract's default: (not thinking, thinking)."""
        return self._unlimited(False), self._unlimited(True)

    def _unlimited(self, thinking: bool) -> int:
        room = self.room(thinking)
        return self.billable(min(self.contract.max_tokens.range(thinking)[0] or room, room), thinking)

    @cached_property
    def natural(self) -> Switch:
        """What thinking is when it is told nothing."""
        return self.model.thinking or self.contract.thinking.default

    @cached_property
    def unswitchable(self) -> bool:
        """Whether thinking cannot be switched: fixed by the id, unknown to the version, or not read by the host."""
        return self.model.thinking is not None or self.contract.thinking.switch == "none" or self.host.reads.thinking == "none"

    @cached_property
    def send_back(self) -> SendBack:
        """What becomes of earlier reasoning."""
        return self.contract.reasoning.send_back

    @cached_property
    def inline(self) -> bool:
        """Whether its answers may have their thinking in the text."""
        return (self.model.reasoning or self.host.writes.reasoning) == "inline"

    @cached_property
    def cached_at(self) -> tuple[tuple[str, ...], ...]:
        """The keys under which its answers have the cached tokens, beside those that any host may use."""
        return tuple(tuple(path.split(".")) for path in self.host.writes.cached_paths)

    @cached_property
    def plain_fields(self) -> frozenset[str]:
        """Fields that pass whatever their value: the core, and what the contract or the host lets through, without a rule about them."""
        host, contract = self.host.fields, self.contract.fields
        rules = {rule.field for rule in contract.rules}
        ruled = {*host.dropped, *host.renamed, *host.refused, *rules}
        treated = {*contract.dropped, *contract.renamed, *contract.refused} - {*host.passed}
        passed = {*host.passed, *contract.passed, *contract.ignored} - treated - ruled
        return frozenset(passed | (CORE - rules))

    @cached_property
    def treatment(self) -> str:
        """What decides how a request is rewritten for it, but for the model's id: deployments with the same treatment get the same."""
        host, model = self.host, self.model
        own = (model.context, model.max_output, model.counts, model.thinking, self.inline, self.thinking)
        return repr((self.contract.contract, host.reads, host.fields, host.open_fields, host.beta_url is None, own))

    @cached_property
    def decided(self) -> dict[Any, Any]:
        """What was decided for requests here before, as long as this snapshot lives; whoever decides bounds it."""
        return {}

    def fixed(self, thinking: Switch | None) -> Deployment:
        """This deployment with thinking fixed by a route; itself where the route leaves it open."""
        return self if thinking in (None, self.thinking) else self._fixed[thinking]

    @cached_property
    def _fixed(self) -> dict[Switch | None, Deployment]:
        return {"on": replace(self, thinking="on"), "off": replace(self, thinking="off")}
