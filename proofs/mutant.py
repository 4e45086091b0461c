"""A gateway with one planted fault, for the proof of the proof: python -m proofs.mutant NAME serve."""

from __future__ import annotations

import sys

from gateway.cli import main
from proofs.mutations import MUTATIONS, Soil

if __name__ == "__main__":
    MUTATIONS[sys.argv[1]].plant(Soil())
    sys.exit(main(sys.argv[2:]))
