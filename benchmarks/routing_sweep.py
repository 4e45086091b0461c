"""The router on made-up traffic of every kind, under menus of every kind: its bill beside the best single host's and list price's.

`python -m benchmarks.routing_sweep [--menus M …] [--kinds K …] [--seeds 1 2] [--sessions 200]`. A menu is one that is shipped, one of
benchmarks/menus, or route:NAME (the hosts of a shipped route); NAME@HH begins at that hour, UTC, of a working day.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.sessions import sessions
from gateway.policies import Policies, default_folder, load
from gateway.simulate.formats import parse
from gateway.simulate.menus import Market, Menu
from gateway.simulate.report import Report
from gateway.simulate.run import Options, simulate
from gateway.simulate.trace import fold

MENUS = (
    "look-ahead unreliable-cache failing flash liar ttl twins units v32 windows@02 windows@05 windows@22"
    " route:deepseek-flash@02 route:deepseek-v4-pro@05"
).split()
KINDS = "agents shared one-shot volatile chats mixed".split()
FOLDER = Path(__file__).parent / "menus"


def menu_of(name: str, policies: Policies) -> tuple[Menu, datetime]:
    """The menu of a name, and the instant at which the trace begins."""
    name, _, hour = name.partition("@")
    begin = datetime(2026, 11, 20, int(hour or 2), tzinfo=UTC)
    market = Market(policies, begin, {})
    if name.startswith("route:"):
        route = policies.route(name.removeprefix("route:"))
        assert route is not None, f"no route is named {name}"
        return market.route(route), begin
    file = FOLDER / f"{name}.yaml"
    return market.menu(file if file.exists() else Path(name)), begin


def look(name: str, kind: str, seed: int, count: int, policies: Policies) -> Report:
    """One trace under one menu."""
    menu, begin = menu_of(name, policies)
    raws = parse([line.text().encode() for line in sessions(kind, seed, count)], kind)
    return simulate(fold(kind, raws, menu.apart), menu, Options(begin, seed))


def ratios(report: Report) -> tuple[float, float, float]:
    """The router's bill by the best single host's that served all, by list price's, and by that of the best host of each conversation."""
    bills = {bill.name: bill for bill in report.bills}
    singles = [bill for bill in report.bills if bill.name.startswith("only ")]
    best = min(bill.nano for bill in ([bill for bill in singles if not bill.unserved] or singles))
    own = bills["look-ahead"].nano
    return own / best, own / bills["list price"].nano, own / bills["hindsight"].nano


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--menus", nargs="+", default=MENUS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sessions", type=int, default=200)
    options = parser.parse_args(words)
    policies = load(default_folder())
    print(f"{'menu':28} {'traffic':9} {'of best single':>14} {'of list price':>14} {'of hindsight':>14}")
    for name in options.menus:
        for kind in options.kinds:
            found = [ratios(look(name, kind, seed, options.sessions, policies)) for seed in options.seeds]
            means = [sum(column) / len(found) for column in zip(*found, strict=True)]
            print(f"{name:28} {kind:9} " + " ".join(f"{mean:14.3f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
