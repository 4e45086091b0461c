"""Secrets from a folder: a file is a variable; what cannot be read is named with its remedy, and no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.hosts import Host
from gateway.policies import default_folder
from gateway.policies import load as load_policies
from gateway.secret_folder import LARGEST, UnusableSecret, read_secrets
from gateway.settings import SettingsError, load
from gateway.upstream.accounts import Account, account_for

SECRET = "sk-correct-horse-battery"


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def deepseek() -> Host:
    return load_policies(default_folder()).hosts["deepseek"]


def test_a_file_is_a_variable(tmp_path: Path) -> None:
    found = read_secrets(folder(tmp_path, FAREGATE_ADMIN_TOKEN=f"  {SECRET}\n", DEEPSEEK_API_KEY=SECRET, GMI_API_KEY=" \n"))
    assert found == {
        "DEEPSEEK_API_KEY": (tmp_path / "DEEPSEEK_API_KEY", SECRET),
        "FAREGATE_ADMIN_TOKEN": (tmp_path / "FAREGATE_ADMIN_TOKEN", SECRET),
    }


def test_what_is_no_variable_is_left_alone(tmp_path: Path) -> None:
    folder(tmp_path, **{"README.md": "x", ".gitignore": "*", "tls.crt": "x"})
    (tmp_path / "SUBFOLDER").mkdir()
    assert read_secrets(tmp_path) == {}


def test_a_secret_of_kubernetes_is_read_through_its_links(tmp_path: Path) -> None:
    """It mounts ..2026_11_22/KEY, ..data -> ..2026_11_22 and KEY -> ..data/KEY."""
    (tmp_path / "..2026_11_22").mkdir()
    folder(tmp_path / "..2026_11_22", DEEPSEEK_API_KEY=SECRET)
    (tmp_path / "..data").symlink_to("..2026_11_22")
    (tmp_path / "DEEPSEEK_API_KEY").symlink_to("..data/DEEPSEEK_API_KEY")
    assert read_secrets(tmp_path) == {"DEEPSEEK_API_KEY": (tmp_path / "DEEPSEEK_API_KEY", SECRET)}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableSecret, match=r"absent is no folder that can be read .* Remedy: "):
        read_secrets(tmp_path / "absent")


def test_what_is_no_secret_is_named_and_not_shown(tmp_path: Path) -> None:
    for content in (SECRET.encode() + b"\xff", SECRET.encode() * LARGEST):
        (tmp_path / "DEEPSEEK_API_KEY").write_bytes(content)
        with pytest.raises(UnusableSecret, match=r"DEEPSEEK_API_KEY.* Remedy: ") as error:
            read_secrets(tmp_path)
        assert SECRET not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    # A file that refuses even root.
    (tmp_path / "DEEPSEEK_API_KEY").symlink_to("/proc/self/mem")
    with pytest.raises(UnusableSecret, match=r"DEEPSEEK_API_KEY cannot be read .* Remedy: make it readable"):
        read_secrets(tmp_path)


def test_settings_come_from_the_folder(tmp_path: Path) -> None:
    folder(tmp_path, FAREGATE_ADMIN_TOKEN=SECRET, FAREGATE_LEDGER="postgresql://u:p@h/db\n", FAREGATE_KEYS=f"search:{SECRET}")
    found = load({"FAREGATE_SECRETS": str(tmp_path)}, None)
    assert found.admin_token is not None and found.admin_token.get_secret_value() == SECRET
    assert found.ledger_address == "postgresql://u:p@h/db" and found.keys[0].team == "search"
    assert SECRET not in f"{found!r}{found.model_dump()}{vars(found)}{found.__pydantic_private__}"


def test_the_environment_wins_over_the_folder_and_that_over_the_env_file(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    folder(secrets, FAREGATE_PORT="2", FAREGATE_LEASE="2", DEEPSEEK_API_KEY="in-folder", NOVITA_API_KEY="in-folder")
    env = tmp_path / ".env"
    env.write_text(f"FAREGATE_SECRETS={secrets}\nFAREGATE_PORT=3\nFAREGATE_LEASE=3\nFAREGATE_DRAIN=3\nNOVITA_API_KEY=in-env-file\n")
    found = load({"FAREGATE_PORT": "1", "DEEPSEEK_API_KEY": "in-environment"}, env)
    assert (found.port, found.lease, found.drain) == (1, 2, 3)
    keys = [found.upstream_key(name) for name in ("DEEPSEEK_API_KEY", "NOVITA_API_KEY")]
    assert [key.get_secret_value() if key else None for key in keys] == ["in-environment", "in-folder"]
    assert (found.key_file("DEEPSEEK_API_KEY"), found.key_file("NOVITA_API_KEY")) == (None, secrets / "NOVITA_API_KEY")


def test_a_bad_folder_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load({"FAREGATE_SECRETS": str(tmp_path / "absent")}, None)
    assert str(error.value).startswith("FAREGATE_SECRETS: ") and "\n" not in str(error.value)


def test_a_bad_value_in_a_file_is_named_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^FAREGATE_ADMIN_TOKEN: must have"):
        load({"FAREGATE_SECRETS": str(folder(tmp_path, FAREGATE_ADMIN_TOKEN="short"))}, None)


def test_a_hosts_key_in_the_folder_is_renewed_without_a_restart(tmp_path: Path) -> None:
    settings = load({"FAREGATE_SECRETS": str(folder(tmp_path, DEEPSEEK_API_KEY="first-key\n"))}, None)
    account = account_for(deepseek(), settings)
    assert isinstance(account, Account)
    sent = account.headers("id", stream=False)
    (tmp_path / "DEEPSEEK_API_KEY").write_text("second-key\n")
    assert sent["authorization"] == "Bearer first-key"
    assert account.headers("id", stream=False)["authorization"] == "Bearer second-key"


def test_a_file_in_the_folder_may_name_another_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "token"
    elsewhere.write_text("renewed-by-others")
    account = account_for(deepseek(), load({"FAREGATE_SECRETS": str(folder(tmp_path, DEEPSEEK_API_KEY=f"file:{elsewhere}"))}, None))
    assert isinstance(account, Account)
    assert account.headers("id", stream=False)["authorization"] == "Bearer renewed-by-others"
