"""Opening a file of SQLite that another process may be making just now, so that a power cut does not take it away."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import apsw

_PAUSE_SECONDS: Final = 0.005


def private_file(path: Path) -> None:
    """The file is there; where it was not, only its owner can read it, and SQLite's files beside it are as closed as it is."""
    # A file that is there is not opened: by POSIX's rules, closing it would end the locks of every connection that this process has to
    # it, so that the next process to leave would take itself for the last one, and remove the log that this one still writes.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def keep_a_log(db: apsw.Connection, patience: float) -> None:
    """The file is in WAL mode; apsw.BusyError after `patience` seconds.

    SQLite does not wait where two processes turn one new file to WAL at once, so this does.
    """
    until = monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except apsw.BusyError:
            if monotonic() > until:
                raise
            sleep(_PAUSE_SECONDS)


def sync_folder(folder: Path) -> None:
    """After it, a power cut does not take away files that were made in the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
