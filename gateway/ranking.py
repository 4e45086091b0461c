"""Ranking: which of several deployments a request should go to. Pure; the router in production and `faregate simulate` call this.

A score is money: what this request will probably cost there, what the rest of the conversation will probably cost from there on, what
failing costs, and what waiting is worth. Scores are integers of nano; a probability becomes a number of tokens before it meets a price.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    scored = _scored(rated, outlook, hurry)
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


def _scored(rated: Sequence[Rated], outlook: Outlook, hurry: int) -> list[Ranked]:
    """Each with its score, in the order that they came in."""
    costs = [(_now(one, one.prospect.hit), _rest(one, outlook, one.keep.likely)) for one in rated]
    if len(rated) > 1 and outlook.turns > 0:
        costs = _leaving(rated, outlook, costs)
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


def _leaving(rated: Sequence[Rated], outlook: Outlook, costs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The costs, in which a cache that turns out to be unsound is left after one turn where that is cheaper than to stay.

    So a doubt costs one turn, and not one in each of them: who knows nothing of a place loses little by finding out.
    """
    if all(one.keep.trust in (0.0, 1.0) for one in rated):
        return costs
    # What going over later costs, in the plan's currency: the prompt read anew, and the rest there.
    moves = sorted(
        [
            (moved, number)
            for number, (one, (_, later)) in enumerate(zip(rated, costs, strict=True))
            if (moved := _converted(one, later + one.prospect.prompt * (one.rates.cache_miss - one.rates.cache_hit) // _MILLION)) is not None
        ]
    )[:2]
    found = []
    for number, (one, (now, later)) in enumerate(zip(rated, costs, strict=True)):
        keep = one.keep
        other = next((moved for moved, at in moves if at != number), None)
        if 0.0 < keep.trust < 1.0 and other is not None and one.rate is not None:
            numerator, denominator = one.rate
            bad, share = _rest(one, outlook, keep.doubted), min(_MILLION, int(_MILLION / outlook.turns))
            left = (bad * share + other * denominator // numerator * (_MILLION - share)) // _MILLION
            doubt = _MILLION - int(keep.trust * _MILLION)
            good = _rest(one, outlook, keep.sound)
            later = good + (min(bad, left) - good) * doubt // _MILLION
        found.append((now, later))
    return found


def _rest(one: Rated, outlook: Outlook, kept: float) -> int:
    """What the rest of the conversation costs at one place where this share of what repeats is cached."""
    turns, repeated, new, pause, *_ = outlook
    if turns <= 0:
        return 0
    rates, hit, output = one.rates, int(repeated * kept), int(turns * one.prospect.output)
    miss = repeated - hit + new
    if one.later_rates is None or one.edge is None:
        return cost(rates, hit, miss, output)
    # Turns come one pause after another: those before the edge are priced as now, those behind it as then.
    before = min(1.0, one.edge / max(1.0, pause * turns))
    early = int(hit * before), int(miss * before), int(output * before)
    return cost(rates, *early) + cost(one.later_rates, hit - early[0], miss - early[1], output - early[2])


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
    """First the one that would be the cheapest if its cache were as good as what is known still allows.

    That is: as sure as its record lets hope, and with everything in it that any other place has been sent, as after one request there.
    """
    best = ordered[0].score
    known = max(one.prospect.known for one in rated)
    hopes = []
    for at, one in enumerate(ordered):
        candidate = rated[one.number]
        if at and one.score is not None:
            hoped = max(candidate.prospect.hit, int(min(known, candidate.prospect.prompt - 1) * candidate.keep.soon))
            least = _now(candidate, hoped) + _rest(candidate, outlook, candidate.keep.hoped)
            hopes.append((_converted(candidate, least) or 0, at))
    hope, at = min(hopes, default=(0, 0))
    if at == 0 or best is None or hope >= best:
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
