"""Keys: of hosts and of callers, as far as their shape and their files tell; none is ever shown."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.doctor.findings import Finding, failure, ok, warning
from gateway.doctor.patient import Patient
from gateway.errors import UpstreamError
from gateway.hosts import Host
from gateway.reports.text import many
from gateway.upstream.accounts import Account
from gateway.upstream.key_file import PREFIX, KeyFile

# Shorter than any host's keys are.
SHORT: Final = 16
# What vendors' keys begin with, where they say so.
MARKS: Final = {"deepseek": "sk-", "openrouter": "sk-or-"}
_PLACEHOLDER: Final = re.compile(r"(?i)your|changeme|change-me|example|placeholder|xxxx|<|>|…|\.\.\.")
# Files of the data folder that hold secrets.
_SECRETS: Final = ("key-pepper", "recall-key")


def host_keys(patient: Patient) -> Iterator[Finding]:
    """Whether each configured host's key can be one; two hosts with the same key have one of them in the wrong variable."""
    for name, problem in patient.spoilt.items():
        text, _, remedy = problem.partition(" Remedy: ")
        yield failure("key", name, text.rstrip("."), remedy)
    seen: dict[str, str] = {}
    for host, account in patient.hosts():
        if account.key is None:
            continue
        key = _read(account.key)
        if key is None:
            yield _unreadable(host, account)
            continue
        if (path := _named_file(patient, host)) is not None:
            yield from _loose(path, host.host)
        doubt = _doubt(patient, host, key)
        if doubt is None and key in seen:
            doubt = f"is the same as that of {seen[key]}"
        seen.setdefault(key, host.host)
        if doubt:
            yield warning("key", host.host, f"{host.key} {doubt}", f"Copy the key from your account at {host.host} once more.")
        else:
            yield ok("key", host.host, f"{host.key} looks like a key")


def files(patient: Patient) -> Iterator[Finding]:
    """Files with secrets in them that everybody on this machine may read."""
    for path in (Path(".env"), *(patient.settings.data / name for name in _SECRETS)):
        if path.is_file():
            yield from _loose(path, str(path))


def callers(patient: Patient) -> Iterator[Finding]:
    """The teams of FAREGATE_KEYS exist; keys that `faregate keys` made are looked at with the ledger."""
    teams = {entry.team for entry in patient.settings.keys}
    for team in sorted(teams):
        if patient.policies.excludes(team):
            remedy = f"Write policies/teams/{team}.yaml, or take its key out of FAREGATE_KEYS."
            yield failure("callers", team, "has a key in FAREGATE_KEYS and no file in policies/teams/, so it is refused everything", remedy)
    if teams:
        yield ok("callers", "FAREGATE_KEYS", f"{many(len(patient.settings.keys), 'key')} of {many(len(teams), 'team')}")


def _read(key: str | KeyFile) -> str | None:
    if isinstance(key, str):
        return key
    try:
        return key.read()
    except UpstreamError:
        return None


def _unreadable(host: Host, account: Account) -> Finding:
    text = f"{host.key} names {account.key!r}, and no key can be read from it".replace("KeyFile(", "the file ").replace(")", "")
    return failure("key", host.host, text, "Put the key alone into it, and let the gateway's user read it.")


def _named_file(patient: Patient, host: Host) -> Path | None:
    """The file that a key's variable names; those that are mounted as FAREGATE_SECRETS are the orchestrator's to keep private."""
    secret = patient.settings.upstream_key(host.key or "")
    text = secret.get_secret_value() if secret else ""
    return Path(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None


def _doubt(patient: Patient, host: Host, text: str) -> str | None:
    mark = MARKS.get(host.host)
    if len(text) < SHORT:
        return f"has {len(text)} characters: too few for a key"
    if _PLACEHOLDER.search(text):
        return "looks like a placeholder out of some example"
    if text[:1] in "\"'" or text.lower().startswith("bearer"):
        return "has quotes or `Bearer` in it: only the key itself belongs there"
    if mark and not text.startswith(mark) and not patient.settings.base_urls_of(host.host):
        return f"does not begin with {mark}, as keys of {host.host} do"
    return None


def _loose(path: Path, subject: str) -> Iterator[Finding]:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if mode & stat.S_IROTH:
        yield warning("key", subject, f"{path} may be read by everybody on this machine", f"chmod o-rwx {path}")
