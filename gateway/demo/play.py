"""The play: two rounds of a conversation by the official client, and a receipt for each answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.clock import parse_instant
from gateway.demo.stage import Stage
from gateway.money import decimal_text
from gateway.policies import Policies
from gateway.quotes import quote

QUESTIONS = ("9.11 and 9.8, which is greater?", "How many Rs are there in the word 'strawberry'?")
SHOWN = 100
# The engine runs on a laptop's processor: enough to see an answer, soon over.
LONGEST = 120

Say = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """One answer as the client saw it."""

    id: str
    reasoning: str
    content: str


def conversation(client: Any, model: str, stage: Stage, policies: Policies, say: Say) -> None:
    """Two rounds: the first streamed, the second whole; the second sends only the first's content back, as DeepSeek's guide does."""
    messages: list[dict[str, str]] = [{"role": "user", "content": QUESTIONS[0]}]
    say(f"\n{model}")
    first = streamed(client, model, messages)
    tell(first, "streamed", stage, policies, say)
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": QUESTIONS[1]}]
    tell(whole(client, model, messages), "whole", stage, policies, say)


def streamed(client: Any, model: str, messages: list[dict[str, str]]) -> Answer:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, stream=True, max_tokens=LONGEST)
    reasoning = content = ""
    for chunk in raw.parse():
        delta = chunk.choices[0].delta
        if delta.reasoning_content:
            reasoning += delta.reasoning_content
        else:
            content += delta.content
    return Answer(raw.headers["x-request-id"], reasoning, content)


def whole(client: Any, model: str, messages: list[dict[str, str]]) -> Answer:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=LONGEST)
    message = raw.parse().choices[0].message
    return Answer(raw.headers["x-request-id"], getattr(message, "reasoning_content", None) or "", message.content or "")


def tell(answer: Answer, how: str, stage: Stage, policies: Policies, say: Say) -> None:
    say(f"  {how:<9}{_cut(answer.content)}")
    for line in receipt(stage.receipt(answer.id), policies):
        say(f"           {line}")


def receipt(row: dict[str, Any], policies: Policies) -> list[str]:
    """Three lines: the price, the tokens, what decided it."""
    usage = row["usage"]
    prompt = usage["cache_hit"] + usage["cache_miss"]
    edits = ", ".join(row["edits"]) or "none"
    tokens = f"{prompt} prompt tokens = {usage['cache_hit']} hit + {usage['cache_miss']} miss; {usage['output']} out"
    return [
        f"{decimal_text(row['nano'])} {row['currency']} at {row['host']}{_o1(row, prompt, policies)}",
        f"{tokens}, {usage['reasoning']} of them reasoning",
        f"card {row['card']}, window {row['window']}; edits: {edits}",
    ]


def _o1(row: dict[str, Any], prompt: int, policies: Policies) -> str:
    at: datetime = parse_instant(row["started"])
    o1 = quote(policies, "openai", "o1", at, 0, prompt, row["usage"]["output"], "USD").nano
    if row["currency"] != "USD" or not row["nano"]:
        return f"; o1 would have cost {decimal_text(o1)} USD"
    return f"; o1 would have cost {decimal_text(o1)} USD, {o1 // row['nano']} times as much"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
