"""The composition root: one process over real settings says what it serves, and needs nothing that is not configured."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway, ledger_file
from gateway.settings import SettingsError, load
from tests.harness import ADMIN, KEY, LiveGateway, get_json

CLOCK = "2026-11-20T02:00:00Z"


def gateway(folder: Path, **settings: str) -> Gateway:
    found = {"FAREGATE_DATA": str(folder), "FAREGATE_KEYS": "search:0123456789"} | settings
    return Gateway(load(found, None))


async def test_without_a_key_there_is_nobody_to_serve(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"faregate keys create.*FAREGATE_KEYS"):
        await gateway(tmp_path, FAREGATE_KEYS="").serve()


def test_a_host_is_configured_by_its_key_or_where_it_has_none_by_its_address(tmp_path: Path) -> None:
    made = gateway(tmp_path, DEEPSEEK_API_KEY="sk-1", FAREGATE_BASE_URL_LOCAL="http://127.0.0.1:9/v1", FAREGATE_CURRENCY_DEEPSEEK="CNY")
    accounts = made.accounts(made.policies.current)
    assert dict(accounts.currencies) == {"deepseek": "CNY", "local": "USD"}
    assert made.accounts(made.policies.current) is accounts


def test_the_ledger_is_a_file(tmp_path: Path) -> None:
    assert ledger_file(gateway(tmp_path).settings) == tmp_path / "ledger.db"
    assert ledger_file(gateway(tmp_path, FAREGATE_LEDGER="sqlite:////x/y.db").settings) == Path("/x/y.db")
    with pytest.raises(SettingsError, match="sqlite:///PATH"):
        ledger_file(gateway(tmp_path, FAREGATE_LEDGER="postgresql://h/d", FAREGATE_KEY_PEPPER="p" * 16).settings)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LiveGateway(tmp_path_factory.mktemp("app"), ("deepseek",), CLOCK) as running:
        yield running


def test_models_are_the_routes_that_something_here_serves_now(live: LiveGateway) -> None:
    found = get_json(live.base_url + "/models", {"authorization": f"Bearer {KEY}"})
    names = {model["id"] for model in found["data"]}
    assert {"deepseek-flash", "deepseek-chat", "deepseek-reasoner", "deepseek-v4-pro"} <= names
    # Nobody here serves V3.2, and no engine is configured.
    assert not {"deepseek-v3.2", "local"} & names


def test_hosts_say_what_they_lack(live: LiveGateway) -> None:
    found = get_json(live.admin_url + "/admin/v1/hosts", {"authorization": f"Bearer {ADMIN}"})
    hosts = {host["host"]: host for host in found}
    assert (hosts["deepseek"]["configured"], hosts["deepseek"]["needs"], hosts["deepseek"]["currency"]) == (True, None, "USD")
    assert "deepseek-flash" in hosts["deepseek"]["models"]
    assert "deepseek-reasoner" not in hosts["deepseek"]["models"]
    assert (hosts["novita"]["configured"], hosts["novita"]["needs"]) == (False, "NOVITA_API_KEY")
    assert (hosts["local"]["configured"], hosts["local"]["needs"]) == (False, "FAREGATE_BASE_URL_LOCAL")


def test_a_shifted_clock_is_announced_everywhere(live: LiveGateway) -> None:
    ready = get_json(live.root + "/readyz")
    assert (ready["ready"], ready["redis"]) == (True, "unused")
    assert ready["clock"]["set"].startswith("2026-11-20T02:00:00")
    with urllib.request.urlopen(live.root + "/healthz", timeout=5) as answer:
        assert answer.headers["x-faregate-clock"].startswith("2026-11-20T02:")
    assert "FAREGATE_CLOCK is set" in live.log


def test_the_start_line_names_addresses_and_hosts_and_no_key(live: LiveGateway) -> None:
    (line,) = [line for line in live.log.splitlines() if "serving on" in line]
    assert live.base_url in line
    assert live.admin_url in line
    assert "hosts: deepseek" in line
    assert KEY not in live.log
    assert "emulated-deepseek" not in live.log


def test_it_ends_well_and_leaves_a_ledger(tmp_path: Path) -> None:
    with LiveGateway(tmp_path, ("deepseek",), CLOCK) as running:
        status, headers, data = running.chat({"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi"}]})
        assert status == 200, data
        assert json.loads(data)["usage"]["cost"] > 0
        assert running.row(headers["x-request-id"])["status"] == "ok"
        assert running.close() == 0
    assert running.ledger.exists()


def test_what_lies_in_data_only_its_owner_may_read(live: LiveGateway) -> None:
    files = [path for path in live.ledger.parent.rglob("*") if path.is_file()]
    assert {"ledger.db", "ledger.db-wal"} <= {path.name for path in files}
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []
