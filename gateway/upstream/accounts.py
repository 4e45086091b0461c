"""Accounts: where a host is reached from here, with which key, billed in which currency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from pydantic import SecretStr

from gateway.errors import UpstreamError
from gateway.hosts import Deployment, Host
from gateway.openings import Openings
from gateway.upstream import litellm_adapter as adapter
from gateway.upstream.key_file import PREFIX, KeyFile, plain

Auth = Literal["bearer", "api-key", "google"]


@dataclass(frozen=True, slots=True)
class Account:
    """How this gateway reaches one host. The key is not in the repr."""

    host: str
    base_url: str
    currency: str
    beta_url: str | None = None
    key: str | KeyFile | None = field(default=None, repr=False)
    auth: Auth = "bearer"
    replicas: tuple[str, ...] = ()
    """Base URLs of the copies of an own engine, `base_url` first; empty where there is one."""

    def url(self, beta: bool, replica: int = 0) -> str:
        """Where a chat completion is posted; `replica` counts from 0."""
        if replica:
            return self.replicas[replica].rstrip("/") + "/chat/completions"
        base = (self.beta_url or self.base_url) if beta else self.base_url
        return base.rstrip("/") + "/chat/completions"

    def headers(self, request_id: str, stream: bool) -> dict[str, str]:
        """Everything that is sent beside the body: never a header of the caller's.

        Raises UpstreamError, with nothing sent, where the key is in a file that cannot be read.
        """
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if stream else "application/json",
            "accept-encoding": "identity",
            "user-agent": "faregate",
            "x-request-id": request_id,
        }
        key = self.key
        if key:
            name, value = self._signed(key)
            headers[name] = value
        return headers

    def _signed(self, key: str | KeyFile) -> tuple[str, str]:
        text = key if isinstance(key, str) else key.read()
        return ("api-key", text) if self.auth == "api-key" else ("authorization", f"Bearer {text}")

    def secrets(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        """The credentials among the headers that were sent, each without its scheme: nobody may read them in what the host says."""
        value = sent.get("api-key" if self.auth == "api-key" else "authorization")
        return () if value is None else (value.rpartition(" ")[2],)

    def renewal(self, sent: Mapping[str, str]) -> Callable[[], bool] | None:
        """Tells, whenever it is asked, whether the key in its file is another one by now than was sent; None where it is in no file."""
        key = self.key
        if not isinstance(key, KeyFile):
            return None

        def renewed() -> bool:
            try:
                name, value = self._signed(key)
            except UpstreamError:
                return False
            return sent.get(name) != value

        return renewed


class Accounts:
    """The hosts that are configured here; a host without an account is left out of routing."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._accounts = dict(accounts)
        self.currencies: dict[str, str] = {name: account.currency for name, account in accounts.items()}
        self.openings: Final = Openings(self.currencies)

    def of(self, deployment: Deployment) -> Account:
        return self._accounts[deployment.host.host]

    def at(self, host: str) -> Account:
        """How a configured host is reached."""
        return self._accounts[host]

    def __contains__(self, host: str) -> bool:
        return host in self._accounts


class Configured(Protocol):
    """What the settings say of hosts."""

    @property
    def litellm_python(self) -> Path | None: ...

    def base_urls_of(self, host: str) -> tuple[str, ...]: ...

    def currency_of(self, host: str) -> str: ...

    def upstream_key(self, variable: str) -> SecretStr | None: ...

    def key_file(self, variable: str) -> Path | None: ...


class UnusableKey(ValueError):
    """A key that cannot be sent; the text names its variable and the remedy, and does not hold it."""


def account_for(host: Host, settings: Configured) -> Account | str:
    """How a host is reached, or what is missing for it, in words. Raises UnusableKey."""
    lacking = needs(host, settings)
    if lacking is not None:
        return lacking
    currency = settings.currency_of(host.host)
    if host.protocol == "bedrock":
        return Account(host.host, adapter.URL, currency)
    urls = settings.base_urls_of(host.host) or ((host.base_url,) if host.base_url else ())
    key = _key(host.key, settings) if host.key else None
    return Account(host.host, urls[0], currency, _beta(urls[0], host.beta_url), key, host.auth, urls if len(urls) > 1 else ())


def needs(host: Host, settings: Configured) -> str | None:
    """What must be set before this host can be used; None where nothing is missing."""
    if host.protocol == "bedrock":
        return adapter.needs(settings.upstream_key, settings.litellm_python)
    missing = []
    if host.key is not None and settings.upstream_key(host.key) is None:
        missing.append(host.key)
    if host.base_url is None and not settings.base_urls_of(host.host):
        missing.append(f"FAREGATE_BASE_URL_{host.host.upper().replace('-', '_')}")
    return " and ".join(missing) or None


def _key(variable: str, settings: Configured) -> str | KeyFile | None:
    secret = settings.upstream_key(variable)
    if secret is None:
        return None
    text = secret.get_secret_value()
    if text.startswith(PREFIX):
        return KeyFile(Path(text.removeprefix(PREFIX)))
    mounted = settings.key_file(variable)
    if mounted is not None:
        return KeyFile(mounted)
    try:
        return plain(text)
    except ValueError as error:
        raise UnusableKey(f"{variable} {error}. Remedy: set it to the key alone, or to {PREFIX}PATH.") from None


def _beta(base: str, beta: str | None) -> str | None:
    return base.rstrip("/") + beta if beta is not None and beta.startswith("/") else beta
