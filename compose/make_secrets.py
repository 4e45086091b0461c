"""Makes the secrets of docker-compose.yml that are missing, and copies the operator's own beside them.

    python make_secrets.py OWN MADE

MADE/gateway is the folder of FAREGATE_SECRETS; MADE/postgres, MADE/redis and MADE/grafana hold what those services read. Each is a volume
that one service sees, so a file may be readable to whatever user that service runs as. What was made once stays: a second run changes
nothing but the copies. A file in OWN replaces one that was made, an empty one takes it away.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# What the gateway's scripts and its link need, and no more: no FLUSHALL, no CONFIG, no key of anyone else's.
REDIS_COMMANDS = (
    "+ping +time +get +set +del +pexpire +hget +hset +hgetall +hdel +hincrby +zadd +zcount +zrange +zrangebyscore +zrem +zremrangebyscore"
    " +zscore +eval +evalsha +script|load +publish +subscribe +unsubscribe"
)


def main(own: Path, made: Path) -> None:
    """Everything is written anew under another name first: nobody reads half of a secret."""
    postgres = _once(made / "postgres" / "password")
    redis = _once(made / "redis" / "password")
    _write(
        made / "redis" / "users.acl",
        f"user default reset on nopass +ping\nuser faregate reset on >{redis} ~faregate:* &faregate:* {REDIS_COMMANDS}\n",
    )
    _once(made / "grafana" / "admin-password")
    gateway = made / "gateway"
    # Beside the folder of variables, under names that are none: what was made must outlast being replaced.
    kept = {name: _once(gateway / f".{name.lower()}") for name in ("FAREGATE_ADMIN_TOKEN", "FAREGATE_KEY_PEPPER", "FAREGATE_STORE_KEY")}
    kept["FAREGATE_KEYS"] = "first:" + _once(gateway / ".first-key")
    kept["FAREGATE_LEDGER"] = f"postgresql://faregate:{postgres}@postgres/faregate"
    kept["FAREGATE_REDIS"] = f"redis://faregate:{redis}@redis:6379/0"
    wanted = kept | {file.name: file.read_text("utf-8").strip() for file in own.iterdir() if VARIABLE.fullmatch(file.name)}
    for file in gateway.iterdir():
        if VARIABLE.fullmatch(file.name) and not wanted.get(file.name):
            file.unlink()
    for name, text in wanted.items():
        if text:
            _write(gateway / name, text + "\n")


def _once(file: Path) -> str:
    """The secret in a file, made where there is none."""
    if not file.exists():
        _write(file, secrets.token_hex(32) + "\n")
    return file.read_text("utf-8").strip()


def _write(file: Path, text: str) -> None:
    """A file whose text is already this is left alone, with its date: the gateway reads a host's key again when that changes."""
    if file.exists() and file.read_text("utf-8") == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    new.write_text(text, "utf-8")
    new.chmod(0o444)
    os.replace(new, file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python make_secrets.py OWN MADE")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
