"""A key that lives in a file and may change there: mounted secrets, tokens that expire and are renewed by others."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.errors import UpstreamError

PREFIX = "file:"


def plain(text: str) -> str:
    """A key as it can stand in a header; a file's last line break is taken off. Raises ValueError for what is no key."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("holds a character that no key has (a space or line break?)")
    return key


class KeyFile:
    """The key in a file, read again whenever the file changes, so that renewing it needs no restart. Neither repr nor errors show it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._key = ""

    def __repr__(self) -> str:
        return f"KeyFile({str(self._path)!r})"

    def read(self) -> str:
        """The key as it is now; a look at the file's date each time. Raises UpstreamError, with nothing sent, where there is none."""
        try:
            found = os.stat(self._path)
            mark = (found.st_mtime_ns, found.st_ino, found.st_size)
            if mark != self._mark:
                self._key, self._mark = plain(self._path.read_text("ascii")), mark
        except (OSError, ValueError):
            raise UpstreamError("The file with the host's key cannot be read; the operator must mend it.", dispatched=False) from None
        return self._key
