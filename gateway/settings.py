"""Settings: read once, from the environment, a folder of secrets and a .env file; a bad value ends the start with one clear line.

The only module that reads the environment. Secrets are SecretStr: no repr, log or error shows one. docs/settings.md
describes every setting.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.money import exact_nano
from gateway.secret_folder import UnusableSecret, read_secrets
from gateway.timekeeping import Shift, parse_shift

PREFIX = "FAREGATE_"
KEY_LENGTH = 8
PEPPER_LENGTH = 16
TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What Kubernetes adds to a pod beside a Service named faregate; never meant for us.
INJECTED = re.compile(r"FAREGATE_(SERVICE_(HOST|PORT).*|PORT_\d+_.*)")


class SettingsError(Exception):
    """Settings that cannot be used: one line for each problem, with the variable and the remedy."""


@dataclass(frozen=True, slots=True)
class TeamKey:
    """One key of FAREGATE_KEYS and the team that it belongs to."""

    team: str
    key: SecretStr


def _keys(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    found = [_team_key(pair.strip()) for pair in text.split(",") if pair.strip()]
    if len({entry.key.get_secret_value() for entry in found}) < len(found):
        raise ValueError("has one key twice: give every team its own")
    return tuple(found)


def _team_key(pair: str) -> TeamKey:
    team, colon, key = pair.partition(":")
    if not colon or not TEAM.fullmatch(team):
        raise ValueError("must be team:key,team:key (a team is up to 64 letters, digits, '.', '_' or '-')")
    if len(key) < KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"the key of {team} must have {KEY_LENGTH} or more printable ASCII characters without spaces")
    return TeamKey(team, SecretStr(key))


def _long(least: int) -> Callable[[SecretStr], SecretStr]:
    def check(secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value()) < least:
            raise ValueError(f"must have {least} characters or more: make one with `openssl rand -hex 32`")
        return secret

    return check


def _shift(text: Any) -> Any:
    return parse_shift(text) if isinstance(text, str) else text


def _ledger(address: SecretStr) -> SecretStr:
    text = address.get_secret_value()
    if not re.match(r"sqlite:///.|postgres(ql)?://.", text):
        raise ValueError("must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")
    return address


def _redis(address: SecretStr) -> SecretStr:
    if not re.match(r"(rediss?|unix)://.", address.get_secret_value()):
        raise ValueError("must be redis://HOST:PORT/0, rediss://… or unix://…")
    return address


def _ledger_down(text: str) -> str:
    word, colon, amount = text.partition(":")
    if text != "closed" and (word != "open" or not colon):
        raise ValueError("must be closed or open:AMOUNT, such as open:5.00")
    if colon:
        exact_nano(amount)
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError("must be a URL such as https://api.example.com/v1, without credentials or a query")
    return text.rstrip("/")


def _urls(text: Any) -> Any:
    """One URL, or several with commas between them: the replicas of a local engine."""
    if not isinstance(text, str):
        return text
    found = tuple(_url(url.strip()) for url in text.split(","))
    if len(set(found)) < len(found):
        raise ValueError("names one URL twice")
    return found


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError("must be a currency code such as USD or CNY")
    return text


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls)]
Currency = Annotated[str, AfterValidator(_currency)]


class Settings(BaseSettings):
    """Every setting; the variable is FAREGATE_ and the name in capitals. `load` makes it: nothing is read from outside here."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    policies: Path | None = None
    data: Path = Path("data")
    secrets: Path | None = None
    host: str = "127.0.0.1"
    port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8081
    admin_token: Annotated[SecretStr, AfterValidator(_long(KEY_LENGTH))] | None = None
    ledger: Annotated[SecretStr, AfterValidator(_ledger)] | None = None
    redis: Annotated[SecretStr, AfterValidator(_redis)] | None = None
    redis_down: Literal["ledger", "closed", "open"] = "ledger"
    ledger_down: Annotated[str, AfterValidator(_ledger_down)] = "closed"
    keys: Annotated[tuple[TeamKey, ...], BeforeValidator(_keys)] = ()
    key_pepper: Annotated[SecretStr, AfterValidator(_long(PEPPER_LENGTH))] | None = None
    store_key: Annotated[SecretStr, AfterValidator(_long(PEPPER_LENGTH))] | None = None
    base_url: dict[str, Urls] = Field(default_factory=dict)
    currency: dict[str, Currency] = Field(default_factory=dict)
    litellm_python: Path | None = None
    clock: Annotated[Shift, BeforeValidator(_shift)] | None = None
    timeout_connect: Seconds = 5
    timeout_first_byte: Seconds = 660
    timeout_idle: Seconds = 120
    timeout_total: Seconds = 3600
    timeout_receive: Seconds = 30
    balance_poll: Annotated[int, Field(ge=0, le=86_400)] = 300
    lease: Seconds = 30
    drain: Annotated[int, Field(ge=0, le=86_400)] = 600
    max_body: Annotated[ByteSize, Field(ge=1024, le=1 << 30)] = ByteSize(16 << 20)
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    log_format: Annotated[Literal["json", "text"], BeforeValidator(_lower)] = "json"
    log_requests: Annotated[Literal["on", "off"], BeforeValidator(_lower)] = "on"

    _environment: dict[str, SecretStr] = PrivateAttr(default_factory=dict)
    _files: dict[str, Path] = PrivateAttr(default_factory=dict)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, and no more: the library's own sources take unknown variables for errors and empty ones for values."""
        return (init_settings,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Variables that begin with FAREGATE_ and are no setting, each as one line."""
        return self._warnings

    @property
    def ledger_address(self) -> str:
        """The ledger's URL; an SQLite file in the data folder where none is set. May hold a password: never log it."""
        return self.ledger.get_secret_value() if self.ledger else f"sqlite:///{self.data / 'ledger.db'}"

    def base_urls_of(self, host: str) -> tuple[str, ...]:
        """The operator's own base URLs of a host, where any is set: several are the replicas of a local engine."""
        return self.base_url.get(variable_name(host), ())

    def currency_of(self, host: str) -> str:
        """The currency of our account at a host."""
        return self.currency.get(variable_name(host), "USD")

    def upstream_key(self, variable: str) -> SecretStr | None:
        """The key in the variable that a host's row names; None where it is not set."""
        return self._environment.get(variable)

    def key_file(self, variable: str) -> Path | None:
        """The file of the secrets' folder that the variable came from, where it may be renewed; None for one that came from elsewhere."""
        return self._files.get(variable)


def variable_name(host: str) -> str:
    """A host's name as it stands in a variable: inference-net -> INFERENCE_NET."""
    return host.upper().replace("-", "_")


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Settings:
    """The settings of this environment. Raises SettingsError.

    A variable wins over the folder of secrets, and that over the .env file; an empty one counts as absent.
    """
    values, files = _merged(os.environ if environ is None else environ, env_file)
    variables = Variables(values)
    try:
        settings = Settings(**variables())
    except ValidationError as error:
        raise SettingsError("\n".join(_problem(entry) for entry in error.errors())) from None
    settings._environment.update({name: SecretStr(value) for name, value in values.items() if not name.startswith(PREFIX)})
    settings._files.update(files)
    settings._warnings = tuple(map(_advice, variables.unknown))
    return settings


def _merged(environ: Mapping[str, str], env_file: Path | None) -> tuple[dict[str, str], dict[str, Path]]:
    """The values by variable, and the files of those that the folder of secrets gave."""
    try:
        from_file = dotenv_values(env_file, interpolate=False) if env_file and env_file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file}: cannot be read ({type(error).__name__}). Remedy: make it readable UTF-8.") from None
    set_here = {name: value.strip() for name, value in environ.items() if value.strip()}
    below = {name: value.strip() for name, value in from_file.items() if value and value.strip()}
    folder = set_here.get(PREFIX + "SECRETS") or below.get(PREFIX + "SECRETS")
    try:
        secrets = read_secrets(Path(folder)) if folder else {}
    except UnusableSecret as error:
        raise SettingsError(f"{PREFIX}SECRETS: {error}") from None
    files = {name: file for name, (file, _) in secrets.items() if name not in set_here}
    return {**below, **{name: text for name, (_, text) in secrets.items()}, **set_here}, files


class Variables(PydanticBaseSettingsSource):
    """The source of settings: variables by name, to fields by name. `unknown` are those that belong to none."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self._fields: dict[str, Any] = {"base_url": {}, "currency": {}}
        self.unknown: list[str] = []
        for variable, value in values.items():
            if variable.startswith(PREFIX) and not INJECTED.fullmatch(variable) and not value.startswith("tcp://"):
                self._take(variable, value)

    def __call__(self) -> dict[str, Any]:
        return self._fields

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._fields.get(field_name), field_name, False

    def _take(self, variable: str, value: str) -> None:
        name = variable.removeprefix(PREFIX).lower()
        group = next((group for group in ("base_url", "currency") if name.startswith(group + "_")), None)
        if group:
            self._fields[group][name.removeprefix(group + "_").upper()] = value
        elif name in Settings.model_fields and name not in self._fields:
            self._fields[name] = value
        else:
            self.unknown.append(variable)


def _advice(variable: str) -> str:
    # Without what all of them begin with, which makes any two alike.
    known = [name.upper() for name in Settings.model_fields]
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), known, 1)
    return f"{variable} is no setting and has no effect." + (f" Did you mean {PREFIX}{near[0]}?" if near else "")


def _problem(entry: Any) -> str:
    """One line for one problem. The value is not shown: it may be a secret."""
    variable = PREFIX + "_".join(str(part) for part in entry["loc"][:2]).upper()
    reason = entry["msg"].removeprefix("Value error, ")
    return f"{variable}: {reason[:1].lower()}{reason[1:]}. See docs/settings.md."
