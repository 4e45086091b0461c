"""Proposals: new rate cards where a catalogue's price differs from ours, as a difference that a person reviews.

History is only appended to: a card is never changed, an equal price gives nothing, and nothing is put before a card that exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from difflib import unified_diff
from pathlib import Path

from gateway.catalogues.offers import Flagged, Offer, Shape, Week, shape_of, week_of_card, without_hits
from gateway.clock import instant_text
from gateway.money import Rates, decimal_text
from gateway.policies import KINDS, Policies
from gateway.policy_files import Entry, Problems, read_folder, rows_of
from gateway.prices import Card, CardRow

CURRENCY = "USD"
_DATED = re.compile(r"-usd-\d{4}-\d{2}-\d{2}(-\d+)?$")
_PLAIN = re.compile(r"[A-Za-z0-9][\w./-]*")


@dataclass(frozen=True, slots=True)
class Proposed:
    """One new card. `before`: the card that it follows, None for a model without a price.

    `drops`: what that card states and the catalogue does not, in words; such a card is for a person to decide.
    """

    file: str
    name: str
    host: str
    models: tuple[str, ...]
    start: datetime
    shape: Shape
    before: str | None
    text: str
    drops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stated:
    """The cards as their files state them: in which file each is, its row, and the names that are taken."""

    files: Mapping[str, bytes]
    entries: Mapping[str, Entry[CardRow]]

    def file_for(self, host: str, before: str | None) -> str:
        """Where a new card belongs: beside the one before it, else to the host's others, else into a file of the host's own."""
        if before is not None:
            return self.entries[before].file
        own = (entry.file for entry in self.entries.values() if entry.row.host == host and entry.row.currency == CURRENCY)
        return next(own, f"prices/{host}.yaml")


def stated_in(folder: Path) -> Stated:
    """Every card of a folder that loads."""
    problems = Problems()
    files = {name: data for name, data in read_folder(folder, KINDS, problems).items() if name.startswith("prices")}
    entries = {entry.row.card: entry for name, data in files.items() for entry in rows_of(name, data, CardRow, problems)}
    return Stated(files, entries)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every proposed card says of itself."""

    start: datetime
    source: str
    checked: date


@dataclass(slots=True)
class Review:
    """What a catalogue comes to: cards to add, prices that are ours already, entries to look at, models that we do not have."""

    cards: list[Proposed] = field(default_factory=list)
    equal: int = 0
    flagged: list[Flagged] = field(default_factory=list)
    unknown: list[Flagged] = field(default_factory=list)


def review(found: Iterable[Offer | Flagged], policies: Policies, stated: Stated, terms: Terms) -> Review:
    """Compare with the prices in force at `terms.start`."""
    result = Review()
    by_model: dict[tuple[str, str], list[Offer]] = {}
    for entry in found:
        if isinstance(entry, Offer):
            by_model.setdefault((entry.host, entry.model), []).append(entry)
        else:
            (result.flagged if entry.model else result.unknown).append(entry)
    changed: dict[tuple[str, str | None, Week], list[Offer]] = {}
    for offers in by_model.values():
        offer = offers[0]
        reason = _conflict(offers) or _too_late(policies, stated, offer, terms.start)
        if reason is not None:
            result.flagged.append(Flagged(offer.key, offer.host, offer.model, reason))
            continue
        card = _card(policies, offer, terms.start)
        ours = week_of_card(card) if card else None
        if ours == offer.week:
            result.equal += 1
        elif ours is not None and not offer.states_hits and without_hits(ours) == offer.week:
            reason = "the catalogue states no price for cached tokens, and we have one; all else is equal"
            result.flagged.append(Flagged(offer.key, offer.host, offer.model, reason))
        else:
            changed.setdefault((offer.host, card.name if card else None, offer.week), []).append(offer)
    taken = set(stated.entries)
    for offers in changed.values():
        card = _card(policies, offers[0], terms.start)
        proposed = _proposed(offers, card, stated, terms, taken)
        result.cards.append(proposed)
        if card is not None and proposed.drops:
            trust = f"; {card.name} is verified, the new card is not" if card.verified else ""
            reason = f"the new card drops what {card.name} has: {', '.join(proposed.drops)}{trust}"
            result.flagged += [Flagged(offer.key, offer.host, offer.model, reason) for offer in offers]
    return result


def _conflict(offers: list[Offer]) -> str | None:
    other = next((offer for offer in offers if offer.week != offers[0].week), None)
    return None if other is None else f"the catalogue contradicts itself: {other.key} is the same model at another price"


def _too_late(policies: Policies, stated: Stated, offer: Offer, start: datetime) -> str | None:
    """Nothing is put before a card, or at its very start, and no price is given to a model that is not served."""
    if policies.deployment(offer.host, offer.model, start) is None:
        return f"is not served at {instant_text(start)}"
    rows = (entry.row for entry in stated.entries.values())
    own = [row for row in rows if row.host == offer.host and offer.model in row.models and row.currency == CURRENCY]
    later = next((row for row in own if row.from_ >= start and row.card != getattr(_card(policies, offer, start), "name", None)), None)
    if later is not None:
        return f"card {later.card} begins at {instant_text(later.from_)}, which is not before {instant_text(start)}"
    same = next((row for row in own if row.from_ == start), None)
    if same is not None and week_of_card(policies.prices.card(offer.host, offer.model, CURRENCY, start)) != offer.week:
        return f"card {same.card} begins at {instant_text(start)} already, at another price"
    return None


def _card(policies: Policies, offer: Offer, at: datetime) -> Card | None:
    if CURRENCY not in policies.prices.currencies(offer.host, offer.model, at):
        return None
    return policies.prices.card(offer.host, offer.model, CURRENCY, at)


def _proposed(offers: list[Offer], card: Card | None, stated: Stated, terms: Terms, taken: set[str]) -> Proposed:
    first = offers[0]
    before = card.name if card else None
    name = _name(first, before, terms.start, taken)
    taken.add(name)
    shape = shape_of(first.week)
    models = tuple(offer.model for offer in offers)
    calendars = tuple(dict.fromkeys(window.except_ for window in stated.entries[before].row.windows if window.except_)) if before else ()
    # Where nothing is dearer than the standard, there is nothing that a holiday could suspend.
    holidays = calendars[0] if calendars and shape.dearer else None
    drops = tuple(_drops(offers, card, shape, [one for one in calendars if one != holidays])) if card else ()
    text = "\n".join(_lines(name, first.host, models, shape, card, holidays, terms, _notes(offers, card, holidays, drops))) + "\n"
    return Proposed(stated.file_for(first.host, before), name, first.host, models, terms.start, shape, before, text, drops)


def _drops(offers: list[Offer], card: Card, shape: Shape, calendars: list[str]) -> Iterator[str]:
    """What the card before states, and the new one would not."""
    ours, theirs = ({rates for _, rates in week} for week in (week_of_card(card), offers[0].week))
    if len(theirs) < len(ours):
        windows = dict.fromkeys(f"{window.band.window} {_prices(window.band.rates)}" for window in card.windows)
        which = "its windows" if not shape.windows else f"{len(ours) - len(theirs)} of its {len(ours)} prices by the hour"
        yield f"{which} ({', '.join(windows)})"
    if calendars:
        yield f"its holidays ({', '.join(calendars)})"
    if any(rates.cache_hit != rates.cache_miss for rates in ours) and not all(offer.states_hits for offer in offers):
        yield "its price of cached tokens"


def _name(offer: Offer, before: str | None, start: datetime, taken: set[str]) -> str:
    """As the card before it, with the day of this one."""
    slug = re.sub(r"[^a-z0-9.]+", "-", offer.model.rpartition("/")[2].lower()).strip("-")
    stem = _DATED.sub("", before) if before else f"{offer.host}-{slug}"
    name = f"{stem}-usd-{start:%Y-%m-%d}"
    return next(found for found in (name, *(f"{name}-{number}" for number in range(2, 1000))) if found not in taken)


def _notes(offers: list[Offer], card: Card | None, holidays: str | None, drops: tuple[str, ...]) -> Iterator[str]:
    if card is not None:
        was = " and ".join(_prices(band) for band in dict.fromkeys((card.rates, *(window.band.rates for window in card.windows))))
        yield f"was hit/miss/output {was}"
    if holidays:
        yield f"the catalogue knows no holidays: {holidays} is kept from the card before"
    if card is not None and drops:
        yield f"dropped, because the catalogue has no such thing, of {card.name}: {', '.join(drops)}"
    yield from dict.fromkeys(note for offer in offers for note in offer.notes)


def _prices(rates: Rates) -> str:
    return "/".join(decimal_text(rate) for rate in (rates.cache_hit, rates.cache_miss, rates.output))


def _lines(
    name: str,
    host: str,
    models: tuple[str, ...],
    shape: Shape,
    card: Card | None,
    holidays: str | None,
    terms: Terms,
    notes: Iterator[str],
) -> Iterator[str]:
    yield f"- card: {name}"
    yield f"  host: {host}"
    yield f"  models: [{', '.join(map(_scalar, models))}]"
    yield f"  currency: {CURRENCY}"
    yield f"  from: {instant_text(terms.start)}"
    yield f"  tier_at: {card.tier_at if card else 'start'}"
    yield f"  per_million: {_per_million(shape.standard)}"
    if shape.windows:
        yield "  windows:"
    for window, days, hours, rates in shape.windows:
        spans = ", ".join(f'"{span}"' for span in hours)
        off = f"except: {holidays}, " if holidays and window in shape.dearer else ""
        prices = _per_million(rates)
        yield f"    - {{name: {window}, days: [{', '.join(days)}], hours: [{spans}], zone: UTC, {off}per_million: {prices}}}"
    yield f"  source: {_quoted(terms.source)}"
    yield f"  checked: {terms.checked.isoformat()}"
    yield "  verified: false"
    if text := "; ".join(notes):
        yield f"  note: {_quoted(text)}"


def _per_million(rates: Rates) -> str:
    hit = "" if rates.cache_hit == rates.cache_miss else f'cache_hit: "{decimal_text(rates.cache_hit)}", '
    return f'{{{hit}cache_miss: "{decimal_text(rates.cache_miss)}", output: "{decimal_text(rates.output)}"}}'


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", re.sub(r"[\x00-\x1f\x7f]+", " ", text)) + '"'


# ---- files


def appended(cards: Iterable[Proposed], stated: Stated) -> dict[str, str]:
    """Every file that gets cards, as it would be: what stands in it now, and the new cards at its end."""
    texts: dict[str, str] = {}
    for card in cards:
        old = texts.get(card.file)
        if old is None:
            old = stated.files.get(card.file, f"# {card.host} in US dollars.\n".encode()).decode()
        texts[card.file] = f"{old.rstrip()}\n\n{card.text}"
    return texts


def difference(texts: Mapping[str, str], stated: Stated) -> Iterator[str]:
    """A unified difference that `patch -p1` in the policies folder would carry out."""
    for file, text in texts.items():
        old = stated.files.get(file, b"").decode().splitlines(keepends=True)
        yield from unified_diff(old, text.splitlines(keepends=True), f"a/{file}" if old else "/dev/null", f"b/{file}")
