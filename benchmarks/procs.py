"""What the kernel says about a process and everything it started: CPU time and resident memory, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> Iterator[int]:
    """The process and its living descendants; nothing when it is gone."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    yield pid
    for thread in threads:
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ["0"] * 50
    return text.rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of the family, ended children that were waited for included; steps of one clock tick (10 ms)."""
    ticks = 0
    for member in family(pid):
        fields = _stat(member)
        ticks += sum(int(fields[n]) for n in (11, 12, 13, 14))
    return ticks / TICK


def resident_mb(pid: int) -> float:
    """Resident memory of the family in MB (10^6 bytes); pages that two processes share count twice."""
    return sum(int(_stat(member)[21]) for member in family(pid)) * PAGE / 1e6
