"""The families of metrics: names that Prometheus's rules allow, and one table of them in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.families import FAMILIES


def test_the_documented_table_is_the_code() -> None:
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    documented = [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows]
    assert documented == [(family.name, family.kind, family.labels) for family in FAMILIES]


def test_a_name_says_what_it_is() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("faregate_") and family.help.endswith(".")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.buckets) == (family.kind == "histogram")
