"""faregate prices: the price lists that others publish, compared with ours, as cards that a person reviews."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from gateway.catalogues import litellm_map, openrouter
from gateway.catalogues.offers import Flagged, Offer
from gateway.catalogues.proposal import Proposed, Review, Stated, Terms, appended, difference, review, stated_in
from gateway.cli import CommandError
from gateway.clock import instant_text, parse_instant
from gateway.commands.folder import HELP, folder_of
from gateway.errors import PolicyError
from gateway.money import Rates, decimal_text
from gateway.policies import Policies, load
from gateway.reports.text import many, seen

EXAMPLE = "faregate prices import-litellm model_prices_and_context_window.json --host novita --from 2026-12-01T00:00:00Z"

Models = Mapping[tuple[str, str], str]


class Catalogue(NamedTuple):
    """How one kind of file is read."""

    title: str
    read: Callable[[Path], str]
    offers: Callable[[str, Models, bool], Iterator[Offer | Flagged]]


CATALOGUES = {
    "import-litellm": Catalogue("litellm price map", litellm_map.read, litellm_map.offers),
    "import-openrouter": Catalogue("OpenRouter /api/v1/models", openrouter.read, openrouter.offers),
}
FILES = {
    "import-litellm": "model_prices_and_context_window.json, or the wheel of litellm that has it",
    "import-openrouter": "what GET https://openrouter.ai/api/v1/models answered",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="|".join(CATALOGUES))
    for kind, catalogue in CATALOGUES.items():
        one = kinds.add_parser(kind, help=f"propose cards from: {catalogue.title}")
        one.add_argument("file", type=Path, help=FILES[kind])
        one.add_argument("--host", action="append", help="only this host of the policies; may be given several times")
        one.add_argument("--from", dest="start", help="when the new prices begin (default: the next midnight UTC; needed for --write)")
        one.add_argument("--write", action="store_true", help="append the cards to the files of the policies folder")
        one.add_argument(
            "--allow-drops",
            action="store_true",
            help="with --write: also cards that lack windows, holidays or a cached price of the card before",
        )
        one.add_argument("--round-noise", action="store_true", help="take 1.6000000000000001 for 1.6, and say so in the card")
        one.add_argument("--exit-code", action="store_true", help="end with 1 where there is a card to propose")
        one.add_argument("--policies", type=Path, help=HELP)
        one.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    folder = folder_of(args.policies)
    policies, now = load(folder), datetime.now(UTC)
    if args.write and args.start is None:
        raise CommandError("--write needs --from: the instant from which the new prices hold, such as --from 2026-12-01T00:00:00Z")
    start = _instant(args.start) if args.start else (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    hosts = _hosts(args.host, policies)
    source, found = _found(args, policies, start)
    stated = stated_in(folder)
    chosen = (entry for entry in found if hosts is None or entry.host in hosts)
    result = review(chosen, policies, stated, Terms(start, source, now.date()))
    held = [card for card in result.cards if card.drops] if args.write and not args.allow_drops else []
    texts = appended((card for card in result.cards if card not in held), stated)
    written = write(folder, texts) if args.write else ()
    if args.json:
        print(json.dumps(_json(result, source, start, written, held)))
    else:
        _show(result, texts, stated, written, held)
    left = held if args.write else result.cards
    return 1 if args.exit_code and left else 0


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError:
        raise CommandError(f"--from: {text!r} is no instant with a zone. Write it as 2026-12-01T00:00:00Z.") from None


def _hosts(named: list[str] | None, policies: Policies) -> frozenset[str] | None:
    unknown = sorted(set(named or ()) - set(policies.hosts))
    if unknown:
        raise CommandError(f"--host: no host is named {unknown[0]!r}; known are {', '.join(sorted(policies.hosts))}.")
    return frozenset(named) if named else None


def _found(args: argparse.Namespace, policies: Policies, start: datetime) -> tuple[str, list[Offer | Flagged]]:
    """What to call the source on the cards, and every entry that concerns us."""
    catalogue = CATALOGUES[args.kind]
    try:
        text = catalogue.read(args.file)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{catalogue.title}, sha256 {digest}", list(catalogue.offers(text, _models(policies, start), args.round_noise))
    except OSError as error:
        raise CommandError(f"{args.file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        reason = "is not JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)) else str(error)
        raise CommandError(f"{args.file} {reason}. It should be {FILES[args.kind]}.") from None


def _models(policies: Policies, start: datetime) -> Models:
    """Our models by host and id, in small letters: by the id on the wire, and by our own name, which wins."""
    rows = [(name, row) for name, host in policies.hosts.items() for row in host.models]
    found: dict[tuple[str, str], str] = {}
    # Rows of other times are known too, as such; those of that instant come last, and win.
    for serving in (False, True):
        served = [(host, row) for host, row in rows if row.serves(start) is serving]
        found |= {(host, row.upstream.lower()): row.model for host, row in served if row.upstream}
        found |= {(host, row.model.lower()): row.model for host, row in served}
    return found


# ---- writing


def write(folder: Path, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Append the cards; a folder that would not load with them is left as it is."""
    with tempfile.TemporaryDirectory(prefix="faregate-") as place:
        trial = Path(place) / "policies"
        shutil.copytree(folder, trial)
        for file, text in texts.items():
            (trial / file).parent.mkdir(exist_ok=True)
            (trial / file).write_text(text, "utf-8")
        try:
            load(trial)
        except PolicyError as error:
            raise CommandError(f"nothing was written, because the folder would not load: {error.problems[0]}") from None
    for file, text in texts.items():
        _replace(folder / file, text)
    return tuple(texts)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, "utf-8")
        if path.exists():
            shutil.copymode(path, new)
        os.replace(new, path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from None


# ---- what it says


def _show(result: Review, texts: Mapping[str, str], stated: Stated, written: tuple[str, ...], held: Sequence[Proposed]) -> None:
    for entry in result.flagged:
        print(f"# look at {entry.host}/{entry.model}: {_line(entry.reason)}")
    for host in dict.fromkeys(entry.host for entry in result.unknown):
        keys = ", ".join(_line(entry.key) for entry in result.unknown if entry.host == host)
        print(f"# {host} has more, without a row in policies: {keys}")
    sys.stdout.writelines(difference(texts, stated))
    done = f"written to {', '.join(written)}" if written else "to review: nothing was written"
    new = len(result.cards) - len(held)
    cards = [f"{many(new, 'new card')}, {done}"] if new else []
    if held:
        names = ", ".join(card.name for card in held)
        cards.append(f"{many(len(held), 'new card')} not written ({names}): --allow-drops writes what drops something")
    as_ours = f"{many(result.equal, 'price')} {'is' if result.equal == 1 else 'are'} as in policies"
    print(f"{'; '.join(cards) or 'no new card'}; {as_ours}, {len(result.flagged)} to look at", file=sys.stderr)


def _line(text: str) -> str:
    return seen(text)[:300]


def _json(result: Review, source: str, start: datetime, written: tuple[str, ...], held: Sequence[Proposed]) -> dict[str, Any]:
    return {
        "source": source,
        "from": instant_text(start),
        "cards": [_card(card) for card in result.cards],
        "equal": result.equal,
        "flagged": [_entry(entry) for entry in result.flagged],
        "unknown": [_entry(entry) for entry in result.unknown],
        "written": list(written),
        "held": [card.name for card in held],
    }


def _card(card: Proposed) -> dict[str, Any]:
    windows = [
        {"name": name, "days": list(days), "hours": list(hours), "per_million": _rates(rates)}
        for name, days, hours, rates in card.shape.windows
    ]
    return {
        "card": card.name,
        "file": card.file,
        "host": card.host,
        "models": list(card.models),
        "before": card.before,
        "per_million": _rates(card.shape.standard),
        "windows": windows,
        "drops": list(card.drops),
    }


def _rates(rates: Rates) -> dict[str, str]:
    return {name: decimal_text(getattr(rates, name)) for name in ("cache_hit", "cache_miss", "output")}


def _entry(entry: Flagged) -> dict[str, str]:
    return {"key": entry.key, "host": entry.host, "model": entry.model, "reason": entry.reason}
