"""Experience: what earlier answers of a deployment teach about the next one. Used only where a host does not report.

Prompt tokens are estimated from text and corrected by what the host reported before; output that was produced but never
sent (a whole answer whose client left) is estimated from the pace of earlier answers.
"""

from __future__ import annotations

from gateway.tokens import Calibration
from gateway.usage import Usage

# Output tokens per second of a deployment that has not answered yet: the middle of what hosts of this family do.
TYPICAL_PACE = 30
# No host of this family writes faster: an answer from a cache, or a clock that jumped, must not set the pace.
FASTEST_PACE = 400
_WEIGHT = 8


class Experience:
    """Learns from reported answers, deployment by deployment; integers only, bounded by the number of deployments."""

    def __init__(self) -> None:
        self._prompts = Calibration()
        # Output tokens and milliseconds, both losing an eighth with each answer.
        self._paces: dict[str, tuple[int, int]] = {}

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
