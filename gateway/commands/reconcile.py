"""faregate reconcile: a host's usage export against the ledger, with a likely reason for each difference, and corrections."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.app import ledger_store
from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP, Reader, ask, instant_of, settings_with
from gateway.errors import UpstreamError
from gateway.ledger.corrections import wanted
from gateway.ledger.gathering import settled
from gateway.ledger.port import CorrectionError
from gateway.outcome import Correction
from gateway.policies import Policies, load
from gateway.reconcile.bills import Bill, BillKey, ExportError, Span, filled, joined
from gateway.reconcile.charges import Tariff, charges
from gateway.reconcile.compare import Comparison, Table, margin, reach_of
from gateway.reconcile.exports import LARGEST, read
from gateway.reconcile.proposals import HELD_BACK, proposals
from gateway.reconcile.reasons import Reason, explain
from gateway.reconcile.report import Reconciled, correction_json, json_of, lines_of, text_of
from gateway.reconciled import LastTime, Reconciliations
from gateway.reports.text import many, seen
from gateway.settings import Settings
from gateway.standings import zone_of
from gateway.timekeeping import clock_for
from gateway.upstream.accounts import Account, UnusableKey, account_for

EXAMPLE = "faregate reconcile usage_data_2026-11-01_2026-11-30.zip --propose corrections.json"
OURS: Final = "ours"
_FILES: Final = "the export as the host gave it: ZIP, CSV, JSON or JSON lines; - is standard input"
_INPUT: Final = Path("-")
WORD: Final = "apply"
_PAGE: Final = 2000
_EDGE: Final = 120
_DATE: Final = len("2026-11-20")
# As many characters of a masked key must be seen before it says anything.
_VISIBLE: Final = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help=_FILES)
    parser.add_argument("--host", help="the host in policies/hosts; default: the one whose export it is")
    parser.add_argument("--from", dest="start", metavar="DATE", help="leave out the host's days before (or an instant)")
    parser.add_argument("--to", dest="end", metavar="DATE", help="leave out the host's days from then on (or an instant)")
    parser.add_argument("--zone", metavar="ZONE", help="of days that the export writes without one (utc_date); default: UTC")
    parser.add_argument("--currency", help="of the account; default: what the export says, else FAREGATE_CURRENCY_<HOST>")
    parser.add_argument(
        "--key-map",
        metavar="KEY=OWNER",
        action="append",
        default=[],
        help="whose a key of the account is, by its name; `ours`: this ledger's",
    )
    parser.add_argument("--model-map", metavar="THEIRS=OURS", action="append", default=[], help="a model that the export calls otherwise")
    parser.add_argument("--edge", metavar="SECONDS", type=int, default=_EDGE, help="how near to a window's or a day's edge is near")
    parser.add_argument("--propose", metavar="FILE", type=Path, help="write the proposed corrections there, as JSON")
    parser.add_argument("--include", metavar="REASON", action="append", default=[], help=f"propose also: {', '.join(HELD_BACK)}, or all")
    parser.add_argument("--apply", action="store_true", help="append the proposed corrections to the ledger, once they are confirmed")
    parser.add_argument("--yes", action="store_true", help="confirm --apply without being asked")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where a gap is left")
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    asked = _Asked.of(args)
    done = asked.compared()
    if args.propose:
        _write(args.propose, done.proposed)
    if args.apply and done.proposed:
        _confirm(done, args.yes)
        applied = asyncio.run(_apply(asked.settings, asked.policies, done.proposed))
        done = asked.compared(applied)
    _keep(asked.settings, done)
    if args.json:
        print(json.dumps(json_of(done)))
    else:
        print(text_of(done))
        if done.proposed and not args.propose:
            print(f"\n{lines_of(done.proposed)}")
    return 1 if args.exit_code and done.gap else 0


class _Asked(NamedTuple):
    """What is compared with what."""

    settings: Settings
    policies: Policies
    host: str
    currency: str
    bill: Bill
    owners: dict[str, str]
    mine: frozenset[BillKey]
    window: tuple[datetime | None, datetime | None]
    edge: timedelta
    include: frozenset[Reason]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> _Asked:
        settings, policies = settings_with(args.ledger), load(folder_of(args.policies))
        whole = _read(args.files, _zone(args.zone))
        host = args.host or whole.kind
        if host not in policies.hosts:
            raise CommandError(f"--host: no host is named {host!r}; known are {', '.join(sorted(policies.hosts))}.")
        window = _instant("--from", args.start, whole), _instant("--to", args.end, whole)
        bill = whole.within(*window).called(_names(policies, host) | _pairs("--model-map", args.model_map))
        if not bill.spans:
            raise CommandError("the export has no line of a whole day in that time. Remedy: another --from or --to.")
        currency, notes = _currency(args.currency, bill, settings.currency_of(host), host)
        owners = _pairs("--key-map", args.key_map)
        mine, more = _mine(bill, owners, _own_key(settings, policies, host))
        include = _included(args.include)
        if bill.spans[-1].end > clock_for(settings.clock).now():
            more = [*more, f"{bill.spans[-1].name} is not over yet there: what was billed since the export is missing in it"]
        bill = bill._replace(totals=tuple(total for total in bill.totals if total.currency == currency))
        edge = timedelta(seconds=max(0, args.edge))
        return cls(settings, policies, host, currency, bill, owners, mine, window, edge, include, (*notes, *more))

    def compared(self, applied: int | None = None) -> Reconciled:
        table, there = ask(self.settings, self._compare)
        findings = explain(table)
        account = ",".join(filter(None, self.bill.accounts))
        proposed = proposals(findings, there, self.host, self.currency, account, self.include)
        return Reconciled(
            self.host, self.currency, account, table, findings, proposed, self.include, self.owners, self.notes, applied, there
        )  # fmt: skip

    async def _compare(self, reader: Reader) -> tuple[Table, list[Correction]]:
        tariff = Tariff(self.policies.prices, self.host, self.currency, self.edge)
        reach = reach_of(self.bill, self.mine, filled(self.bill.spans, *self.window))
        around = margin(reach, self.edge)
        first, last = reach.spans[0].start, reach.spans[-1].end
        if closed := await reader.closed(first, last):
            months = ", ".join(sorted({one.month for one in closed}))
            raise CommandError(f"the requests of {months} are archived: compare with --ledger and the archive, or leave those days out.")
        comparison = Comparison(self.bill, reach, tariff)
        page = await reader.page(around.start, around.end, None, None, _PAGE)
        while True:
            for row in page.rows:
                for charge in charges(row, tariff):
                    comparison.add(charge)
            if page.mark is None:
                break
            page = await reader.page(around.start, around.end, None, page.mark, _PAGE)
        await settled(reader, [], first, last)
        there = [one for one in await reader.corrections(first, last) if one.host == self.host and one.currency == self.currency]
        comparison.correct(there)
        return comparison.done(), there


# --- what was asked ----------------------------------------------------------------------------------------------------


def _read(files: list[Path], zone: tzinfo) -> Bill:
    try:
        return joined([read("standard input" if file == _INPUT else str(file), _bytes(file), zone) for file in files])
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from None
    except ExportError as error:
        raise CommandError(str(error)) from None


def _bytes(file: Path) -> bytes:
    """What is in a file, or a little more than any export has: the rest would be for nothing."""
    if file == _INPUT:
        return sys.stdin.buffer.read(LARGEST + 1)
    with file.open("rb") as source:
        return source.read(LARGEST + 1)


def _instant(option: str, text: str | None, bill: Bill) -> datetime | None:
    """A date is the beginning of the host's day of that name."""
    if text is None:
        return None
    found = instant_of(option, text, datetime.now(UTC))
    if len(text) != _DATE or not bill.spans:
        return found
    # From the last day before it: days have 23 or 25 hours where the clocks change.
    known = [span for span in bill.spans if span.name <= text] or bill.spans[:1]
    return known[-1].start if known[-1].name == text else _days_after(known[-1], found.date())


def _days_after(span: Span, day: date) -> datetime:
    apart = day - date.fromisoformat(span.name)
    return span.end + apart - timedelta(days=1) if apart > timedelta() else span.start + apart


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CommandError(f"--zone: {name!r} is no time zone. Write it as Asia/Shanghai or UTC.") from None


def _names(policies: Policies, host: str) -> dict[str, str]:
    """Our ids by those on the wire."""
    return {row.upstream: row.model for row in policies.hosts[host].models if row.upstream}


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise CommandError(f"{option}: {text!r} has no name on both sides of its equals sign.")
        found[name] = value
    return found


def _included(names: list[str]) -> frozenset[Reason]:
    if unknown := [name for name in names if name != "all" and name not in HELD_BACK]:
        raise CommandError(f"--include: {unknown[0]!r} is none of {', '.join(HELD_BACK)} and all.")
    return frozenset(reason for reason in get_args(Reason) if reason in HELD_BACK and (reason in names or "all" in names))


def _currency(named: str | None, bill: Bill, ours: str, host: str) -> tuple[str, list[str]]:
    stated = bill.currencies
    if named is not None:
        if stated and named not in stated:
            raise CommandError(f"--currency {named}: the export is in {' and '.join(stated)}.")
        return named, []
    if len(stated) > 1:
        raise CommandError(f"the export has costs in {' and '.join(stated)}, which do not add. Remedy: pass --currency.")
    if stated and stated[0] != ours:
        return stated[0], [f"the export is in {stated[0]}, and this gateway is set to be billed in {ours} by {host}"]
    return ours, []


def _own_key(settings: Settings, policies: Policies, host: str) -> str | None:
    """The key that this gateway sends to the host, to be compared with masked ones; never shown."""
    try:
        account = account_for(policies.hosts[host], settings)
        if not isinstance(account, Account) or account.key is None:
            return None
        return account.key if isinstance(account.key, str) else account.key.read()
    except (UnusableKey, UpstreamError):
        return None


def _mine(bill: Bill, owners: dict[str, str], own: str | None) -> tuple[frozenset[BillKey], list[str]]:
    """The export's keys that are this ledger's, and what is to be said about it."""
    named = {key: owners.get(key.name) or owners.get(key.masked) for key in bill.keys}
    if unknown := set(owners) - {key.name for key in bill.keys} - {key.masked for key in bill.keys}:
        raise CommandError(f"--key-map: the export has no key {sorted(unknown)[0]!r}; it has {_shown(bill.keys)}.")
    ours = frozenset(key for key, owner in named.items() if owner == OURS)
    rest = [key for key, owner in named.items() if owner is None]
    if ours or not rest:
        return ours, []
    if len(rest) == 1:
        return frozenset(rest), []
    fitting = frozenset(key for key in rest if own and _fits(key.masked, own))
    if not fitting:
        raise CommandError(f"the export has the keys {_shown(rest)}: say which are this ledger's with --key-map NAME=ours.")
    return fitting, [f"taken as this ledger's: key {_shown(sorted(fitting))}, by its masked form"]


def _shown(keys: Iterable[BillKey]) -> str:
    return seen(", ".join(map(str, keys))) or "none"


def _fits(masked: str, key: str) -> bool:
    """Whether a key may be the one that is shown masked: what is seen of it is its beginning and its end."""
    head, *middle, tail = re.split(r"[*\u2022\u2026.]+", masked) if re.search(r"[*\u2022\u2026]|\.\.", masked) else [masked, ""]
    seen = len(head) + len(tail)
    return not middle and _VISIBLE <= seen <= len(key) and key.startswith(head) and key.endswith(tail)


# --- what comes of it --------------------------------------------------------------------------------------------------


def _write(path: Path, corrections: Sequence[Correction]) -> None:
    try:
        path.write_text(json.dumps([correction_json(each) for each in corrections], indent=1) + "\n", "utf-8")
    except OSError as error:
        raise CommandError(f"--propose: {path} cannot be written: {error.strerror}.") from None


def _confirm(done: Reconciled, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "--apply changes what teams are charged, and nobody is here to be asked. Remedy: look at it first, then pass --yes."
        )
    print(lines_of(done.proposed), file=sys.stderr)
    print(f"Append {many(len(done.proposed), 'correction')} to the ledger? Type `{WORD}`: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != WORD:
        raise CommandError("nothing was appended.")


async def _apply(settings: Settings, policies: Policies, corrections: Sequence[Correction]) -> int:
    """How many were new. Where a rate is missing, nothing is written."""
    store, rate, zones = ledger_store(settings), policies.rates.rate, partial(zone_of, policies.teams)
    await store.start()
    begun = False
    try:
        for one in corrections:
            wanted(one, await store.budgets(one.at, one.team) if one.team else [], rate, zones)
        begun = True
        return await store.correct(corrections, rate, zones)
    except CorrectionError as error:
        what = "what stands before it was appended, and the rest not" if begun else "nothing was appended"
        raise CommandError(f"{what}: {error}") from None
    finally:
        await store.close()


def _keep(settings: Settings, done: Reconciled) -> None:
    """For /metrics. Where it cannot be kept, the reconciliation itself is no less true."""
    spans = done.spans
    last = LastTime(done.host, done.currency, done.gap, datetime.now(UTC), spans[0].start, spans[-1].end)
    try:
        Reconciliations(settings.data).keep(last)
    except OSError as error:
        print(f"faregate: {settings.data} cannot be written ({error.strerror}), so /metrics does not show this.", file=sys.stderr)
