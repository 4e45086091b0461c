"""A program whose disk flushes are counted: `python -m benchmarks.flushes FILE serve` is `faregate serve` with a count in FILE.

Counted is each fsync and fdatasync that the program asks for itself. Those that SQLite makes on its own, when it copies its log
into the file, are not in it; `traced` counts all, from outside, where strace is installed.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ATTACH_WITHIN = 5.0


def counted(file: Path) -> int:
    """How many flushes there have been by now."""
    return int.from_bytes(file.read_bytes()[:8], "little")


def count_in(file: Path) -> None:
    """From now on every flush of this process is counted; call it before what flushes is imported."""
    file.write_bytes(bytes(8))
    with file.open("r+b") as opened:
        shown = mmap.mmap(opened.fileno(), 8)
    lock = threading.Lock()

    def counting(flush: Callable[[int], None]) -> Callable[[int], None]:
        def flushed(descriptor: int) -> None:
            with lock:
                shown[:] = (int.from_bytes(shown[:], "little") + 1).to_bytes(8, "little")
            flush(descriptor)

        return flushed

    os.fsync, os.fdatasync = counting(os.fsync), counting(os.fdatasync)  # type: ignore[assignment]


@contextmanager
def traced(pid: int, folder: Path) -> Iterator[Callable[[], int]]:
    """Counts every flush of a process, whoever in it asks for it; raises RuntimeError where that cannot be.

    It slows the process down: it is for counting, not for timing.
    """
    program, seen = shutil.which("strace"), folder / "strace.txt"
    if program is None:
        raise RuntimeError("strace is not installed")
    argv = [program, "-f", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(seen), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tracer:
        timer = threading.Timer(ATTACH_WITHIN, tracer.terminate)
        timer.start()
        try:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            timer.cancel()
            if "attached" not in said:
                raise RuntimeError(f"strace cannot look into the process: {said.strip()}")
            yield lambda: sum("sync(" in line for line in seen.read_text().splitlines())
        finally:
            timer.cancel()
            tracer.terminate()


def main() -> int:
    count_in(Path(sys.argv.pop(1)))
    # Only now: names of the counted functions are taken as defaults when the package is imported.
    from gateway.cli import main as faregate

    return faregate()


if __name__ == "__main__":
    sys.exit(main())
