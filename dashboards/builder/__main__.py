"""`python -m dashboards.builder`: write the five dashboards, or with --check say which file is not what it would be."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dashboards.builder import budgets, hosts, ledger, spend, traffic
from dashboards.builder.model import Json, dashboard

FOLDER: Final = Path(__file__).resolve().parent.parent
PAGES: Final = {"spend": spend, "budgets": budgets, "traffic": traffic, "hosts": hosts, "ledger": ledger}
DOCS: Final = FOLDER.parent / "docs" / "dashboards.md"
MARKED: Final = (spend.UID, hosts.UID)


def built(docs: str = "") -> dict[str, Json]:
    """The five dashboards by the names of their files without the ending; `docs`: where the docs are on the web."""
    titles = {page.UID: page.TITLE for page in PAGES.values()}
    return {
        name: dashboard(
            page.UID, page.TITLE, page.DESCRIPTION, titles, page.panels(), page=page.PAGE, docs=docs,
            annotations=[spend.windows()] if page.UID in MARKED else [],
        )
        for name, page in PAGES.items()
    }  # fmt: skip


def texts(docs: str = "") -> dict[str, str]:
    """The text of every file that is written, by its name."""
    return {f"{name}.json": json.dumps(board, indent=2, ensure_ascii=False) + "\n" for name, board in built(docs).items()}


def described(page: str) -> str:
    """The docs of the dashboards with their tables of panels as the panels say it of themselves."""
    for name, board in built().items():
        told = [f"| {panel['title']} | {panel['description']} |" for panel in board["panels"] if panel["type"] not in ("row", "text")]
        marks = f"<!-- panels of {name}: made by `make dashboards` -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(marks[0])
        _, _, after = rest.partition(marks[1])
        page = before + "\n".join([marks[0], "| panel | what it tells |", "|---|---|", *told, marks[1]]) + after
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboards.builder", description="Writes the five dashboards for Grafana as JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a file is not what it would be")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write to (default: dashboards)")
    parser.add_argument("--docs", default="", metavar="URL", help="where docs/ is on your network: dashboards link to it")
    options = parser.parse_args(arguments)
    written = {options.out / name: text for name, text in texts(options.docs.rstrip("/")).items()}
    if options.out == FOLDER:
        written[DOCS] = described(DOCS.read_text())
    for path, text in written.items():
        if not options.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.name} is not what its builder writes: make dashboards", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
