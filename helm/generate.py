"""What the chart holds that is made from something else: the table of its values, and copies of the dashboards and rules.

    python helm/generate.py           # `make chart`; `make dashboards` before it

Helm reads no file outside a chart's folder, so dashboards/ and its rules are copied into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "faregate"
COPIES = {"dashboards/*.json": "files/dashboards", "dashboards/rules/*.yaml": "files/rules"}
BEGIN, END = "<!-- values: made by `make chart` -->", "<!-- end of values -->"
KEY = re.compile(r"^( *)([A-Za-z]\w*):( |$)")


def described(text: str) -> dict[str, str]:
    """Dotted path of a value -> what its comment (`# -- …`) says; the comment stands right above the key."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            said = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and said:
            said.append(stripped.removeprefix("#").strip())
        elif match := KEY.match(line):
            path = [*(step for step in path if step[0] < len(match[1])), (len(match[1]), match[2])]
            if said:
                found[".".join(name for _, name in path)] = " ".join(said)
            said = []
    return found


def leaves(values: Mapping[str, Any], known: Mapping[str, str], above: str = "") -> Iterator[tuple[str, Any]]:
    """(path, default) of what a user sets: each value that has a description, and each below it that none above it describes."""
    for name, value in values.items():
        path = f"{above}{name}"
        if path in known or not isinstance(value, dict) or not value:
            yield path, value
        else:
            yield from leaves(value, known, path + ".")


def table() -> str:
    """The values as a table in Markdown; raises KeyError for a value that has no description."""
    text = (CHART / "values.yaml").read_text()
    known, values = described(text), yaml.safe_load(text)
    rows = [f"| `{path}` | `{json.dumps(value)}` | {known[path]} |" for path, value in leaves(values, known)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])


def readme() -> str:
    """README.md with the table as it is now."""
    text = (CHART / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def copies() -> dict[Path, str]:
    """File inside the chart -> what it must hold."""
    return {CHART / folder / file.name: file.read_text() for pattern, folder in COPIES.items() for file in sorted(ROOT.glob(pattern))}


def surplus() -> list[Path]:
    """Files in the chart's folders of copies that are a copy of nothing."""
    wanted = copies()
    return [file for folder in COPIES.values() for file in sorted((CHART / folder).glob("*")) if file not in wanted]


def main() -> None:
    for file, text in copies().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for file in surplus():
        file.unlink()
    text = readme()
    (CHART / "README.md").write_text(text)


if __name__ == "__main__":
    main()
