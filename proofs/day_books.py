"""The ledger of a day against the bills of its hosts, attempt by attempt."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any, Final

from gateway.emulator.book import Book, Counts
from gateway.emulator.reader import read_shelf
from proofs.day_play import LOCAL, Played
from proofs.readers import MODEL

# Real time between the end of an answer at its host and in the gateway, at most.
MOMENT: Final = timedelta(seconds=0.25)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Bills = dict[tuple[str, str], int]


@dataclass
class HostBook:
    """What one host did for the day: requests that it answered, their prompt and hit tokens, the hits that the router expected."""

    requests: int = 0
    prompt: int = 0
    hit: int = 0
    expected: int = 0
    failed: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hit / self.prompt if self.prompt else 0.0

    @property
    def foretold_rate(self) -> float:
        return self.expected / self.prompt if self.prompt else 0.0


@dataclass
class Books:
    """Both sides: what hosts billed and what the ledger charged, in nano, and where they contradict each other."""

    billed: int = 0
    charged: int = 0
    by_host: Counter[str] = field(default_factory=Counter)
    hosts: defaultdict[str, HostBook] = field(default_factory=lambda: defaultdict(HostBook))
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def books_of(played: Played, policies: Path) -> Books:
    """Every attempt whose usage a host reported is charged as that host billed it; nothing billed is missing."""
    books, bills = Books(), dict(_bills(played, policies))
    for (_, host), nano in bills.items():
        books.billed += nano
        books.by_host[host] += nano
    books.charged = sum(row["nano"] for row in played.rows)
    attempts = [(row["rid"], one) for row in played.rows for one in json.loads(row["attempts"])]
    _compare(books, bills, attempts, _at_edges(played))
    for row in played.rows:
        _count(books.hosts[row["host"]], row)
    failed = Counter(one["host"] for _, one in attempts if one["outcome"] != "ok")
    for host, count in failed.items():
        books.hosts[host].failed = count
    books.figures |= {
        "fallbacks": sum(len(json.loads(row["attempts"])) > 1 for row in played.rows),
        "failed_attempts": dict(failed),
        "hosts": {
            name: {"requests": one.requests, "hit_rate": round(one.hit_rate, 4), "routed_by": round(one.foretold_rate, 4)}
            for name, one in sorted(books.hosts.items())
        },
    }
    return books


def _bills(played: Played, policies: Path) -> Iterator[tuple[tuple[str, str], int]]:
    """What each host billed for each request; the engine's own counts, priced by the emulator's reading of its card."""
    billed: Bills = defaultdict(int)
    for host, rows in played.bills.items():
        for row in rows:
            billed[row["id"], host] += row["nano"]
    book, started = Book(read_shelf(policies, LOCAL), "USD"), {row["rid"]: row["started"] for row in played.rows}
    for usage in played.engine:
        at = _EPOCH + timedelta(microseconds=started[usage["id"]])
        hit = usage["prompt_tokens_details"]["cached_tokens"]
        price, _ = book.price(MODEL, at, at)
        assert price is not None
        billed[usage["id"], LOCAL] += ceil(price.exact(Counts(hit, usage["prompt_tokens"] - hit, usage["completion_tokens"])))
    yield from billed.items()


def _at_edges(played: Played) -> set[tuple[str, str]]:
    """Answers that ended for their host in one price window and for us, a moment later, in the next: the same tokens at two prices.

    A moment of real time; with fast clocks it is some seconds of the day.
    """
    rows, found = {(row["rid"], row["host"]): row for row in played.rows}, set()
    for host, bills in played.bills.items():
        for bill in bills:
            row = rows.get((bill["id"], host))
            if row is None or row["window"] == bill["window"] or row["card"] != bill["card"]:
                continue
            apart = abs(_EPOCH + timedelta(microseconds=row["ended"]) - datetime.fromisoformat(bill["at"]))
            same = [row["cache_hit"], row["cache_miss"], row["output"]] == [bill["hit"], bill["miss"], bill["output"]]
            if same and apart <= MOMENT * played.rate:
                found.add((bill["id"], host))
    return found


def _compare(books: Books, bills: Bills, attempts: list[tuple[str, dict[str, Any]]], edges: set[tuple[str, str]]) -> None:
    known = {(rid, one["host"]): one for rid, one in attempts}
    reported = {place: one["nano"] for place, one in known.items() if one["billed"] == "known"}
    other = [place for place, nano in reported.items() if bills.get(place) != nano]
    wrong = [f"{place}: charged {reported[place]}, billed {bills.get(place)}" for place in other if place not in edges]
    missing = [f"{place}: {nano}" for place, nano in bills.items() if nano and not known.get(place, {}).get("nano")]
    guessed = {place: one["nano"] for place, one in known.items() if one["billed"] == "possible"}
    if len(known) != len(attempts):
        books.problems.append("a host was asked twice for one request: its rows cannot be told apart")
    if wrong:
        books.problems.append(f"{len(wrong)} charged otherwise than reported: {wrong[:3]}")
    if missing:
        books.problems.append(f"{len(missing)} billed and not in the ledger: {missing[:3]}")
    if not reported:
        books.problems.append("no host reported anything: this day proves nothing")
    books.figures |= {
        "exact": len(reported) - len(other),
        "at_an_edge": len(other) - len(wrong),
        "wrong": len(wrong),
        "missing": len(missing),
        "counted": len(guessed),
    }
    books.figures["counted_beyond_bill_nano"] = sum(nano - bills.get(place, 0) for place, nano in guessed.items())


def _count(book: HostBook, row: dict[str, Any]) -> None:
    if row["status"] != "ok" or row["cache_miss_source"] != "reported":
        return
    book.requests += 1
    book.prompt += row["cache_hit"] + row["cache_miss"]
    book.hit += row["cache_hit"]
    book.expected += _expected(row["plan"])


def _expected(plan: str | None) -> int:
    """The hit tokens that the plan foretold at the deployment that answered: the option without a name of its own."""
    for option in json.loads(plan)["options"] if plan else ():
        if not isinstance(option[0], str):
            return int(option[1])
    return 0
