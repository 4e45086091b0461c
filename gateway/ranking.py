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
    (prompt, _, _, answer, *_) = one.prospect
    return cost(one.rates, cached, prompt - cached, answer)


def _turns(one: Rated, rates: Rates, outlook: Outlook, kept: float) -> int:
    """What all turns to come cost at these rates where this share of what repeats is cached."""
    turns, repeated, new, *_ = outlook
    hit = int(repeated * kept)
    return cost(rates, hit, repeated - hit + new, int(turns * one.prospect.output))


def _early(one: Rated, outlook: Outlook) -> int:
    """Millionths of the turns to come that come before the next edge of its price windows: one pause after another."""
    if one.later_rates is None or one.edge is None:
        return _MILLION
    return min(_MILLION, int(one.edge * _MILLION / max(1.0, outlook.pause * outlook.turns)))


def _rest(one: Rated, outlook: Outlook, kept: float) -> int:
    """What the rest of the conversation costs where all of it stays."""
    if outlook.turns <= 0:
        return 0
    now, early = _turns(one, one.rates, outlook, kept), _early(one, outlook)
    if early == _MILLION or one.later_rates is None:
        return now
    return (now * early + _turns(one, one.later_rates, outlook, kept) * (_MILLION - early)) // _MILLION


def _laters(rated: Sequence[Rated], outlook: Outlook) -> list[int]:
    """What the rest of the conversation costs from each place on, in its own currency.

    It need not stay to its end. When a price window begins or ends, it stays or goes on elsewhere, whichever costs less; and a cache that turns
    out not to be sound is left after one turn. So a doubt costs one turn and not all of them: finding out costs little.
    """
    moves = _moves(rated, outlook)
    first = min(_MILLION, int(_MILLION / outlook.turns))
    found = []
    for number, one in enumerate(rated):
        keep, early = one.keep, _early(one, outlook)
        other = next((move for move in moves if move[2] != number), None)
        sound = 0.0 < keep.trust < 1.0
        later = _moving(one, outlook, keep.sound if sound else keep.likely, early, other)
        if sound:
            left = _moving(one, outlook, keep.doubted, early, other)
            if other is not None:
                left = min(left, _parted(_turns(one, one.rates, outlook, keep.doubted), first, one, other))
            later += (left - later) * (_MILLION - int(keep.trust * _MILLION)) // _MILLION
        found.append(later)
    return found


def _moves(rated: Sequence[Rated], outlook: Outlook) -> list[tuple[int, int, int]]:
    """The two places where it would be cheapest to go on: (turns to come there, reading the prompt anew, number), in the plan's currency."""
    found = []
    for number, one in enumerate(rated):
        rates = one.later_rates or one.rates
        turns = _converted(one, _turns(one, rates, outlook, one.keep.likely))
        anew = _converted(one, one.prospect.prompt * (rates.cache_miss - rates.cache_hit) // _MILLION)
        if turns is not None and anew is not None:
            found.append((turns, anew, number))
    return sorted(found, key=_moved)[:2]


def _moved(move: tuple[int, int, int]) -> int:
    return move[0] + move[1]


def _parted(turns: int, early: int, one: Rated, other: tuple[int, int, int]) -> int:
    """What turns cost of which the first part is here and the rest elsewhere."""
    there = other[0] * (_MILLION - early) // _MILLION + other[1]
    assert one.rate is not None
    return turns * early // _MILLION + (there if one.rate == _SAME else there * one.rate[1] // one.rate[0])


def _moving(one: Rated, outlook: Outlook, kept: float, early: int, other: tuple[int, int, int] | None) -> int:
    """The rest where it is free to go elsewhere at the next edge."""
    now = _turns(one, one.rates, outlook, kept)
    if early == _MILLION or one.later_rates is None:
        return now
    stays = (now * early + _turns(one, one.later_rates, outlook, kept) * (_MILLION - early)) // _MILLION
    return stays if other is None or one.rate is None else min(stays, _parted(now, early, one, other))


def _lost(rated: Sequence[Rated], outlook: Outlook, laters: Sequence[int]) -> list[int]:
    """What the conversations to come, which begin as this one, lose if it does not go to each place, in its own currency.

    They will go where they cost the least: where this beginning is cached already, where this request is going to leave it, or anywhere.
    """
    shared, least = outlook.shared, None
    for one, later in zip(rated, laters, strict=True):
        there = 2 * one.prospect.known >= shared
        cost = _converted(one, _now(one, int(shared * one.keep.likely) if there else 0) + later)
        if cost is not None and (least is None or cost < least):
            least = cost
    found: list[int | None] = []
    for one, later in zip(rated, laters, strict=True):
        keep, trust = one.keep, int(one.keep.trust * _MILLION)
        costs = _converted(one, _now(one, int(shared * keep.sound)) + later), _converted(one, _now(one, int(shared * keep.doubted)) + later)
        if costs[0] is None or costs[1] is None or least is None:
            found.append(None)
            continue
        found.append((min(costs[0], least) * trust + min(costs[1], least) * (_MILLION - trust)) // _MILLION)
    best = min([cost for cost in found if cost is not None], default=0)
    return [
        0 if cost is None or one.rate is None else int(outlook.others * (cost - best)) * one.rate[1] // one.rate[0]
        for one, cost in zip(rated, found, strict=True)
    ]


def _converted(one: Rated, nano: int) -> int | None:
    if one.rate is None:
        return None
    numerator, denominator = one.rate
    return nano if numerator == denominator else -(-nano * numerator // denominator)


def _with_failures(rated: Sequence[Rated], scores: list[int | None]) -> list[int | None]:
    """Each score and, with the chance that it fails, what the prompt cost there for nothing and what the best other place then costs."""
    known = sorted([score for score in scores if score is not None])
    if len(known) < 2:
        return scores
    best, second = known[0], known[1]
    found = []
    for one, score in zip(rated, scores, strict=True):
        if score is None or one.failing <= 0:
            found.append(score)
            continue
        wasted = _converted(one, one.prospect.prompt * one.rates.cache_miss // _MILLION) or 0
        found.append(score + (wasted + (second if score == best else best)) * int(one.failing * _MILLION) // _MILLION)
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
