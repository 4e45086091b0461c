"""`make prove-alerts`: every alert whose windows are an hour or less fires for its cause, in a real Prometheus, and ends after it.

    python -m proofs.alerts [--only NAME[,NAME…]] [--factor 60]

PostgreSQL, Redis, emulated hosts, two gateways (and a third for some causes) and Debian's Prometheus, which scrapes and evaluates once
a second. The rules are those of dashboards/rules with every window, `for` and `offset` divided by --factor (60: minutes are seconds);
thresholds stay. Causes are made in rounds, those of a round at the same time. Alerts about longer times are proved by promtool alone
(`tests/test_rules.py`). Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from proofs.alert_causes import ROUNDS, Case, Cause
from proofs.alert_rules import FACTOR, of_minutes
from proofs.alert_scene import Scene, scene
from proofs.fleet import clean_up_when_told

# How long an alert may take to fire and to end; most take 5 to 30 seconds.
PATIENCE: Final = 150.0


@dataclass
class Report:
    """Seconds from the cause to the alert, and from its mending to the end of the alert; `failed` says what did not come."""

    fired: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def proved() -> set[str]:
    """Every alert that has a cause here."""
    return {alert for cases in ROUNDS for one in cases for alert in one.alerts}


def play(stage: Scene, cause: Cause, cases: Sequence[Case], report: Report) -> None:
    """Make one cause, see all of its alerts fire, mend it, and see them end."""
    wanted = [(alert, one.labels) for one in cases for alert in one.alerts]
    early = [alert for alert, labels in wanted if stage.seen.fires(alert, labels)]
    if early:
        report.failed.append(f"{', '.join(early)} fired before its cause ({_name(cause)})")
        return
    began = time.monotonic()
    try:
        with cause(stage):
            missing = _watch(stage, wanted, report.fired, began, fires=True)
    except Exception as problem:
        # Whatever it is: the other causes are played all the same, and the report has it.
        report.failed.append(f"{_name(cause)}: {type(problem).__name__}: {problem}")
        return
    report.failed += [f"{alert} did not fire for {_name(cause)}" for alert in missing]
    left = _watch(stage, [one for one in wanted if one[0] not in missing], report.ended, time.monotonic(), fires=False)
    report.failed += [f"{alert} did not end after {_name(cause)}" for alert in left]


def _watch(
    stage: Scene, wanted: Iterable[tuple[str, Mapping[str, str]]], times: dict[str, float], began: float, *, fires: bool
) -> list[str]:
    """Wait until all of them fire (or none does any more); those that did not within PATIENCE."""
    waiting = list(wanted)
    while waiting and time.monotonic() - began < PATIENCE:
        time.sleep(0.2)
        for alert, labels in list(waiting):
            if stage.seen.fires(alert, labels) == fires:
                waiting.remove((alert, labels))
                times[alert] = round(time.monotonic() - began, 1)
                _say(f"{alert} {'fires' if fires else 'has ended'} after {times[alert]} s")
    return [alert for alert, _ in waiting]


def run(stage: Scene, rounds: Sequence[Sequence[Case]], report: Report) -> None:
    for cases in rounds:
        by_cause: dict[Cause, list[Case]] = {}
        for one in cases:
            by_cause.setdefault(one.cause, []).append(one)
        players = [threading.Thread(target=play, args=(stage, cause, found, report)) for cause, found in by_cause.items()]
        for player in players:
            player.start()
        for player in players:
            player.join()


def chosen(only: Iterable[str]) -> list[list[Case]]:
    """The rounds, or what of them these alerts need."""
    names = set(only)
    if not names:
        return [list(cases) for cases in ROUNDS]
    found = [[one for one in cases if names & set(one.alerts)] for cases in ROUNDS]
    return [cases for cases in found if cases]


def prove(only: Iterable[str] = (), factor: int = FACTOR) -> dict[str, Any]:
    """Play everything, or the causes of these alerts; what came of it, for the JSON line."""
    began, report, rounds = time.monotonic(), Report(), chosen(only)
    with ExitStack() as stack:
        stage = stack.enter_context(scene(factor))
        started = time.monotonic()
        run(stage, rounds, report)
        over = time.monotonic()
    return {
        "proof": "alerts",
        "ok": not report.failed and bool(report.fired),
        "alerts": len({alert for cases in rounds for one in cases for alert in one.alerts}),
        "of_minutes": len(of_minutes()),
        "fired": len(report.fired),
        "ended": len(report.ended),
        "factor": factor,
        "looks": stage.seen.looks,
        "seconds": round(over - started, 1),
        "with_start": round(time.monotonic() - began, 1),
        "failed": report.failed,
        "fired_after": dict(sorted(report.fired.items())),
        "ended_after": dict(sorted(report.ended.items())),
    }


def _name(cause: Cause) -> str:
    return getattr(cause, "__name__", repr(cause))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.alerts", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="alerts, comma-separated: their causes alone")
    parser.add_argument("--factor", type=int, default=FACTOR, help="how many times shorter all times are")
    args = parser.parse_args(words)
    clean_up_when_told()
    found = prove([name for name in args.only.split(",") if name], args.factor)
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
