"""Usage: four integers of one answer, each with its source; cache_hit + cache_miss is the prompt, output includes reasoning."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Source = Literal["reported", "counted", "unknown"]


class UsageError(ValueError):
    """Counts that contradict each other; the text names both."""


class Sources(Struct, frozen=True):
    """Where each count comes from: reported by the host, counted by us, or unknown."""

    cache_hit: Source = "reported"
    cache_miss: Source = "reported"
    output: Source = "reported"
    reasoning: Source = "reported"


class Usage(Struct, frozen=True):
    """Tokens of one answer, in disjoint classes that are never negative."""

    cache_hit: int
    cache_miss: int
    output: int
    reasoning: int = 0
    sources: Sources = Sources()

    def __post_init__(self) -> None:
        if self.cache_hit < 0 or self.cache_miss < 0 or self.output < 0 or self.reasoning < 0:
            raise UsageError(f"negative count in {self.counts()}")
        if self.reasoning > self.output:
            raise UsageError(f"reasoning {self.reasoning} exceeds output {self.output}")

    @property
    def prompt(self) -> int:
        return self.cache_hit + self.cache_miss

    @property
    def reported(self) -> bool:
        """Whether the host itself stated what it bills: its prompt and its output."""
        return self.sources.cache_miss == "reported" and self.sources.output == "reported"

    def counts(self) -> dict[str, int]:
        return {
            "cache_hit": self.cache_hit,
            "cache_miss": self.cache_miss,
            "output": self.output,
            "reasoning": self.reasoning,
        }
