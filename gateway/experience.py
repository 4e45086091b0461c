"""Experience: what earlier answers of a deployment teach about the next one. Never used where a host reports.

Prompt tokens are estimated from text and corrected by what the host reported before; output that was produced but never
sent (a whole answer whose client left) is estimated from the pace of earlier answers. How long the answers of a key are is
learnt too, so that a first hold that is not the worst case is as large as most answers need.
"""

from __future__ import annotations

from gateway.tokens import Calibration
from gateway.usage import Usage

# Output tokens per second of a deployment that has not answered yet: the middle of what hosts of this family do.
TYPICAL_PACE = 30
# No host of this family writes faster: an answer from a cache, or a clock that jumped, must not set the pace.
FASTEST_PACE = 400
_WEIGHT = 8
# Answers of one key at one deployment from which their usual length is known, and how far back they count.
ENOUGH = 8
REMEMBERED = 256
# Pairs of key and deployment that are remembered, the latest to answer.
PAIRS = 4096


class Experience:
    """Learns from reported answers, deployment by deployment; integers only, bounded by the number of deployments."""

    def __init__(self) -> None:
        self._prompts = Calibration()
        # Output tokens and milliseconds, both losing an eighth with each answer.
        self._paces: dict[str, tuple[int, int]] = {}
        # Answers by the length of their output: bucket -> weight.
        self._outputs: dict[tuple[str, str], dict[int, int]] = {}

    def learn(self, deployment: str, usage: Usage, estimated_prompt: int, milliseconds: int) -> None:
        """One answer that came to its end; only what the host itself reported teaches."""
        if not usage.reported:
            return
        self._prompts.learn(deployment, usage.prompt, estimated_prompt)
        if usage.output and milliseconds > 0:
            tokens, spent = self._paces.get(deployment, (0, 0))
            self._paces[deployment] = (tokens - tokens // _WEIGHT + usage.output, spent - spent // _WEIGHT + milliseconds)

    def prompt(self, deployment: str, estimated: int) -> int:
        """The estimate as this deployment would count it; at least 1."""
        return self._prompts.corrected(deployment, estimated)

    def unseen_output(self, deployment: str, milliseconds: int) -> int:
        """Tokens that a host has probably produced in this time without sending them; at least 1."""
        tokens, spent = self._paces.get(deployment, (TYPICAL_PACE, 1000))
        return max(1, min(tokens * milliseconds // max(1, spent), FASTEST_PACE * milliseconds // 1000))

    def answered(self, key: str, deployment: str, output: int) -> None:
        """One answer of this key came to its own end after so many output tokens."""
        pair = (key, deployment)
        # Taken out and put in again: the pair that has not answered for longest comes first, and is forgotten first.
        lengths = self._outputs.pop(pair, None) or {}
        bucket = _bucket(output)
        lengths[bucket] = lengths.get(bucket, 0) + _WEIGHT
        if sum(lengths.values()) > REMEMBERED * _WEIGHT:
            lengths = {at: weight // 2 for at, weight in lengths.items() if weight > 1}
        if len(self._outputs) >= PAIRS:
            del self._outputs[next(iter(self._outputs))]
        self._outputs[pair] = lengths

    def usual_output(self, key: str, deployment: str, percent: int = 80) -> int | None:
        """Output tokens within which this part of the key's answers ended, up to a quarter more; None: too few to know."""
        lengths = self._outputs.get((key, deployment))
        total = sum(lengths.values()) if lengths else 0
        if not lengths or total < ENOUGH * _WEIGHT:
            return None
        reached = 0
        for bucket in sorted(lengths):
            reached += lengths[bucket]
            if reached * 100 >= total * percent:
                return _most(bucket)
        return None


def _bucket(tokens: int) -> int:
    """Four buckets to each doubling: exact up to 7 tokens, then within a quarter."""
    shift = max(0, tokens.bit_length() - 3)
    return 4 * shift + (tokens >> shift)


def _most(bucket: int) -> int:
    """The largest number of tokens in a bucket."""
    shift = max(0, bucket // 4 - 1)
    return ((bucket - 4 * shift + 1) << shift) - 1
