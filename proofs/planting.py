"""`make prove-mutations`: the proofs are tried on faults; each fault must turn one of them red.

    python -m proofs.planting [--seeds 300] [--only NAME] [--kill-seconds 12 | --no-kill]

Every fault of `proofs.mutations` is played by the simulation. Those that a killed gateway could show are also planted into three real
gateways on SQLite, under the load of `prove-kill`. Prints one JSON line; fails when a fault survives, or when a proof is red without one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from proofs import kill
from proofs.fleet import clean_up_when_told
from proofs.mutations import MUTATIONS, SOUND, planted
from proofs.simulate import simulate

SEEDS: Final = 300
KILL_SECONDS: Final = 12.0


def simulated(name: str, seeds: int) -> dict[str, Any]:
    """How many histories see the fault, and what the first says of it."""
    with planted(name):
        failed = simulate(range(seeds)).failed
    first = next(iter(failed.items()), None)
    return {"red": bool(failed), "seeds": len(failed), "first": None if first is None else f"seed {first[0]}: {first[1][0]}"}


def killed(name: str, seconds: float) -> dict[str, Any]:
    """Whether the proof with real processes sees it, and what it says."""
    try:
        problems = kill.prove(seconds, "sqlite", mutation=name).problems
    except AssertionError as problem:  # a gateway that does not even start with it
        problems = [str(problem).splitlines()[0]]
    return {"red": bool(problems), "first": problems[0] if problems else None}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="prove-mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="histories of the simulation for each fault")
    parser.add_argument("--only", choices=MUTATIONS, help="this fault alone")
    parser.add_argument("--kill-seconds", type=float, default=KILL_SECONDS)
    parser.add_argument("--no-kill", action="store_true", help="the simulation alone")
    options = parser.parse_args(argv)
    clean_up_when_told()
    began = time.monotonic()
    sound = not simulate(range(options.seeds)).failed and (options.no_kill or not killed(SOUND, options.kill_seconds)["red"])
    found: dict[str, dict[str, Any]] = {}
    for name in [options.only] if options.only else MUTATIONS:
        found[name] = {"simulate": simulated(name, options.seeds)}
        if MUTATIONS[name].kill and not options.no_kill:
            found[name]["kill"] = killed(name, options.kill_seconds)
        print(f"mutations: {name}: {found[name]}", file=sys.stderr, flush=True)
    survived = [name for name, proofs in found.items() if not all(proof["red"] for proof in proofs.values())]
    ok = sound and not survived
    figures = {"planted": len(found), "survived": survived, "sound_without": sound, "red": found}
    print(json.dumps({"proof": "mutations", "ok": ok, **figures, "seconds": round(time.monotonic() - began, 1)}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
