"""Helm and the schemas of Kubernetes for the tests: runs in the environment of `make checks`, a JSON line in for each JSON line out.

Helm's own library renders, lints and packages; no cluster is asked. Objects are compared with the schemas that kubernetes-validate ships,
in their strict form, which refuses unknown fields.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from helm_python import Chart
from helm_python.chart import lint, package
from helm_python.errors import HelmError
from referencing import Registry, Resource

FIRST = r"\g<1>-"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


@cache
def registry(version: str) -> tuple[Path, Any]:
    folder = next(SCHEMAS.glob(f"v{version}*-local-strict"))
    definitions = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return folder, definitions @ Registry()


@cache
def validator(kind: str, api: str, version: str) -> Any:
    """The validator of a kind; None where no schema is known, as for objects of operators."""
    folder, known = registry(version)
    # rbac.authorization.k8s.io/v1 is in rbac-v1.
    file = folder / f"{kind.lower()}-{re.sub('^([^./]*)([.][^/]*)?/', FIRST, api)}.json"
    if not file.exists():
        return None
    schema = json.loads(file.read_text())
    return jsonschema.validators.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ known)


def validated(objects: list[dict[str, Any]], versions: list[str]) -> dict[str, list[str]]:
    problems, unknown = [], set()
    for version in versions:
        for found in objects:
            checker = validator(found["kind"], found["apiVersion"], version)
            if checker is None:
                unknown.add(found["kind"])
                continue
            for error in checker.iter_errors(found):
                problems.append(f"{version} {found['kind']} {found['metadata']['name']}: {error.json_path}: {error.message}"[:500])
    return {"problems": problems, "unknown": sorted(unknown)}


def answer(chart: Chart, path: str, asked: dict[str, Any]) -> Any:
    match asked["do"]:
        case "render":
            return {"files": chart.render(values=asked["values"], name=asked["name"], namespace="faregate-test")}
        case "schema":
            chart.validate_schema(asked["values"])
            return {}
        case "lint":
            return lint(path, values=asked["values"], strict=True)
        case "package":
            return {"archive": package(path, destination=asked["to"])}
        case _:
            return validated(asked["objects"], asked["versions"])


def main(path: str) -> None:
    with Chart.load(path) as chart:
        for line in sys.stdin:
            try:
                said = answer(chart, path, json.loads(line))
            except HelmError as error:
                said = {"error": type(error).__name__, "message": str(error)}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
