"""faregate quote: what tokens cost at a host, for a model, at an instant; how many questions cost, and under the next version."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.cli import CommandError
from gateway.commands.folder import HELP, folder_of
from gateway.commands.reading import HELP as LEDGER
from gateway.commands.reading import instant_of, rows_between, settings_with
from gateway.money import decimal_text
from gateway.policies import Policies, load
from gateway.quotes import Quote, quote
from gateway.simulate.report import amount, counted
from gateway.simulate.versions import Longer, Traffic, longer, traffic
from gateway.timekeeping import clock_for

EXAMPLE = """faregate quote --host deepseek --model deepseek-v4-pro --at 2026-11-20T02:00:00Z --miss 1000000 --output 1000000
  faregate quote --host novita --model deepseek/deepseek-r1-0528 --miss 800 --questions 10000
  faregate quote --team search --next deepseek-r1-0528"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", help="a host of the policies, or the baseline's (openai)")
    add("--model", help="the model's id at that host")
    add("--at", help="RFC 3339 instant with a zone (default: now)")
    add("--hit", type=int, default=0, help="prompt tokens read from the cache")
    add("--miss", type=int, default=0, help="prompt tokens not in the cache")
    add(
        "--output",
        type=int,
        help="output tokens, reasoning included (default: 0; with --questions or --next the version's own mean, where that is known)",
    )
    add("--currency", help="USD or CNY: chooses the price list (default: USD where there is one)")
    add("--questions", type=int, metavar="N", help="also what so many such requests cost")
    add("--next", metavar="CONTRACT", help="also with answers as long as this version's, at the same prices")
    add("--team", help="instead of --host and --model: what the requests of this team did cost, and would under --next")
    add("--days", type=int, default=30, help="with --team: those of so many days, up to now (default: 30)")
    add("--ledger", metavar="ADDRESS", help=f"with --team: {LEDGER}")
    add("--policies", type=Path, help=HELP)
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if min(args.hit, args.miss, args.output or 0) < 0:
        raise CommandError("--hit, --miss and --output are counts of tokens: 0 or more")
    if args.team is not None:
        return _team(args)
    if args.host is None or args.model is None:
        raise CommandError("name --host and --model, or a --team. `faregate quote --help` shows an example.")
    if args.questions is not None and args.questions < 1:
        raise CommandError("--questions is 1 or more")
    policies = load(folder_of(args.policies))
    found = _Quoted(args, policies)
    print(json.dumps(found.to_json()) if args.json else found.text())
    return 0


class _Quoted:
    """One quote, and, where they are asked for, that of many such requests and of the next version's."""

    def __init__(self, args: argparse.Namespace, policies: Policies) -> None:
        at = instant_of("--at", args.at, _now())
        deployment = policies.deployment(args.host, args.model, at)
        self._version = deployment.contract if deployment else None
        self._questions: int = args.questions or 1
        self._many = args.questions is not None
        self._change = _change(args.next, self._version.contract if self._version else None, policies) if args.next else None
        output = self._output(args)
        currency = args.currency.upper() if args.currency else None
        self.now = quote(policies, args.host, args.model, at, args.hit, args.miss, output, currency)
        longer_output = self._change.tokens(output) if self._change else output
        self.then = quote(policies, args.host, args.model, at, args.hit, args.miss, longer_output, currency)

    def _output(self, args: argparse.Namespace) -> int:
        """Tokens of an answer: those named, else the version's own mean where whole requests are priced; a guess of 0 is never sold."""
        if args.output is not None:
            named: int = args.output
            return named
        if not (self._many or args.next):
            return 0
        if self._version is not None and self._version.baseline_output:
            return self._version.baseline_output
        whose = self._version.contract if self._version is not None else f"{args.host}/{args.model}"
        raise CommandError(f"--questions: nobody says how long the answers of {whose} are. Say it with --output, in tokens of one answer.")

    def to_json(self) -> dict[str, Any]:
        found = self.now.to_json()
        if self._many:
            found["questions"] = self._times(self.now)
        if self._change:
            found["next"] = {
                "contract": self._change.then,
                "from": self._change.now,
                "output": self.then.tokens[2],
                **self._times(self.then),
            }
        return found

    def _times(self, one: Quote) -> dict[str, Any]:
        nano = one.nano * self._questions
        return {"count": self._questions, "nano": nano, "amount": decimal_text(nano)}

    def text(self) -> str:
        lines = [_text(self.now)]
        currency = self.now.card.currency
        if self._many:
            lines.append(f"{counted(self._questions, 'such request')}: {amount(self.now.nano * self._questions)} {currency}")
        if self._change:
            nano, before = self.then.nano * self._questions, self.now.nano * self._questions
            lines.append(f"With {self._change}:")
            what = f"{self._questions:,} such requests" if self._many else "one such request"
            lines.append(f"  {what}: {amount(nano)} {currency} instead of {amount(before)}")
        return "\n".join(lines)


def _change(then: str, now: str | None, policies: Policies) -> Longer:
    if now is None:
        raise CommandError("--next: no version is known to be served under this name at that instant.")
    try:
        return longer(policies.contracts, now, then)
    except ValueError as error:
        raise CommandError(f"--next: {error}") from None


def _text(found: Quote) -> str:
    shown = found.to_json()
    trust = "" if shown["verified"] else ", unverified"
    lines = [f"{shown['amount']} {shown['currency']}  (card {shown['card']}, window {shown['window']}{trust})"]
    lines += [f"  {line['class']:<10} {line['tokens']:>12} tokens  {decimal_text(line['nano'])}" for line in shown["lines"]]
    lines += [f"warning: {text}" for text in shown.get("warnings", ())]
    return "\n".join(lines)


def _team(args: argparse.Namespace) -> int:
    """What a team's requests did cost, and what they would cost with the next version's answers."""
    if not args.next:
        raise CommandError("--team: name the version with --next. `faregate budgets` shows what teams have spent.")
    policies = load(folder_of(args.policies))
    contract = policies.contracts.get(args.next)
    if contract is None or not contract.baseline_output:
        known = ", ".join(sorted(name for name, one in policies.contracts.items() if one.baseline_output))
        raise CommandError(f"--next: nobody says how long the answers of {args.next!r} are. It is known of {known}.")
    now = _now()
    rows = rows_between(settings_with(args.ledger), now - timedelta(days=args.days), now, args.team)
    found = traffic(rows, policies.contracts, args.next)
    if args.json:
        print(json.dumps({"team": args.team, "days": args.days, "next": args.next, "traffic": [_traffic_json(one) for one in found]}))
    else:
        nothing = f"team {args.team}: no charged request in the last {counted(args.days, 'day')}"
        print("\n".join(_traffic_text(one, args) for one in found) or nothing)
    return 0


def _traffic_json(one: Traffic) -> dict[str, Any]:
    return {
        "currency": one.currency,
        "requests": one.requests,
        "unchanged": one.unchanged,
        "output_tokens": one.output,
        "output_tokens_next": one.output_then,
        "nano": one.nano,
        "amount": decimal_text(one.nano),
        "nano_next": one.nano_then,
        "amount_next": decimal_text(one.nano_then),
    }


def _traffic_text(one: Traffic, args: argparse.Namespace) -> str:
    whose = f"team {args.team}, last {counted(args.days, 'day')}"
    lines = [
        f"{whose}: {counted(one.requests, 'request')}, {counted(one.output, 'output token')}, {amount(one.nano)} {one.currency}",
        f"with the answers of {args.next}: {counted(one.output_then, 'output token')}, {amount(one.nano_then)} {one.currency},"
        " at the same prices",
    ]
    if one.unchanged:
        lines.append(f"  counted as they were: {counted(one.unchanged, 'request')}; nobody says how long their version's answers are")
    return "\n".join(lines)


def _now() -> datetime:
    """The gateway's own time: FAREGATE_CLOCK may set it."""
    return clock_for(settings_with(None).clock).now()
