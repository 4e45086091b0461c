"""Ranking: which of several deployments a request should go to. Pure; the router in production and `faregate simulate` call this.

A score is money: what this request will probably cost there, what the rest of the conversation will probably cost from there on, what
failing costs, and what waiting is worth. Scores are integers of nano; a probability becomes a number of tokens before it meets a price.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Final, NamedTuple

from gateway.forecast import Outlook
from gateway.foresight import Keep, Prospect
from gateway.money import Rates, cost

# A warm place is left only for a score that is this much lower, in per cent.
HYSTERESIS: Final = 5
# One in so many conversations may begin where most is to be hoped for: 0.8 %.
EXPLORED: Final = 128
# Of the requests that fail, one in so many is charged all the same: time-outs and broken streams are, refusals are not.
CHARGED: Final = 4
UNCOMPARABLE: Final = "no rate to compare its price by"
STAYS: Final = "warm, and no other is cheaper by enough"
TRIED: Final = "tried: its cache may be better than what is known of it"
_MILLION: Final = 10**6
# What an unknown host is taken for, where none is known: seconds to the first token, tokens a second.
FIRST_TOKEN, PACE = 2.0, 30.0
# Tokens a second below which no host is taken to be.
SLOWEST: Final = 0.1
_COLD: Final = Keep(0.0, 0.0)
_SAME: Final = (1, 1)


class Rated(NamedTuple):
    """One candidate: what is foretold of it, its rates now, those after the next edge of its price windows and the seconds to it.

    `keep`: how much of the prompt will still be cached at the next turn. `failing`: the share of requests that fail there. `warm`: the
    conversation's latest request went there. `rate`: nano of the plan's currency for one nano of its own; None: nobody knows.
    """

    name: str
    prospect: Prospect
    rates: Rates
    keep: Keep = _COLD
    later_rates: Rates | None = None
    edge: float | None = None
    failing: float = 0.0
    first_token: float | None = None
    pace: float | None = None
    warm: bool = False
    rate: tuple[int, int] | None = _SAME


class Ranked(NamedTuple):
    """One candidate in its place: its `number` in what was ranked; `now` and `later` in its own currency, `score` in the plan's.

    `why` says why it is where it is, where its score alone does not.
    """

    number: int
    now: int
    later: int
    score: int | None
    why: str = ""


def rank(
    rated: Sequence[Rated], outlook: Outlook, mode: str = "cheapest", conversation: int = 1, begins: bool = False, hurry: int = 0
) -> list[Ranked]:
    """The candidates, the best first. `mode`: cheapest, fastest, or order (as they came).

    `begins`: it is the conversation's first turn, at which one in EXPLORED explores; `conversation` decides which. `hurry`: nano of the
    plan's currency that a second until the end of the answer is worth.
    """
    scored = _scored(rated, outlook, hurry, begins)
    if mode == "order" or len(scored) == 1:
        return scored
    if mode == "fastest":
        return _fastest(rated, scored)
    ordered = sorted(scored, key=_by_score)
    if begins and conversation % EXPLORED == 0:
        return _explored(rated, outlook, ordered)
    return _stayed(rated, ordered)


def _by_score(one: Ranked) -> tuple[bool, int]:
    return one.score is None, one.score or 0


def _scored(rated: Sequence[Rated], outlook: Outlook, hurry: int, begins: bool) -> list[Ranked]:
    """Each with its score, in the order that they came in."""
    weighed = len(rated) > 1 and outlook.turns > 0
    laters = _laters(rated, outlook) if weighed else [_rest(one, outlook, one.keep.likely) for one in rated]
    if weighed and begins and outlook.shared > 0:
        laters = list(map(add, laters, _lost(rated, outlook, laters)))
    costs = [(_now(one, one.prospect.hit), later) for one, later in zip(rated, laters, strict=True)]
    scores = [_converted(one, now + later) for one, (now, later) in zip(rated, costs, strict=True)]
    if hurry:
        scores = [None if score is None else score + int(_seconds(one) * hurry) for one, score in zip(rated, scores, strict=True)]
    # Where all fail alike, it makes no difference.
    if any(one.failing != rated[0].failing for one in rated):
        scores = _with_failures(rated, scores)
    return [
        Ranked(number, now, later, score, UNCOMPARABLE if score is None else "")
        for number, ((now, later), score) in enumerate(zip(costs, scores, strict=True))
    ]


def _now(one: Rated, cached: int) -> int:
    """What this request will probably cost with so much of it cached."""
    return cost(one.rates, cached, one.prospect.prompt - cached, one.prospect.output)


class _Line(NamedTuple):
    """What all turns to come cost at one place, in millionths of nano: `base`, less `gap` for each token that is a hit."""

    base: int
    gap: int


def _line(one: Rated, rates: Rates, outlook: Outlook) -> _Line:
    miss = rates.cache_miss
    return _Line((outlook.repeated + outlook.new) * miss + int(outlook.turns * one.prospect.output) * rates.output, miss - rates.cache_hit)


def _early(one: Rated, outlook: Outlook) -> int:
    """Millionths of the turns to come that come before the next edge of its price windows: one pause after another."""
    if one.later_rates is None or one.edge is None:
        return _MILLION
    return min(_MILLION, int(one.edge * _MILLION / max(1.0, outlook.pause * outlook.turns)))


def _rest(one: Rated, outlook: Outlook, kept: float) -> int:
    """What the rest of the conversation costs where all of it stays."""
    if outlook.turns <= 0:
        return 0
    hit, early = int(outlook.repeated * kept), _early(one, outlook)
    base, gap = _line(one, one.rates, outlook)
    if early == _MILLION or one.later_rates is None:
        return -(-(base - hit * gap) // _MILLION)
    then, less = _line(one, one.later_rates, outlook)
    return -(-((base - hit * gap) * early + (then - hit * less) * (_MILLION - early)) // _MILLION**2)


def _laters(rated: Sequence[Rated], outlook: Outlook) -> list[int]:
    """What the rest of the conversation costs from each place on, in its own currency.

    It need not stay to its end. When a price window begins or ends, it stays or goes on elsewhere, whichever costs less; and a cache that
    turns out not to be sound is left after one turn. So a doubt costs one turn and not all of them: finding out costs little.
    """
    repeated = outlook.repeated
    first = _MILLION if outlook.turns <= 1.0 else int(_MILLION / outlook.turns)
    lines = [_line(one, one.rates, outlook) for one in rated]
    moves = _moves(rated, outlook, lines)
    found = []
    for number, (one, (base, gap)) in enumerate(zip(rated, lines, strict=True)):
        _, _, _, trust, sound, doubted = one.keep
        unsure = 0.0 < trust < 1.0
        good = base - int(repeated * (sound if unsure else one.keep.likely)) * gap
        bad = base - int(repeated * doubted) * gap if unsure else good
        other = moves[0] if moves and moves[0][3] != number else moves[1] if len(moves) > 1 else None
        if other is not None and (unsure or one.later_rates is not None):
            good, bad = _freely(one, outlook, (good, bad), first if unsure else _MILLION, other)
        elif one.later_rates is not None:
            good = bad = _rest(one, outlook, one.keep.likely) * _MILLION
        if unsure:
            good += (bad - good) * (_MILLION - int(trust * _MILLION)) // _MILLION
        found.append(-(-good // _MILLION))
    return found


def _moves(rated: Sequence[Rated], outlook: Outlook, lines: Sequence[_Line]) -> list[tuple[int, int, int, int]]:
    """The two places where it would be cheapest to go on, in the plan's currency: (both, turns there, reading the prompt anew, number)."""
    found = []
    for number, (one, (base, gap)) in enumerate(zip(rated, lines, strict=True)):
        if one.rate is None:
            continue
        if one.later_rates is not None:
            base, gap = _line(one, one.later_rates, outlook)
        turns, anew = base - int(outlook.repeated * one.keep.likely) * gap, one.prospect.prompt * gap
        if one.rate != _SAME:
            turns, anew = turns * one.rate[0] // one.rate[1], anew * one.rate[0] // one.rate[1]
        found.append((turns + anew, turns, anew, number))
    found.sort()
    return found[:2]


def _freely(one: Rated, outlook: Outlook, here: tuple[int, int], first: int, other: tuple[int, int, int, int]) -> tuple[int, int]:
    """The rest in a sound cache and in another, if it may go elsewhere at the next edge, and out of an unsound one after `first` of it."""
    good, bad = here
    _, there, anew, _ = other
    if one.rate is not None and one.rate != _SAME:
        there, anew = there * one.rate[1] // one.rate[0], anew * one.rate[1] // one.rate[0]
    left = (bad * first + there * (_MILLION - first)) // _MILLION + anew if first < _MILLION else bad
    early = _early(one, outlook)
    if one.later_rates is not None and early < _MILLION:
        base, gap = _line(one, one.later_rates, outlook)
        keep, late = one.keep, _MILLION - early
        leaves = there * late // _MILLION + anew
        likely, doubted = (keep.sound, keep.doubted) if 0.0 < keep.trust < 1.0 else (keep.likely, keep.likely)
        good = good * early // _MILLION + min((base - int(outlook.repeated * likely) * gap) * late // _MILLION, leaves)
        bad = bad * early // _MILLION + min((base - int(outlook.repeated * doubted) * gap) * late // _MILLION, leaves)
    return good, min(bad, left)


def _lost(rated: Sequence[Rated], outlook: Outlook, laters: Sequence[int]) -> list[int]:
    """What the conversations to come, which begin as this one, lose if it does not go to each place, in its own currency.

    They will go where they cost the least: where this beginning is cached already, where this request is going to leave it, or anywhere.
    """
    shared = outlook.shared
    # What this request and the rest cost without any cached token, and how much less with the shared ones cached.
    colds, hits = [], []
    for one, later in zip(rated, laters, strict=True):
        prospect, rates = one.prospect, one.rates
        colds.append((prospect.prompt * rates.cache_miss + prospect.output * rates.output) // _MILLION + later)
        hits.append(shared * (rates.cache_miss - rates.cache_hit) // _MILLION)
    now = [
        _converted(one, cold - int(hit * one.keep.likely) if 2 * one.prospect.known >= shared else cold)
        for one, cold, hit in zip(rated, colds, hits, strict=True)
    ]
    least = min([cost for cost in now if cost is not None], default=0)
    costs = []
    for one, cold, hit in zip(rated, colds, hits, strict=True):
        keep = one.keep
        good = min(least, _converted(one, cold - int(hit * keep.sound)) or 0)
        bad = min(least, _converted(one, cold - int(hit * keep.doubted)) or 0)
        costs.append(bad + int((good - bad) * keep.trust))
    best = min([cost for cost, one in zip(costs, rated, strict=True) if one.rate is not None], default=0)
    return [
        int(outlook.others * (cost - best)) if one.rate == _SAME else _own(one, int(outlook.others * (cost - best)))
        for one, cost in zip(rated, costs, strict=True)
    ]


def _own(one: Rated, nano: int) -> int:
    """Nano of the plan's currency in its own; 0 where nobody knows a rate."""
    return 0 if one.rate is None else nano * one.rate[1] // one.rate[0]


def _converted(one: Rated, nano: int) -> int | None:
    if one.rate is None:
        return None
    numerator, denominator = one.rate
    return nano if numerator == denominator else -(-nano * numerator // denominator)


def _with_failures(rated: Sequence[Rated], scores: list[int | None]) -> list[int | None]:
    """Each score and, as often as it fails, what more the best other place costs, and what is charged for nothing."""
    known = sorted([score for score in scores if score is not None])
    if len(known) < 2:
        return scores
    best, second = known[0], known[1]
    found = []
    for one, score in zip(rated, scores, strict=True):
        if score is None or one.failing <= 0:
            found.append(score)
            continue
        wasted = (_converted(one, _now(one, one.prospect.hit)) or 0) // CHARGED
        more = wasted + max(0, (second if score == best else best) - score)
        found.append(score + more * int(one.failing * _MILLION) // _MILLION)
    return found


def _stayed(rated: Sequence[Rated], ordered: list[Ranked]) -> list[Ranked]:
    """A place that has the conversation cached keeps it unless another one is cheaper by more than the doubt about it."""
    best = ordered[0].score
    for at, one in enumerate(ordered):
        if rated[one.number].warm:
            known = rated[one.number].prospect.hit > 0 and one.score is not None and best is not None
            if at and known and (one.score or 0) * 100 <= (best or 0) * (100 + HYSTERESIS):
                return [one._replace(why=STAYS), *ordered[:at], *ordered[at + 1 :]]
            break
    return ordered


def _explored(rated: Sequence[Rated], outlook: Outlook, ordered: list[Ranked]) -> list[Ranked]:
    """First the one that would be the cheapest if every cache were as good as what is known of it still allows.

    That is: as sure as its record lets hope, and with everything in it that any place has been sent, as after one request there.
    """
    known = max(one.prospect.known for one in rated)
    hopes = []
    for at, one in enumerate(ordered):
        candidate = rated[one.number]
        if one.score is not None:
            hoped = max(candidate.prospect.hit, int(min(known, candidate.prospect.prompt - 1) * candidate.keep.soon))
            hopes.append((_converted(candidate, _now(candidate, hoped) + _rest(candidate, outlook, candidate.keep.hoped)) or 0, at))
    _, at = min(hopes, default=(0, 0))
    if at == 0:
        return ordered
    return [ordered[at]._replace(why=TRIED), *ordered[:at], *ordered[at + 1 :]]


def _seconds(one: Rated) -> float:
    """Expected seconds to the end of the answer."""
    return (one.first_token or FIRST_TOKEN) + one.prospect.output / max(SLOWEST, one.pace or PACE)


def _fastest(rated: Sequence[Rated], scored: list[Ranked]) -> list[Ranked]:
    """By the time to the end of the answer; those of which nothing is known are taken for the middle one of those that are."""
    first = _middle([one.first_token for one in rated if one.first_token is not None], FIRST_TOKEN)
    pace = _middle([one.pace for one in rated if one.pace], PACE)

    def key(one: Ranked) -> tuple[int, bool, int]:
        candidate = rated[one.number]
        begins = first if candidate.first_token is None else candidate.first_token
        seconds = begins + candidate.prospect.output / max(SLOWEST, candidate.pace or pace)
        # A tenth of a second is no difference: then the cheaper one.
        return (round(10 * seconds / max(0.05, 1.0 - candidate.failing)), *_by_score(one))

    return sorted(scored, key=key)


def _middle(values: list[float], otherwise: float) -> float:
    return sorted(values)[len(values) // 2] if values else otherwise
