"""faregate keys: make, list, revoke and rotate the keys of teams, while gateways run."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.app import key_registry, ledger_file, on_postgres
from gateway.cli import CommandError
from gateway.commands.folder import folder_of
from gateway.keys.orders import Order, Rotation, checked, fits
from gateway.keys.port import KeyProblem
from gateway.keys.registry import Issued, Registry
from gateway.policies import load as load_policies
from gateway.reports.text import columns
from gateway.settings import Settings, SettingsError, load
from gateway.timekeeping import clock_for

EXAMPLE = "faregate keys create --team search --name ci --expires 90d --budget 5.00 --currency USD --period month"
EXAMPLES = (EXAMPLE, "faregate keys list --team search", "faregate keys revoke fg-Jw0vR2", "faregate keys rotate ci --grace 1h")
REFERENCE = "its id, prefix or name, or the whole key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="create | list | revoke | rotate")
    create = actions.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--team", required=True, help="whose key it is")
    create.add_argument("--name", help="what ledger and receipts call it (default: the team and six digits)")
    create.add_argument("--expires", help="when it ends: 90d, 12h, or an instant such as 2026-12-31T00:00:00Z (default: never)")
    create.add_argument("--budget", metavar="AMOUNT", help="a budget of its own, such as 5.00")
    create.add_argument("--currency", help="of the budget (default: USD)")
    create.add_argument("--period", choices=("hour", "day", "week", "month", "total"), help="of the budget (default: month)")
    create.add_argument("--zone", help="in which the period begins, such as Asia/Shanghai (default: UTC)")
    listed = actions.add_parser("list", help="every key, also those that have ended; nothing of it is secret")
    listed.add_argument("--team", help="only the keys of one team")
    revoke = actions.add_parser("revoke", help="end a key: within 5 seconds no gateway takes it")
    revoke.add_argument("reference", metavar="KEY", help=f"{REFERENCE}; a name ends every key that has it")
    rotate = actions.add_parser("rotate", help="make a successor with the same team, name and budget; it is shown this once")
    rotate.add_argument("reference", metavar="KEY", help=REFERENCE)
    rotate.add_argument("--grace", default="0s", help="how long the old key still works, such as 1h (default: not at all)")
    rotate.add_argument("--expires", help="when the new key ends (default: after a lifetime as the old one's)")
    for action, example in zip((create, listed, revoke, rotate), EXAMPLES, strict=True):
        action.add_argument("--json", action="store_true", help="print one JSON object")
        action.epilog, action.formatter_class = f"example:\n  {example}", argparse.RawDescriptionHelpFormatter


def run(args: argparse.Namespace) -> int:
    try:
        print(asyncio.run(_ACTIONS[args.action](args, load())))
    except (SettingsError, KeyProblem) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"the keys cannot be used ({error.strerror}). Remedy: set FAREGATE_DATA to a folder of yours.") from None
    return 0


async def _create(args: argparse.Namespace, settings: Settings) -> str:
    order: Order = checked(Order, _order(args))
    fits(order, load_policies(folder_of(None)), clock_for(settings.clock).now())
    async with _registry(settings) as registry:
        return _issued(args, settings, registry, await registry.create(order))


async def _list(args: argparse.Namespace, settings: Settings) -> str:
    _must_exist(settings)
    async with _registry(settings) as registry:
        rows = [registry.shown(key) for key in await registry.keys(args.team)]
    return json.dumps({"keys": rows}) if args.json else _table(rows)


async def _revoke(args: argparse.Namespace, settings: Settings) -> str:
    _must_exist(settings)
    async with _registry(settings) as registry:
        rows = [registry.shown(key) for key in await registry.revoke(args.reference)]
    return json.dumps({"revoked": rows}) if args.json else "\n".join(f"revoked {_words(row)}" for row in rows)


async def _rotate(args: argparse.Namespace, settings: Settings) -> str:
    order: Rotation = checked(Rotation, {"grace": args.grace, "expires": args.expires})
    _must_exist(settings)
    async with _registry(settings) as registry:
        return _issued(args, settings, registry, await registry.rotate(args.reference, order))


_ACTIONS = {"create": _create, "list": _list, "revoke": _revoke, "rotate": _rotate}


@asynccontextmanager
async def _registry(settings: Settings) -> AsyncIterator[Registry]:
    registry = key_registry(settings)
    try:
        await registry.store.start()
        yield registry
    finally:
        await registry.store.close()


def _must_exist(settings: Settings) -> None:
    """Where nothing is, there is nothing to look up, and no new file to be made by looking."""
    if not on_postgres(settings) and not (path := ledger_file(settings)).exists():
        raise CommandError(f"there is no ledger at {path}, so there are no keys. Remedy: set FAREGATE_LEDGER or FAREGATE_DATA.")


def _order(args: argparse.Namespace) -> dict[str, Any]:
    budget = {name: value for name in ("currency", "period", "zone") if (value := getattr(args, name)) is not None}
    if budget and args.budget is None:
        raise CommandError(f"--{next(iter(budget))} is a budget's: state its amount with --budget, such as --budget 5.00")
    own = {"budget": {"amount": args.budget, **budget}} if args.budget is not None else {}
    return {"team": args.team, "name": args.name, "expires": args.expires, **own}


def _issued(args: argparse.Namespace, settings: Settings, registry: Registry, issued: Issued) -> str:
    row, secret = registry.shown(issued.key), issued.secret.get_secret_value()
    if args.json:
        return json.dumps({**row, "key": secret})
    place = "the ledger's PostgreSQL" if on_postgres(settings) else str(ledger_file(settings))
    return f"{secret}\n{_words(row)}\nThe key is shown this once: only a digest of it is in {place}."


def _words(row: dict[str, Any]) -> str:
    budget = f", {_budget(row)}" if row["budget"] else ""
    ends = f"expires {row['expires']}" if row["expires"] else "does not expire"
    return f"{row['id']}: {row['name']} of team {row['team']}, {row['prefix']}…, {ends}{budget}"


def _budget(row: dict[str, Any]) -> str:
    own = row["budget"]
    if own is None:
        return ""
    each = "in total" if own["period"] == "total" else f"a {own['period']} ({own['zone']})"
    return f"{own['amount']} {own['currency']} {each}"


def _table(rows: list[dict[str, Any]]) -> str:
    """Columns as wide as what stands in them."""
    if not rows:
        return "There is no key. Remedy: faregate keys create --team NAME"
    lines = [("ID", "NAME", "TEAM", "PREFIX", "STATE", "CREATED", "EXPIRES", "BUDGET")]
    for row in rows:
        state = f"{row['state']}, now {row['replaced_by']}" if row["replaced_by"] else row["state"]
        shown = (row["id"], row["name"], row["team"], row["prefix"], state, row["created"][:19] + "Z", row["expires"] or "-", _budget(row))
        lines.append(shown)
    return "\n".join(columns(lines))
