"""faregate quote: what tokens cost at a host, for a model, at an instant; with the card and window that say so."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from gateway.cli import CommandError
from gateway.clock import parse_instant
from gateway.commands.folder import HELP, folder_of
from gateway.money import decimal_text
from gateway.policies import load
from gateway.quotes import Quote, quote

EXAMPLE = "faregate quote --host deepseek --model deepseek-v4-pro --at 2026-11-20T02:00:00Z --miss 1000000 --output 1000000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", required=True, help="a host of the policies, or the baseline's (openai)")
    parser.add_argument("--model", required=True, help="the model's id at that host")
    parser.add_argument("--at", help="RFC 3339 instant with a zone (default: now)")
    parser.add_argument("--hit", type=int, default=0, help="prompt tokens read from the cache")
    parser.add_argument("--miss", type=int, default=0, help="prompt tokens not in the cache")
    parser.add_argument("--output", type=int, default=0, help="output tokens, reasoning included")
    parser.add_argument("--currency", help="USD or CNY: chooses the price list (default: USD where there is one)")
    parser.add_argument("--policies", type=Path, help=HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if min(args.hit, args.miss, args.output) < 0:
        raise CommandError("--hit, --miss and --output are counts of tokens: 0 or more")
    policies = load(folder_of(args.policies))
    currency = args.currency.upper() if args.currency else None
    found = quote(policies, args.host, args.model, _instant(args.at), args.hit, args.miss, args.output, currency)
    print(json.dumps(found.to_json()) if args.json else _text(found))
    return 0


def _instant(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        return parse_instant(text)
    except ValueError as error:
        what = "has no time zone" if "zone" in str(error) else "is no instant"
        raise CommandError(f"--at: {text!r} {what}. Write it as 2026-11-20T02:00:00Z.") from None


def _text(found: Quote) -> str:
    shown = found.to_json()
    trust = "" if shown["verified"] else ", unverified"
    lines = [f"{shown['amount']} {shown['currency']}  (card {shown['card']}, window {shown['window']}{trust})"]
    lines += [f"  {line['class']:<10} {line['tokens']:>12} tokens  {decimal_text(line['nano'])}" for line in shown["lines"]]
    lines += [f"warning: {text}" for text in shown.get("warnings", ())]
    return "\n".join(lines)
