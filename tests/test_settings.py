"""Settings: every variable is read and checked; a bad one is named with its remedy, and no secret is ever shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import Settings, SettingsError, load
from gateway.timekeeping import Shift

SECRET = "sk-correct-horse-battery"


def settings(**variables: str) -> Settings:
    return load({f"FAREGATE_{name}": value for name, value in variables.items()}, None)


def test_without_any_variable_the_defaults_hold() -> None:
    found = settings()
    assert (found.host, found.port, found.admin_host, found.admin_port) == ("127.0.0.1", 8080, "127.0.0.1", 8081)
    assert (found.redis_down, found.ledger_down, found.lease, found.max_body) == ("ledger", "closed", 30, 16 * 1024 * 1024)
    assert found.ledger_address == "sqlite:///data/ledger.db"
    assert found.keys == () and found.admin_token is None and found.clock is None and found.warnings == ()


def test_every_variable_is_read(tmp_path: Path) -> None:
    found = settings(
        POLICIES="p",
        DATA="d",
        SECRETS=str(tmp_path),
        HOST="::",
        PORT="1",
        ADMIN_HOST="0.0.0.0",
        ADMIN_PORT="2",
        ADMIN_TOKEN=SECRET,
        LEDGER="postgresql://u:p@h/db",
        REDIS="redis://h:6379/0",
        REDIS_DOWN="closed",
        LEDGER_DOWN="open:5.00",
        KEYS=f"search:{SECRET}, ads:other-key-1",
        KEY_PEPPER="x" * 32,
        STORE_KEY="y" * 32,
        BASE_URL_INFERENCE_NET="http://127.0.0.1:9000/v1/",
        CURRENCY_DEEPSEEK="CNY",
        LITELLM_PYTHON="/opt/litellm/bin/python",
        CLOCK="2026-11-20T00:59:00Z*60",
        TIMEOUT_CONNECT="1.5",
        TIMEOUT_FIRST_BYTE="2",
        TIMEOUT_IDLE="3",
        TIMEOUT_TOTAL="4",
        TIMEOUT_RECEIVE="5",
        LEASE="6",
        DRAIN="7",
        MAX_BODY="1MiB",
        BALANCE_POLL="60",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="text",
        LOG_REQUESTS="off",
    )
    assert found.model_fields_set == set(Settings.model_fields)
    assert [(entry.team, entry.key.get_secret_value()) for entry in found.keys] == [("search", SECRET), ("ads", "other-key-1")]
    assert found.base_urls_of("inference-net") == ("http://127.0.0.1:9000/v1",)
    assert found.base_urls_of("deepseek") == ()
    assert (found.currency_of("deepseek"), found.currency_of("novita")) == ("CNY", "USD")
    assert found.clock == Shift(datetime(2026, 11, 20, 0, 59, tzinfo=UTC), 60)
    assert (found.policies, found.max_body, found.log_level, found.timeout_connect) == (Path("p"), 1 << 20, "debug", 1.5)
    assert found.ledger_address == "postgresql://u:p@h/db"


def test_replicas_of_an_engine_are_a_list() -> None:
    found = settings(BASE_URL_LOCAL="http://a:8000/v1, http://b:8000/v1/")
    assert found.base_urls_of("local") == ("http://a:8000/v1", "http://b:8000/v1")


BAD = [
    ("PORT", "http"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("ADMIN_TOKEN", "short"),
    ("LEDGER", "mysql://u:p@h/db"),
    ("LEDGER", "sqlite://"),
    ("REDIS", "localhost:6379"),
    ("REDIS_DOWN", "maybe"),
    ("LEDGER_DOWN", "open"),
    ("LEDGER_DOWN", "open:cheap"),
    ("LEDGER_DOWN", "open:0.0000000001"),
    ("LEDGER_DOWN", "closed:1"),
    ("KEYS", SECRET),
    ("KEYS", f":{SECRET}"),
    ("KEYS", "search:short"),
    ("KEYS", f"a team:{SECRET}"),
    ("KEYS", f"search:{SECRET} {SECRET}"),
    ("KEYS", f"search:{SECRET},ads:{SECRET}"),
    ("KEYS", "search:schlüssel"),
    ("KEY_PEPPER", "short"),
    ("STORE_KEY", "short"),
    ("BASE_URL_NOVITA", "novita.example/v1"),
    ("BASE_URL_NOVITA", f"https://user:{SECRET}@novita.example/v1"),
    ("BASE_URL_NOVITA", "https://novita.example/v1?key=1"),
    ("BASE_URL_LOCAL", "http://a:8000/v1,"),
    ("BASE_URL_LOCAL", "http://a:8000/v1,b:8000"),
    ("BASE_URL_LOCAL", "http://a:8000/v1,http://a:8000/v1/"),
    ("BASE_URL_LOCAL", f"http://a:8000/v1,http://user:{SECRET}@b:8000/v1"),
    ("CURRENCY_NOVITA", "yuan"),
    ("CLOCK", "tomorrow"),
    ("CLOCK", "2026-11-20T00:59:00"),
    ("TIMEOUT_CONNECT", "0"),
    ("TIMEOUT_FIRST_BYTE", "-1"),
    ("TIMEOUT_IDLE", "nan"),
    ("TIMEOUT_TOTAL", "inf"),
    ("TIMEOUT_RECEIVE", "ten"),
    ("LEASE", "0"),
    ("DRAIN", "-1"),
    ("MAX_BODY", "1"),
    ("MAX_BODY", "lots"),
    ("LOG_LEVEL", "loud"),
    ("LOG_FORMAT", "xml"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_one_line_that_names_the_variable_and_shows_no_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(**{name: value})
    assert str(error.value).startswith(f"FAREGATE_{name}: ") and "\n" not in str(error.value)
    assert SECRET not in str(error.value) and "u:p" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_even_the_validator_s_own_text_shows_no_value() -> None:
    with pytest.raises(ValidationError) as error:
        Settings.model_validate({"ledger": SECRET, "port": SECRET})
    assert SECRET not in str(error.value)


def test_every_bad_value_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        settings(PORT="x", LEASE="y")
    assert len(str(error.value).splitlines()) == 2


def test_no_secret_shows_in_any_text_of_the_settings() -> None:
    found = load(
        {
            "FAREGATE_KEYS": f"search:{SECRET}",
            "FAREGATE_ADMIN_TOKEN": SECRET,
            "FAREGATE_KEY_PEPPER": SECRET,
            "FAREGATE_STORE_KEY": SECRET,
            "FAREGATE_LEDGER": f"postgresql://u:{SECRET}@h/db",
            "FAREGATE_REDIS": f"redis://:{SECRET}@h/0",
            "DEEPSEEK_API_KEY": SECRET,
        },
        None,
    )
    assert SECRET not in f"{found!r}{found}{found.model_dump()}{vars(found)}{found.__pydantic_private__}{found.model_dump_json()}"


def test_the_environment_wins_over_the_file_and_an_empty_value_is_none(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("FAREGATE_PORT=1\nFAREGATE_LEASE=9\nDEEPSEEK_API_KEY='from file'\nFAREGATE_ADMIN_TOKEN=\n")
    found = load({"FAREGATE_PORT": "2", "FAREGATE_LEASE": "", "NOVITA_API_KEY": SECRET}, file)
    assert (found.port, found.lease, found.admin_token) == (2, 9, None)
    keys = [found.upstream_key(name) for name in ("DEEPSEEK_API_KEY", "NOVITA_API_KEY", "GMI_API_KEY")]
    assert [key.get_secret_value() if key else None for key in keys] == ["from file", SECRET, None]


def test_a_value_in_the_file_is_taken_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEEPSEEK_API_KEY=sk-${HOME}-$x\n")
    key = load({"HOME": "elsewhere"}, tmp_path / ".env").upstream_key("DEEPSEEK_API_KEY")
    assert key is not None and key.get_secret_value() == "sk-${HOME}-$x"


def test_the_settings_themselves_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("FAREGATE_PORT", "2")
    assert Settings().port == 8080


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert load({}, tmp_path / ".env").port == 8080


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"FAREGATE_PORT=\xff\xfe")
    with pytest.raises(SettingsError, match="Remedy"):
        load({}, tmp_path / ".env")


def test_a_misspelt_variable_is_told_with_the_likely_one() -> None:
    assert settings(PROT="1").warnings == ("FAREGATE_PROT is no setting and has no effect. Did you mean FAREGATE_PORT?",)


def test_what_kubernetes_adds_for_a_service_of_our_name_is_not_read() -> None:
    found = settings(
        PORT="tcp://10.0.0.1:8080",
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT_HTTP="8080",
        PORT_8080_TCP_ADDR="10.0.0.1",
        PORT_8080_TCP="tcp://10.0.0.1:8080",
    )
    assert found.port == 8080 and found.warnings == ()
