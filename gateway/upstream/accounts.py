"""Accounts: where a host is reached from here, with which key, billed in which currency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.hosts import Deployment


@dataclass(frozen=True, slots=True)
class Account:
    """How this gateway reaches one host. The key is not in the repr."""

    host: str
    base_url: str
    currency: str
    beta_url: str | None = None
    key: str | None = field(default=None, repr=False)

    def url(self, beta: bool) -> str:
        """Where a chat completion is posted."""
        base = (self.beta_url or self.base_url) if beta else self.base_url
        return base.rstrip("/") + "/chat/completions"

    def headers(self, request_id: str, stream: bool) -> dict[str, str]:
        """Everything that is sent beside the body: never a header of the caller's."""
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if stream else "application/json",
            "accept-encoding": "identity",
            "user-agent": "faregate",
            "x-request-id": request_id,
        }
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        return headers


class Accounts:
    """The hosts that are configured here; a host without an account is left out of routing."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._accounts = dict(accounts)
        self.currencies: dict[str, str] = {name: account.currency for name, account in accounts.items()}

    def of(self, deployment: Deployment) -> Account:
        return self._accounts[deployment.host.host]

    def __contains__(self, host: str) -> bool:
        return host in self._accounts
